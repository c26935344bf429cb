"""mrg-grpo probe against one study at a time, cut off and gone on with, on ranks; data.keep chooses by its file."""

import json
import statistics
from pathlib import Path

import pytest
import torch
from many import on_ranks

from mrg_grpo.cli import main
from mrg_grpo.config import Config, load_config
from mrg_grpo.data.keep import conditions, read_probe
from mrg_grpo.data.load import read_splits
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation import decode
from mrg_grpo.grpo import Grpo
from mrg_grpo.labelers import embedded_labeler
from mrg_grpo.model.policy import Policy
from mrg_grpo.probe import run_probe
from mrg_grpo.rewards import Rewards
from mrg_grpo.step_metrics import PhaseTimer

SHARE = 10 / 8000
SETTINGS = ["grpo.group_size=4", "grpo.studies_per_step=4", "sampling.max_tokens=60"]


def settings(folder, *more):
    return load_config("experiments/phantom.toml", [f"run.output_dir={folder}/run", *SETTINGS, *more])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent.parent)
        run_probe(settings(folder), SHARE)
    return folder / "run-probe.jsonl"


def test_mean_and_spread_are_those_of_each_study_alone(probed):
    made, *rows = lines(probed)
    assert made["probe"]["grpo.group_size"] == 4 and len({row["study_id"] for row in rows}) == len(rows) == 10
    config = load_config(None, SETTINGS)
    policy = Policy.load(config, trainable=False)
    grpo = Grpo(config, policy, Rewards(config.reward, embedded_labeler()))
    by_id = {study.id: study for study in read_splits(config)["train"]}
    for row in rows:
        with torch.no_grad():
            table = grpo.sample(policy.encoder.encode([by_id[row["study_id"]]]), 0, PhaseTimer(policy.device)).table
        for name, column in {"reward": table.total, **table.terms}.items():
            assert row["mean"][name] == pytest.approx(statistics.mean(column.tolist()), abs=1e-5)
            assert row["spread"][name] == pytest.approx(statistics.stdev(column.tolist()), abs=1e-5)
    assert len({row["spread"]["reward"] for row in rows}) > 3


def test_a_probe_that_was_cut_off_goes_on(probed, tmp_path, at_the_project_root, capsys):
    whole = probed.read_text()
    path = tmp_path / "cut.jsonl"
    for cut in (len(whole) // 2, whole.index("\n") + 1, whole.index("\n") - 9):  # in a line, behind the head, in it
        path.write_text(whole[:cut])
        run_probe(settings(tmp_path), SHARE, str(path))
        assert read_probe(path) == read_probe(probed)
    before = path.stat().st_mtime_ns
    run_probe(settings(tmp_path), SHARE, str(path))  # nothing is left to do
    assert path.stat().st_mtime_ns == before
    assert "spread > 0.05" in capsys.readouterr().out


def test_without_a_terminal_a_line_says_how_far_it_is(tmp_path, at_the_project_root, monkeypatch, capsys):
    monkeypatch.setattr(decode, "PLAIN_SECONDS", 0.0)
    run_probe(settings(tmp_path), SHARE)
    assert "probe: 4/10" in capsys.readouterr().err


def test_two_ranks_write_what_one_does(probed, tmp_path, at_the_project_root):
    path = tmp_path / "ranks.jsonl"
    on_ranks(2, tmp_path, run_probe, settings(tmp_path), SHARE, str(path))
    one, many = read_probe(probed)[1], read_probe(path)[1]
    assert list(one) == list(many)
    for study, figures in one.items():
        for kind in ("mean", "spread"):
            assert many[study][kind] == pytest.approx(figures[kind], abs=1e-4)


def test_a_file_of_another_probe_is_not_mixed_with_this_one(probed, tmp_path, at_the_project_root):
    with pytest.raises(UserError, match=r"other settings of .*temperature; name another"):
        run_probe(settings(tmp_path, "sampling.temperature=0.7", "reward.mccs.margin=0.2"), SHARE, str(probed))
    with pytest.raises(UserError, match="--share"):
        run_probe(settings(tmp_path), 1.5)
    bad = tmp_path / "bad.jsonl"
    bad.write_text("hello\n")
    with pytest.raises(UserError, match="no whole file of a probe"):
        run_probe(settings(tmp_path), SHARE, str(bad))
    assert bad.read_text() == "hello\n"


def test_keep_trains_on_the_studies_that_fit(probed):
    rows = lines(probed)[1:]
    limit = statistics.median(row["spread"]["mccs"] for row in rows)
    config = Config()
    config.data.probe, config.data.keep = str(probed), f"spread.mccs > {limit:.6f} and mean <= 1"
    splits = read_splits(config)
    want = {row["study_id"] for row in rows if row["spread"]["mccs"] > limit}
    assert {study.id for study in splits["train"]} == want and 0 < len(want) < len(rows)
    assert len(splits["test"]) == 1000 and any(f"{len(want)} of 10 probed" in note for note in splits.notes)
    assert any("made with other settings" in note for note in splits.notes)  # group_size is 8 here


@pytest.mark.parametrize(
    ("keep", "probe", "said"),
    [
        ("spread", None, "'spread' is no condition"),
        ("spread > x", None, "is no condition"),
        ("spread > 0.1 or mean > 0", None, "is no condition"),
        ("spread.bleu > 0", None, "no term 'bleu'; it has reward, mccs, format"),
        ("spread > 9", None, "none of 8,000 training studies fits, of which"),
        ("spread > 0", "nowhere.jsonl", "nowhere.jsonl is not there; make it by mrg-grpo probe"),
    ],
)
def test_a_rule_that_chooses_nothing_is_one_line(probed, keep, probe, said):
    config = Config()
    config.data.probe, config.data.keep = probe or str(probed), keep
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        read_splits(config)


def test_conditions_are_read_as_they_are_written():
    first, second = conditions("spread.a.b:c >= .5 and mean < 1e-3")
    assert (first.figure, first.term, first.sign, first.limit) == ("spread", "a.b:c", ">=", 0.5)
    assert (second.term, second.limit) == ("reward", 1e-3)
    unmeasured = {"mean": {"reward": None}, "spread": {"reward": 0.2}}
    assert not second.holds(unmeasured) and conditions("spread > 0.1")[0].holds(unmeasured)
    assert not conditions("spread > 0.2")[0].holds(unmeasured) and conditions("spread >= 0.2")[0].holds(unmeasured)


def test_a_run_on_kept_studies_goes_on_with_the_same(probed, tmp_path, at_the_project_root, capsys):
    own = tmp_path / "own.jsonl"
    own.write_text(probed.read_text())
    common = [f"--set={one}" for one in (
        f"run.output_dir={tmp_path}/run", *SETTINGS, "run.steps=2", "run.eval_every=0", "run.test_studies=4",
        f"data.probe={own}", "data.keep=spread.mccs > 0", "grpo.resample_flat=1",
    )]  # fmt: skip
    assert main(["train", "experiments/phantom.toml", *common]) == 0
    assert "of 10 probed" in capsys.readouterr().out
    known = {row["study_id"] for row in lines(own)[1:]}
    rollouts = lines(tmp_path / "run" / "rollouts.jsonl")
    assert {row["study_id"] for row in rollouts} <= known
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert all(row["sampled"] >= 16 and "replaced" in row for row in metrics)
    head, *rows = own.read_text().splitlines()
    own.write_text("\n".join([head, *rows[:-3]]) + "\n")
    assert main(["train", f"{tmp_path}/run", "--set=run.steps=3", "--resume"]) == 2
    assert "changed since the run began" in capsys.readouterr().err
