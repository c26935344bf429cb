"""The best adapter by validation: which step it is, that a resumed run ends with the same one, and who says so."""

import json
import math
import shutil

import pytest
from command import run
from hypothesis import given
from hypothesis import strategies as st

from mrg_grpo import judging
from mrg_grpo import train as engine
from mrg_grpo.cli import main
from mrg_grpo.evaluation.clinical import metrics_from_sums, ranked_metric
from mrg_grpo.run.best import Best, Goal, best_of, steps_needed
from mrg_grpo.view.records import read_run

COSINE = Goal("clinical_cosine")
SMALL = [
    "run.test_studies=2", "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=16", "run.eval_every=1",
    "run.eval_studies=2", "run.follow_studies=1", "run.save_every=2", "grpo.decay=false",
    "run.keep_best=clinical_cosine",
]  # fmt: skip
CURVE = [0.3, 0.5, 0.4, 0.45, 0.5, 0.2, 0.6, 0.1]
"""Clinical cosine on validation after steps 1 to 8."""


def lines(values):
    return [{"step": step, "clinical_cosine": value} for step, value in enumerate(values, 1)]


# ---- which step


@pytest.mark.parametrize(
    "values, lower, expected",
    [
        ([0.3, 0.5, 0.4], False, Best(2, 0.5, 1)),
        ([0.3, 0.5, 0.5], False, Best(2, 0.5, 1)),  # of equal ones the first
        ([0.3, 0.5, 0.3], True, Best(1, 0.3, 2)),
        ([None, 0.2, None], False, Best(2, 0.2, 1)),
        ([None, None], False, None),
        ([], False, None),
        ([0.0, -0.1], False, Best(1, 0.0, 1)),
    ],
)
def test_the_best_of_a_curve(values, lower, expected):
    assert best_of(lines(values), Goal("clinical_cosine", lower)) == expected
    assert best_of(lines(values), Goal("")) is None


@given(st.lists(st.sampled_from([None, 0.1, 0.2, 0.3]), max_size=12), st.sets(st.integers(1, 12), max_size=3))
def test_what_is_kept_holds_the_best_as_of_every_checkpoint(values, checkpoints):
    needed = steps_needed(lines(values), COSINE, checkpoints)
    expected = set()
    for end in [*checkpoints, 99]:
        known = [(value, -step) for step, value in enumerate(values[:end], 1) if value is not None]
        expected |= {-max(known)[1]} if known else set()
    assert needed == expected


def test_names_of_metrics_and_their_directions():
    assert ranked_metric("micro_f1_13") == ranked_metric("f1_micro_13") == ("f1_micro_13_uncertain_positive", False)
    assert ranked_metric("omission_rate") == ("omission_rate", True)
    assert ranked_metric("recall_macro_14_uncertain_negative")[1] is False


