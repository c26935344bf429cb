"""What is decoded where image files are missing, and what `mrg-grpo evaluate` writes about it."""

import json
from pathlib import Path

import pytest
from command import CONFIG, command_line

from mrg_grpo.cli import main
from mrg_grpo.config import load_config
from mrg_grpo.data import load_studies
from mrg_grpo.data.load import read_splits, require_images
from mrg_grpo.data.phantom.dataset import export
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation import decode

ALLOWED = "data.allow_missing=true"


@pytest.fixture
def data(tmp_path) -> Path:
    """Two training, one validation and three test studies as files; the picture of the second test study is gone."""
    for split, count in (("train", 2), ("val", 1), ("test", 3)):
        export(tmp_path / "data", split, count)
    (tmp_path / "data" / "images" / "test-00001.png").unlink()
    return tmp_path / "data"


def settings(data: Path, *more: str) -> list[str]:
    return ["data.form=iu_xray_r2gen", f"data.root={data}", *more]


def test_studies_without_an_image_file_are_left_out_of_what_is_decoded(data):
    with pytest.raises(UserError, match=r"1 of 6 images are missing .*set data.allow_missing = true to go on without"):
        read_splits(load_config(CONFIG, settings(data)))
    splits = read_splits(load_config(CONFIG, settings(data, ALLOWED)))
    assert {split: len(part) for split, part in splits.items()} == {"train": 2, "val": 1, "test": 2}
    assert "1 studies have no image file and are left out (data.allow_missing): test-00001" in splits.notes[-1]
    assert splits.read == 6
    for part in splits.values():
        require_images(part)
    kept = load_studies("iu_xray_r2gen", data, allow_missing=True)  # which tables of a data set are made of: all stay
    assert [len(study.images) for study in kept["test"]] == [1, 0, 1]
    with pytest.raises(UserError, match=r"1 of 3 studies have no image \(test-00001\); .*data.allow_missing = true"):
        require_images(kept["test"])


def test_studies_that_list_no_image_are_left_out_too(data):
    tree = json.loads((data / "annotation.json").read_text())
    tree["train"][0]["image_path"] = []
    (data / "annotation.json").write_text(json.dumps(tree))
    splits = read_splits(load_config(CONFIG, settings(data, ALLOWED, "data.incomplete=keep")))
    assert [study.id for study in splits["train"]] == ["train-00001"]
    (data / "images" / "test-00001.png").touch()
    with pytest.raises(UserError, match=r'list no image .*set data.incomplete = "drop" to leave them out, or data.all'):
        read_splits(load_config(CONFIG, settings(data, "data.incomplete=keep")))


def test_a_folder_without_any_image_is_refused(data, capsys):
    for image in (data / "images").iterdir():
        image.unlink()
    arguments = settings(data, ALLOWED)
    with pytest.raises(UserError, match=r"none of its 6 studies has an image file"):
        read_splits(load_config(CONFIG, arguments))
    assert main(command_line("plan", arguments)) == 2
    assert "none of its 6 studies has an image file" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_says_what_it_left_out_and_who_labelled(data, tmp_path, capsys):
    arguments = settings(data, ALLOWED, f"run.output_dir={tmp_path / 'out'}", "sampling.max_tokens=16",
                         "reward.mccs.margin=0.3")  # fmt: skip
    assert main(command_line("evaluate", arguments)) == 0
    folder = tmp_path / "out" / "evaluate-test"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["study_id"] for row in rows] == ["test-00000", "test-00002"]
    page, record = capsys.readouterr().out, json.loads((folder / "evaluation.json").read_text())
    assert "1 studies have no image file and are left out" in page
    assert "labels: embedded; MCCS with margin 0.3" in page
    assert record["labeler"] == "embedded" and record["mccs_margin"] == 0.3


def test_evaluate_takes_metrics_language_and_other_systems(data, tmp_path, capsys, monkeypatch):
    (tmp_path / "metric_of_evaluate_for_test.py").write_text(
        "def images(completions, images, reports, reference):\n    return [float(len(paths)) for paths in images]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = settings(data, ALLOWED, f"run.output_dir={tmp_path / 'out'}", "sampling.max_tokens=16")
    studies = load_studies("iu_xray_r2gen", data, allow_missing=True)["test"]
    rows = [{"study_id": s.id, "reference": s.report, "prediction": s.report} for s in studies if s.images]
    for name, content in (
        ("right", rows),
        ("few", rows[:1]),
        ("other", [{**row, "reference": "Edema."} for row in rows]),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    right, metric = str(tmp_path / "right.json"), "metric_of_evaluate_for_test:images"
    more = ["--language", "none", "--metric", metric, "--compare", right]
    assert main(command_line("evaluate", arguments, *more)) == 0
    page, record = capsys.readouterr().out, json.loads((tmp_path / "out/evaluate-test/evaluation.json").read_text())
    assert record["metrics"][metric]["value"] == 1.0 and "bleu_1" not in record["metrics"]
    assert f"{right} minus this policy, paired" in page and record["comparison"]["mccs"]["value"] >= 0
    monkeypatch.setattr("mrg_grpo.evaluation.evaluate.Policy", None)  # what follows ends before a model is loaded
    for wrong, reason in (
        (["--compare", str(tmp_path / "few.json")], "differ in 1 studies (test-00002)"),
        (["--compare", str(tmp_path / "other.json")], "hold other references for 2 studies"),
        (["--compare", str(tmp_path / "none.json")], "no prediction file at"),
        (["--metric", "no_such_for_test:f"], "cannot import no_such_for_test"),
    ):
        assert main(command_line("evaluate", arguments, *wrong)) == 2
        assert reason in capsys.readouterr().err.splitlines()[-1]


def test_evaluate_refuses_references_without_labels_before_it_decodes(data, tmp_path, capsys, monkeypatch):
    tree = json.loads((data / "annotation.json").read_text())
    for record in tree["test"]:
        record["report"] = "Кости без изменений."
    (data / "annotation.json").write_text(json.dumps(tree))
    arguments = settings(data, ALLOWED, f"run.output_dir={tmp_path / 'out'}", "sampling.max_tokens=4")
    monkeypatch.setattr("mrg_grpo.evaluation.evaluate.predict", None)  # not reached
    assert main(command_line("evaluate", arguments)) == 2
    said = capsys.readouterr().err
    assert "2 of 2 references looked at carry no label (100%" in said and "labeler.allow_unlabeled = true" in said
    monkeypatch.undo()
    assert main(command_line("evaluate", [*arguments, "labeler.allow_unlabeled=true"])) == 0
    assert "2 of 2 references carry no label (100%)" in capsys.readouterr().out


def test_a_long_decoding_without_a_terminal_says_how_far_it_is(monkeypatch, capsys):
    clock = iter([0.0, 30.0, 61.0, 90.0, 200.0])
    monkeypatch.setattr(decode.time, "monotonic", lambda: next(clock))
    log = decode.PlainLog("decode test, before", 10)
    for done in (1, 2, 3, 10):
        log(done)
    assert capsys.readouterr().err == "decode test, before: 2/10  04:04 left\n"
