"""Trackers of a real run: what TensorBoard, wandb off line and Trackio hold of it, and that none of them can end it."""

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from command import command_line, in_a_child, run

from mrg_grpo.config import Config, check, load_config
from mrg_grpo.data.credentialed import BANNER
from mrg_grpo.errors import UserError
from mrg_grpo.run import trackers
from mrg_grpo.run.folder import MAY_CHANGE
from mrg_grpo.run.trackers import Trackers, last_step, trackers_of
from mrg_grpo.toml import to_toml

SMALL = [
    "run.test_studies=3", "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=48", "run.eval_every=1",
    "run.eval_studies=2", "run.follow_studies=0", "run.save_every=1", "run.rollouts_every=1", "grpo.decay=false",
]  # fmt: skip
STATED = {"completion": "<report>Small right effusion.</report>", "rewards": {"mccs": 0.5, "format": None}}
GROUP = {"study_id": 7, "reference": "A small effusion.", "samples": [{**STATED, "reward": 0.4, "advantage": -1.0}]}
NUMBERS = {"value": 0.5, "low": 0.4, "high": 0.6}
ROW = {"before": NUMBERS, "after": NUMBERS | {"value": 0.75}, "difference": NUMBERS}
NO_ROW = {side: dict.fromkeys(NUMBERS) for side in ROW}
METRICS = {"clinical_cosine": ROW, "think_report_agreement": NO_ROW}
EVALUATION = {"sides": {"test split": {"studies": 9, "metrics": METRICS}}}


@pytest.fixture(autouse=True)
def few_phantoms(monkeypatch):
    monkeypatch.setattr("mrg_grpo.data.phantom.dataset.SIZES", {"train": 64, "val": 8, "test": 8})


def settings(folder, steps, *names):
    return [*SMALL, f"run.output_dir={folder}", f"run.steps={steps}", f"run.report_to={json.dumps(names)}"]


def child(command, given, request, *more):
    """In a process of its own, since wandb keeps what it has once read."""
    name, config, *others = command_line(command, given, *more)
    words = ["mrg-grpo", name, str(request.config.rootpath / config), *others]
    return in_a_child(shlex.join(words), request.config.rootpath)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Recorder:
    """A tracker that remembers what it was given; it fails when its time has come."""

    def __init__(self, config=None, folder=None, resumed=False, fails=None):
        self.seen, self.fails = [], fails

    def __getattr__(self, name):
        def call(*arguments):
            if name == self.fails:
                raise ConnectionError("the network is gone\nfor good")
            self.seen.append((name, *arguments))

        return call

    def named(self, name):
        return [arguments for kind, *arguments in self.seen if kind == name]


@pytest.fixture
def recorded(monkeypatch):
    """Trackers of a configuration, of which "wandb" is a Recorder, and that."""

    def begin(folder, fails=None, **run_settings):
        config, made = Config(), Recorder(fails=fails)
        config.run.report_to, config.run.output_dir = ["wandb"], str(folder)
        for name, value in run_settings.items():
            setattr(config.run, name, value)
        monkeypatch.setitem(trackers.KINDS, "wandb", lambda *_: made)
        return Trackers(config, folder, resumed=False), made

    return begin


# ---- what is sent


def test_names_are_those_of_transformers_and_trl(recorded, tmp_path):
    sent, seen = recorded(tmp_path)
    sent.begin(0)
    sent.scalars("train", {"reward/mccs": 0.5, "kl": float("nan")}, 1)
    sent.scalars("eval", {"clinical_cosine": 0.7}, 1)
    sent.reports(1, [GROUP])
    sent.final(2, EVALUATION | {"best": {"step": 1, "metric": "clinical_cosine", **EVALUATION}})
    assert seen.named("scalars") == [
        [{"train/reward/mccs": 0.5}, 1], [{"eval/clinical_cosine": 0.7}, 1], [{"test/clinical_cosine": 0.75}, 2],
    ]  # fmt: skip
    (name, columns, rows, step), (last, heads, numbers, _) = seen.named("table")
    assert (name, step) == ("completions", 1)
    assert dict(zip(columns, rows[0])) == {
        "step": 1, "study_id": "7", "reference": "A small effusion.", "completion": STATED["completion"],
        "mccs": 0.5, "format": None, "reward": 0.4, "advantage": -1.0,
    }  # fmt: skip
    assert last == "before_after" and [row[:3] for row in numbers] == [
        [adapter, "test split", metric]
        for adapter in ("last", "best") for metric in ("clinical_cosine", "think_report_agreement")
    ]  # fmt: skip
    assert dict(zip(heads, numbers[0]))["after value"] == 0.75


