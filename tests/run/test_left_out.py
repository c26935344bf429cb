"""A picture that cannot be read costs a run its study and nothing else, on resume as in a run that never stopped."""

import json
from pathlib import Path

import pytest
from command import command_line
from PIL import Image

from mrg_grpo.cli import main
from mrg_grpo.data import load_studies
from mrg_grpo.run.stream import StudyStream

SMALL = [
    "grpo.studies_per_step=2", "sft.batch_size=2", "grpo.group_size=2", "sampling.max_tokens=8", "run.eval_every=2",
    "run.save_every=1", "run.follow_studies=1", "data.form=iu_xray_r2gen", "grpo.decay=false", "run.rollouts_every=1",
]  # fmt: skip
TIMES = ("seconds", "memory")


@pytest.fixture
def root(tmp_path) -> Path:
    """Six training, two validation and three test studies."""
    tree: dict = {"train": [], "val": [], "test": []}
    (tmp_path / "data" / "images").mkdir(parents=True)
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for n in range(count):
            Image.effect_noise((40, 40), 60).save(tmp_path / "data" / "images" / f"{split}{n}.png")
            record = {"id": f"{split}{n}", "report": "No pneumothorax.", "image_path": [f"{split}{n}.png"]}
            tree[split].append({**record, "split": split})
    (tmp_path / "data" / "annotation.json").write_text(json.dumps(tree))
    return tmp_path / "data"


def cut(root: Path, *names: str) -> None:
    """The header stays, what lies behind it does not."""
    for name in names:
        path = root / "images" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:200])


def run(root: Path, name: str, steps: int, *more: str, command: str = "train") -> int:
    settings = [*SMALL, f"data.root={root}", f"run.steps={steps}", f"run.output_dir={root.parent / name}"]
    flags = [part for part in more if part.startswith("--")]
    return main(command_line(command, [*settings, *(part for part in more if part not in flags)], *flags))


def lines(path: Path) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{key: value for key, value in one.items() if not key.startswith(TIMES)} for one in records]


def steps_with(root: Path, study: str, last: int = 4) -> list[int]:
    stream = StudyStream(load_studies("iu_xray_r2gen", root)["train"], 2, 0)
    return [step for step in range(1, last + 1) if study in [one.id for one in stream.batch(step)]]


@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_damaged_picture_is_skipped_counted_and_named_once(root, capsys, command):
    cut(root, "train1", "val0", "test2")
    assert run(root, "run", 4, command=command) == 0
    folder = root.parent / "run"
    metrics = lines(folder / "metrics.jsonl")
    assert [one["step"] for one in metrics if one.get("left_out")] == steps_with(root, "train1") != []
    assert {one["left_out"] for one in metrics if "left_out" in one} == {1.0}
    assert not any(one["skipped"] for one in metrics)
    named = lines(folder / "left_out.jsonl")
    assert sorted((one["split"], one["study_id"]) for one in named) == [
        ("test", "test2"), ("train", "train1"), ("val", "val0"),
    ]  # fmt: skip
    assert all("truncated or damaged" in one["why"] for one in named)
    said = capsys.readouterr().err
    for split, study in (("train", "train1"), ("val", "val0"), ("test", "test2")):
        assert said.count(f"study {study} of {split} is left out: image {root}/images/{study}.png is truncated") == 1
        assert f"left out of {split}, as pictures could not be read: 1 studies: {study}" in said
    for name in ("predictions_before.jsonl", "predictions.jsonl"):
        assert [one["study_id"] for one in lines(folder / name)] == ["test0", "test1"]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["left_out"] == ["test2"] and evaluation["sides"]["test split"]["studies"] == 2
    assert [one["studies"] for one in lines(folder / "validation.jsonl")] == [1, 1]  # after step 2, and the last
    assert lines(folder / "followed.jsonl") == []  # val0 alone is followed, and another never takes its place


def test_a_resumed_run_leaves_out_what_one_that_never_stopped_does(root, capsys):
    cut(root, "train1", "val1", "test2")
    often = "run.eval_every=3"
    assert run(root, "whole", 4, often) == 0
    assert run(root, "run", 2, often) == 0
    assert run(root, "run", 4, often, "--resume") == 0
    for name in ("metrics.jsonl", "rollouts.jsonl", "predictions.jsonl"):
        assert lines(root.parent / "run" / name) == lines(root.parent / "whole" / name)
    whole, resumed = (
        {(one["split"], one["study_id"]) for one in lines(root.parent / name / "left_out.jsonl")}
        for name in ("whole", "run")
    )
    assert whole == resumed