@pytest.mark.parametrize(
    "settings, said",
    [
        (["run.keep_best=clinical_cosin"], 'did you mean "clinical_cosine"?'),
        (["run.keep_best=reward"], "'reward' is no metric of validation"),  # that of training chooses nothing
        (["run.keep_best=report_length"], "no value of report_length is better than another"),
        (["run.patience=3", "run.keep_best=''"], "needs run.keep_best and run.eval_every"),
        (["run.patience=3", "run.eval_every=0"], "needs run.keep_best and run.eval_every"),
        (["run.patience=-1"], "run.patience: -1 must not be negative"),
    ],
)
def test_what_cannot_choose_is_refused_before_anything_is_loaded(settings, said, tmp_path, capsys):
    assert run("train", [f"run.output_dir={tmp_path / 'run'}", *settings]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


# ---- runs


@pytest.fixture
def scripted(monkeypatch):
    """A folder -> the same folder; validation of a run in it finds CURVE from then on."""
    return lambda folder, curve=CURVE: with_curve(folder, monkeypatch, curve)


def with_curve(folder, patch, curve=CURVE):
    def values(sums):
        path = folder / "validation.jsonl"
        done = len(path.read_text().splitlines()) if path.exists() else 0
        return metrics_from_sums(sums) | {"clinical_cosine": curve[done]}

    patch.setattr(judging, "metrics_from_sums", values)
    patch.setattr("mrg_grpo.data.phantom.dataset.SIZES", {"train": 64, "val": 8, "test": 8})
    return folder


def train(folder, steps, *more, resume=False):
    settings = [*SMALL, f"run.output_dir={folder}", f"run.steps={steps}", *more]
    return run("train", settings, *(["--resume"] if resume else []))


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def left(folder):
    """What must not depend on where a run was interrupted."""
    evaluation = json.loads((folder / "evaluation.json").read_text())
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return [weights(folder / "adapter"), weights(folder / "best_adapter"), evaluation, names] + [
        (folder / name).read_text() for name in ("validation.jsonl", "predictions.jsonl", "predictions_best.jsonl")
    ]


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of six steps, for reading alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = with_curve(tmp_path_factory.mktemp("runs") / "whole", patch)
        assert train(folder, 6) == 0
    return folder


def test_the_best_is_kept_beside_the_last_and_both_are_judged(tmp_path, scripted, capsys):
    whole = scripted(tmp_path / "whole")
    assert train(whole, 6) == 0
    printed = capsys.readouterr().out
    assert "The last adapter, after step 6:" in printed
    assert "The best adapter, after step 2 (clinical_cosine 0.500 on validation):" in printed
    evaluation = json.loads((whole / "evaluation.json").read_text())
    assert evaluation["step"] == 6 and "stopped_early" not in evaluation
    assert evaluation["best"] | {"sides": 0, "conditions": 0} == {
        "step": 2, "metric": "clinical_cosine", "value": 0.5, "sides": 0, "conditions": 0,
    }  # fmt: skip
    assert weights(whole / "best_adapter") != weights(whole / "adapter")
    assert [json.loads(line)["step"] for line in (whole / "validation.jsonl").read_text().splitlines()] == [
        *range(1, 7)
    ]

    # an uninterrupted run of two steps ends with the same weights: the best is the policy as it was then
    assert train(tmp_path / "two", 2, "run.keep_best=''") == 0
    assert weights(tmp_path / "two" / "adapter") == weights(whole / "best_adapter")
    assert not (tmp_path / "two" / "best_adapter").exists()
    assert "best" not in json.loads((tmp_path / "two" / "evaluation.json").read_text())


@pytest.mark.slow
def test_evaluate_judges_the_last_one_or_the_best_and_says_which(whole, scripted, tmp_path, capsys):
    folder = scripted(tmp_path / "run")
    shutil.copytree(whole, folder)
    for flags, name, told in (
        ([], "evaluate-val", "adapter (the last, after step 6; --best takes that of step 2: clinical_cosine 0.500"),
        (["--best"], "evaluate-val-best", "best_adapter (the best, after step 2: clinical_cosine 0.500"),
    ):
        assert main(["evaluate", str(folder), "--split", "val", *flags]) == 0
        assert f"policy: {folder}/{told}" in capsys.readouterr().err
        assert (folder / name / "evaluation.json").exists()
    assert main(["evaluate", str(folder), "--best", "--base"]) == 2
    assert "--best is an adapter of the run" in capsys.readouterr().err
    shutil.rmtree(folder / "best_adapter")
    assert main(["evaluate", str(folder), "--best"]) == 2
    assert "best_adapter is not there" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment, step", [("validated", 2), ("validated", 5), ("kept", 2), ("kept", 3), ("checkpoint", 1), ("checkpoint", 2)]
)
def test_a_killed_run_ends_with_the_same_choice(whole, tmp_path, scripted, monkeypatch, moment, step):
    """After a validation was logged, its adapter kept, or a checkpoint written; then on from the last checkpoint."""
    folder = scripted(tmp_path / "cut")
    owner, name = {
        "validated": (judging.BestAdapter, "note"),
        "kept": (judging, "write_followed"),
        "checkpoint": (engine, "save_checkpoint"),
    }[moment]
    original, calls = getattr(owner, name), []

    def killed(*arguments):
        calls.append(0)
        if len(calls) == step and moment == "validated":
            raise KilledError
        original(*arguments)
        if len(calls) == step:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        try:
            train(folder, 6)
        except KilledError:
            assert train(folder, 6, resume=True) == 0
    assert left(folder) == left(whole)


def test_an_adapter_that_a_later_one_surpassed_is_there_after_going_back(whole, tmp_path, scripted):
    """The newest checkpoint is damaged, so the run goes on from an older one, as of which another was the best."""
    folder = scripted(tmp_path / "back", [0.3, 0.5, 0.4, 0.9])
    assert train(folder, 4) == 0
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["best-000002", "best-000004", "step-000002", "step-000004"]
    (folder / "checkpoints" / "step-000004" / "state.pt").write_bytes(b"")
    scripted(folder)
    assert train(folder, 6, resume=True) == 0
    assert left(folder) == left(whole)


def test_patience_stops_early_and_the_run_can_go_on(scripted, tmp_path, capsys):
    folder = scripted(tmp_path / "run")
    assert train(folder, 8, "run.patience=3") == 0
    assert (
        "stopped early: no better clinical_cosine on validation since step 2, 3 validations" in capsys.readouterr().out
    )
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert (evaluation["step"], evaluation["best"]["step"], evaluation["stopped_early"]) == (5, 2, True)
    assert (folder / "checkpoints" / "step-000005").is_dir() and read_run(folder).done

    assert train(folder, 8, "run.patience=3", resume=True) == 0  # nothing is left to do but the evaluation
    assert "to go on, set run.patience = 0" in capsys.readouterr().out
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 5

    assert train(folder, 8, "run.patience=0", resume=True) == 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert (evaluation["step"], evaluation["best"]["step"]) == (8, 7) and "stopped_early" not in evaluation


def test_a_run_of_an_earlier_version_has_no_adapter_of_its_best_step(whole, tmp_path, scripted, capsys):
    folder = scripted(tmp_path / "run")
    shutil.copytree(whole, folder)
    for path in (folder / "best_adapter", *(folder / "checkpoints").glob("best-*")):
        shutil.rmtree(path)
    assert train(folder, 6, resume=True) == 0
    assert "the best adapter on validation, of step 2, was not kept" in capsys.readouterr().out
    assert "best" not in json.loads((folder / "evaluation.json").read_text())
    assert not (folder / "best_adapter").exists()


def test_a_metric_that_is_nowhere_defined_chooses_nothing(scripted, tmp_path):
    folder = scripted(tmp_path / "run", [math.nan])
    assert train(folder, 1) == 0
    assert "best" not in json.loads((folder / "evaluation.json").read_text())