@pytest.mark.parametrize("change", ["keep_text", "credentialed"])
def test_reports_of_protected_data_are_sent_nowhere(recorded, tmp_path, monkeypatch, change):
    if change == "credentialed":
        monkeypatch.setattr(trackers, "banner", lambda config: {"credentialed": BANNER})
    sent, seen = recorded(tmp_path, keep_text=change != "keep_text")
    sent.reports(1, [GROUP])
    sent.scalars("train", {"reward": 1.0}, 1)
    assert not seen.named("table") and seen.named("scalars")


def test_what_an_earlier_process_has_sent_is_not_sent_again(recorded, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')  # killed in the third step
    sent, seen = recorded(tmp_path)
    sent.begin(1)
    for step in (2, 3):
        sent.scalars("train", {"reward": 1.0}, step)
    assert seen.named("scalars") == [[{"train/reward": 1.0}, 3]]
    assert last_step(tmp_path / "none.jsonl") == 0


# ---- what fails


def test_one_that_fails_later_is_warned_of_once_and_ends_nothing(recorded, tmp_path, capsys):
    sent, seen = recorded(tmp_path, fails="scalars")
    with sent:
        for step in (1, 2, 3):
            sent.scalars("train", {"reward": 1.0}, step)
            sent.reports(step, [GROUP])
    said = capsys.readouterr().err
    assert said == "run.report_to: wandb failed and gets no more of this run (the network is gone)\n"
    assert not seen.seen


def test_one_that_cannot_start_is_one_line_before_anything_is_loaded(tmp_path, monkeypatch, capsys, request):
    """Really: no key, no network; and one whose package is not there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    done = child("train", settings(tmp_path / "run", 1, "wandb"), request)
    assert done.returncode == 2 and "policy:" not in done.stdout
    line = done.stderr.strip().splitlines()[-1]
    assert "run.report_to: wandb cannot start" in line and "mend that, or take it out" in line
    assert not (tmp_path / "run" / "config.toml").exists()
    assert run("train", settings(tmp_path / "run", 1, "tensorboard")) == 0  # nothing was left that is in the way

    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    assert run("train", settings(tmp_path / "other", 1, "trackio")) == 2
    assert "pip install 'mrg_grpo[trackio]'" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "given, expected",
    [
        ('run.report_to=["wandb", "tensorboard"]', ["wandb", "tensorboard"]),
        ("run.report_to=tensorboard", ["tensorboard"]),
        ("run.report_to=none", []),
        ("run.report_to=all", [name for name in trackers.KINDS if trackers.importlib.util.find_spec(name)]),
        ("run.report_to=[]", []),
    ],
)  # fmt: skip
def test_names_as_transformers_takes_them(given, expected):
    assert trackers_of(load_config(None, [given])) == expected
    assert "run.report_to" in MAY_CHANGE


def test_other_names_are_refused_and_old_runs_are_read(tmp_path):
    with pytest.raises(UserError, match=r"run\.report_to: 'mlflow' is not one of tensorboard, trackio, wandb"):
        load_config(None, ["run.report_to=mlflow"])
    new = to_toml(check(Config()))
    for value, expected in (("true", ["tensorboard"]), ("false", [])):
        old = tmp_path / "old.toml"
        old.write_text(new.replace("report_to = []", f"tensorboard = {value}"))
        assert load_config(old).run.report_to == expected


# ---- the real ones


def test_tensorboard_holds_every_number_and_the_tables(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    assert run("train", settings(folder, 2, "tensorboard")) == 0
    shutil.rmtree(folder / "checkpoints" / "step-000002")  # as a kill before it: step 2 is taken again
    assert run("train", settings(folder, 3, "tensorboard"), "--resume") == 0
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    metrics = lines(folder / "metrics.jsonl")
    for name in ("reward", "reward/mccs", "kl", "seconds/step"):
        found = {event.step: event.value for event in events.Scalars(f"train/{name}")}
        assert found == {line["step"]: pytest.approx(line[name], rel=1e-6) for line in metrics}
    assert len(events.Scalars("train/reward")) == 3
    validation = {line["step"]: line["clinical_cosine"] for line in lines(folder / "validation.jsonl")}
    assert {event.step: event.value for event in events.Scalars("eval/clinical_cosine")} == pytest.approx(validation)
    tags = {tag for tag in events.Tags()["tensors"]}
    assert {"args/text_summary", "completions/text_summary", "before_after/text_summary"} <= tags
    text = events.Tensors("completions/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.count("\n") == 5 and "| step | study_id |" in text  # head, line, two groups of two


def wandb_records(folder):
    """What wandb has written off line: record type -> records. Its files are LevelDB's log behind seven bytes: blocks
    of 32 kB, in which a checksum, a length and a kind (whole, first, middle, last) stand before each piece."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 < len(data):
            if 32768 - at % 32768 < 7:  # no room for a head
                at += 32768 - at % 32768
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
            if kind in (1, 4):
                record, whole = Record.FromString(whole), b""
                found.setdefault(record.WhichOneof("record_type"), []).append(record)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["true", "false"])