def test_a_picture_that_is_gone_or_damaged_later_does_not_end_a_run(root, capsys):
    """The lines that say how to go on do: the run keeps its order of studies, and leaves out those that are lost."""
    cut(root, "train1")
    assert run(root, "whole", 4) == 0
    assert run(root, "run", 2) == 0
    (root / "images" / "train1.png").unlink()
    capsys.readouterr()
    assert run(root, "run", 4, "--resume") == 0
    assert "1 of 11 images are missing" in (said := capsys.readouterr().out) and "train1.png; the run began" in said
    assert lines(root.parent / "run" / "metrics.jsonl") == lines(root.parent / "whole" / "metrics.jsonl")
    (root / "images" / "test0.png").write_bytes(b"")
    assert run(root, "run", 5, "--resume", "data.allow_missing=true") == 0
    assert [one["study_id"] for one in lines(root.parent / "run" / "predictions.jsonl")] == ["test1", "test2"]


def test_headers_are_judged_before_a_run_and_what_is_allowed_is_kept(root, capsys, monkeypatch):
    (root / "images" / "train1.png").write_bytes(b"<html>not found</html>")
    with monkeypatch.context() as patch:
        patch.setattr("mrg_grpo.train.Policy", None)  # nothing is loaded
        assert run(root, "run", 2) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "1 of 11 images cannot be read: train1.png" in error and "set data.allow_missing = true" in error
    assert run(root, "run", 2, "data.allow_missing=true") == 0
    folder = root.parent / "run"
    assert not (folder / "left_out.jsonl").exists()  # it is no study of this run
    Image.effect_noise((40, 40), 60).save(root / "images" / "train1.png")
    assert run(root, "run", 3, "--resume") == 0  # and does not become one, allowed or not
    assert "train1" not in (folder / "rollouts.jsonl").read_text()


def test_a_step_of_which_nothing_is_left_is_skipped_and_five_end_the_run(root, capsys):
    assert run(root, "run", 1) == 0
    cut(root, *(f"train{n}" for n in range(6)))
    capsys.readouterr()
    assert run(root, "run", 9, "--resume") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "5 steps in a row up to step 6 had no study whose pictures can be read; put the image files back" in error
    metrics = lines(root.parent / "run" / "metrics.jsonl")
    assert metrics[1:] == [{"step": step, "skipped": 1.0, "left_out": 2.0} for step in range(2, 6)]
    for n in range(6):
        Image.effect_noise((40, 40), 60).save(root / "images" / f"train{n}.png")
    assert run(root, "run", 3, "--resume") == 0


def test_a_split_of_which_nothing_is_left_is_refused_in_one_line(root, capsys):
    cut(root, "test0", "test1", "test2")
    assert run(root, "run", 1, "run.eval_every=0") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"none of 3 studies can be shown: image {root}/images/test0.png is truncated or damaged" in error
    Image.effect_noise((40, 40), 60).save(root / "images" / "test1.png")
    assert run(root, "run", 1, "run.eval_every=0", "--resume") == 0


def test_without_texts_no_path_is_written(root):
    cut(root, "train1", "test2")
    assert run(root, "run", 3, "run.keep_text=false") == 0
    folder = root.parent / "run"
    for name in ("left_out.jsonl", "inputs.json", "evaluation.json"):
        assert "test2" in (text := (folder / name).read_text()) or name == "inputs.json"
        assert ".png" not in text


def test_before_and_after_are_of_the_same_studies(root, monkeypatch):
    """A picture that is lost between the two decodes, or that comes back, counts for neither."""
    from mrg_grpo import judging

    plain, calls = judging.baseline, []

    def lost_behind_it(session):
        before = plain(session)
        if not calls:
            calls.append(1)
            cut(root, "test0")
        return before

    monkeypatch.setattr(judging, "baseline", lost_behind_it)
    assert run(root, "run", 1) == 0
    folder = root.parent / "run"
    assert len(lines(folder / "predictions_before.jsonl")) == 3
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["sides"]["test split"]["studies"] == 2 and evaluation["left_out"] == ["test0"]
    Image.effect_noise((40, 40), 60).save(root / "images" / "test0.png")
    assert run(root, "run", 1, "--resume") == 0
    assert json.loads((folder / "evaluation.json").read_text())["sides"]["test split"]["studies"] == 3


def test_evaluate_leaves_out_and_says_so_beside_other_systems_too(root, tmp_path, capsys):
    cut(root, "test1")
    studies = load_studies("iu_xray_r2gen", root)["test"]
    rows = [{"study_id": study.id, "reference": study.report, "prediction": study.report} for study in studies]
    (tmp_path / "other.json").write_text(json.dumps(rows))
    settings = [*SMALL, f"data.root={root}", f"run.output_dir={tmp_path / 'out'}"]
    more = ["--language", "none", "--compare", str(tmp_path / "other.json")]
    assert main(command_line("evaluate", settings, *more)) == 0
    assert "left out 1 of 3 studies, whose pictures cannot be read: test1 (image" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "evaluate-test" / "evaluation.json").read_text())
    assert record["left_out"] == ["test1"] and "comparison" in record
