"""What a run shows: on a terminal, in a log file, in TensorBoard; and that nothing is shown that may not be."""

import io
import sys

import pytest

from mrg_grpo.config import Config, check
from mrg_grpo.errors import UserError
from mrg_grpo.run import progress
from mrg_grpo.run.progress import Progress, Sample
from mrg_grpo.terminal import width

METRICS = {
    "reward": 0.5,
    "reward/mccs": 0.4,
    "reward/mccs_std": 0.1,
    "reward/my.module:f": 0.3,
    "kl": 0.01,
    "length": 44.0,
    "seconds/sample": 1.5,
    "seconds/step": 3.25,
}
SAMPLE = Sample("train-1", "<report>Heart\x1b[31m normal.</report>", "The heart is normal.", 0.75, -1.25)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, terminal, width=200, **settings):
    """Three steps of three; -> what went to standard output and error."""
    config = Config()
    config.run.steps = 3
    for name, value in settings.items():
        setattr(config.run, name, value)
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(
        progress.shutil, "get_terminal_size", lambda: type("", (), {"columns": width})
    )  # of terminal.py too
    monkeypatch.setenv("COLUMNS", str(width))
    with Progress(config) as display:
        for number in (1, 2, 3):
            display.step(number, METRICS, SAMPLE)
    return out.getvalue(), err.getvalue()


def test_a_terminal_shows_one_bar_and_a_report_every_k_steps(monkeypatch):
    out, bar = shown(monkeypatch, terminal=True, show_every=2)
    for part in ("3/3", "reward 0.5", "kl 0.01", "length 44", "sample 1.5s", "left"):
        assert part in bar, part
    assert out.count("step 2, train-1: reward 0.750, advantage -1.25") == 1 and "step 1," not in out
    assert "sampled   <report>Heart [31m normal." in out and "reference The heart is normal." in out
    assert "\x1b[31m" not in out  # a report cannot steer the terminal
    narrow = shown(monkeypatch, terminal=True, width=80)[1]
    assert "sample" not in narrow and "step 3.2s" in narrow and "length 44" in narrow
    assert max(len(line) for line in narrow.split("\r")) <= 80


@pytest.mark.parametrize("settings", [{"show_every": 0}, {"show_every": 1, "keep_text": False}])
def test_no_report_where_none_is_wanted_or_allowed(monkeypatch, settings):
    out, bar = shown(monkeypatch, terminal=True, **settings)
    assert "Heart" not in out + bar


def test_a_log_file_gets_plain_lines_with_the_time_left_and_every_term(monkeypatch):
    clock = iter([100.0, 110.0, 130.0])  # the begin, the first step, the last
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out, err = shown(monkeypatch, terminal=False, show_every=1)
    terms = "reward 0.5  mccs 0.4  my.module:f 0.3  kl 0.01  length 44  (sample 1.50s step 3.25s)"
    assert err == "" and out.splitlines() == [f"step 1/3  00:20 left  {terms}", f"step 3/3  {terms}"]


def test_the_time_left_of_a_resumed_run_is_that_of_its_own_steps(monkeypatch):
    config = Config()
    config.run.steps = 30
    display = Progress(config, start=20)
    monkeypatch.setattr(progress.time, "monotonic", lambda: display.began + 60)
    assert display.left(22) == "04:00 left" and display.left(30) == ""


def test_a_skipped_step_says_so(monkeypatch, capsys):
    display = Progress(Config())
    display.step(10, {"skipped": 1.0})
    assert capsys.readouterr().out.endswith("left  skipped\n")


@pytest.mark.parametrize("columns", [40, 50, 60, 80, 120, 200])
def test_bar_and_reports_fit_the_terminal_and_nothing_of_a_report_is_lost(monkeypatch, columns):
    report = "両肺野に浸潤影なし。" * 9 + " The heart is not enlarged. " * 4 + "x" * 130
    long = Sample("a-study-with-a-very-long-name-" * 2, report, "Cafe\u0301 " * 40, 0.75, -1.25)
    monkeypatch.setattr(sys.modules[__name__], "SAMPLE", long)
    out, bar = shown(monkeypatch, terminal=True, width=columns, show_every=1)
    lines = [line for text in (out, bar) for line in text.replace("\r", "\n").split("\n")]
    assert max(map(width, lines)) <= columns and max(map(width, out.split("\n"))) <= 100
    assert "".join(report.split()) in "".join(out.split())
    assert out.count("  sampled   ") == 3 and ("reward 0.5" in bar) == (columns >= 50)


def test_negative_intervals_are_refused():
    config = Config()
    config.run.show_every = -1
    with pytest.raises(UserError, match=r"run\.show_every"):
        check(config)