def test_wandb_off_line_gets_the_run_without_console_and_code(tmp_path, monkeypatch, keep, request):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    kept = f"run.keep_text={keep}"
    for steps, more in ((2, []), (3, ["--resume"])):
        done = child("train", [*settings(folder, steps, "wandb"), kept], request, *more)
        assert done.returncode == 0, done.stderr
        assert f"wandb: off line; to send it: wandb sync {folder}/wandb/offline-run-" in done.stdout
    found = wandb_records(folder)
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found["history"]
    ]
    rewards = {line["train/global_step"]: line["train/reward"] for line in history if "train/reward" in line}
    assert rewards == {line["step"]: pytest.approx(line["reward"]) for line in lines(folder / "metrics.jsonl")}
    assert [line["train/global_step"] for line in history if "eval/clinical_cosine" in line] == [1, 2, 3]
    tables = [line["completions/nrows"] for line in history if "completions/nrows" in line]
    assert tables == ([4, 4, 4] if keep == "true" else [])
    assert len([line for line in history if "before_after/nrows" in line]) == 2  # at the end of either process
    ids = {record.run.run_id for record in found["run"]}
    assert ids == {(folder / "wandb_run_id").read_text()}
    settings_ = {item.key: json.loads(item.value_json) for item in found["run"][0].run.config.update}
    assert settings_["grpo"]["group_size"] == 2
    assert "output_raw" not in found and "output" not in found
    names = {path.name for path in (folder / "wandb").rglob("*") if path.is_file()}
    assert not names & {"output.log", "diff.patch"} and not any(name.endswith(".py") for name in names)
    if keep == "false":
        words = b"".join(path.read_bytes() for path in (folder / "wandb").rglob("*") if path.is_file())
        assert b"<report>" not in words and b"</think>" not in words


TRACKIO = Path(".venv-trackio/bin/python")


@pytest.mark.slow
def test_trackio_gets_the_run_in_an_environment_of_its_own(tmp_path, request):
    """Its pillow is older than that of the other tests: `make .venv-trackio/.done`."""
    python = request.config.rootpath / TRACKIO
    if not python.exists():
        assert "MRG_REQUIRE_TRACKIO" not in os.environ, f"{TRACKIO} is missing: make .venv-trackio/.done"
        pytest.skip("no environment with Trackio: make .venv-trackio/.done")
    folder = tmp_path / "run"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACKIO")}
    environment |= {"PYTHONPATH": str(request.config.rootpath), "OMP_NUM_THREADS": "1"}
    for steps, more in ((2, []), (3, ["--resume"])):
        command = command_line("train", settings(folder, steps, "trackio"), *more)
        done = subprocess.run([python, "-m", "mrg_grpo", *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"trackio: TRACKIO_DIR={folder}/trackio trackio show --project mrg_grpo" in done.stdout
    with sqlite3.connect(folder / "trackio" / "mrg_grpo.db") as database:
        rows = database.execute("select run_id, step, metrics from metrics").fetchall()
        (config,) = database.execute("select config from configs").fetchone()
    stored = [(name, step, json.loads(text)) for name, step, text in rows]
    assert len({name for name, _, _ in stored}) == 1 and json.loads(config)["grpo"]["group_size"] == 2
    rewards = {step: values["train/reward"] for _, step, values in stored if "train/reward" in values}
    assert rewards == {line["step"]: pytest.approx(line["reward"]) for line in lines(folder / "metrics.jsonl")}
    assert [step for _, step, values in stored if "completions" in values] == [1, 2, 3]
    assert [step for _, step, values in stored if "before_after" in values] == [2, 3]
