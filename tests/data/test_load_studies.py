"""What `load_studies` refuses, and what it tells: annotation files with every fault that a copy has shown."""

import json
import os
from pathlib import Path

import pytest

from mrg_grpo.data import PUBLISHED, Studies, Study, describe_splits, load_studies
from mrg_grpo.data.phantom import dataset
from mrg_grpo.errors import UserError


def record(study_id="a", **changes) -> dict:
    return {"id": study_id, "report": "Clear.", "image_path": ["a/0.png"], "split": "train"} | changes


def annotate(root: Path, tree, images=("a/0.png",)) -> Path:
    for name in images:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).touch()
    (root / "annotation.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return root


def three(*train, **more) -> dict:
    return {"train": list(train), "val": [], "test": []} | more


BAD_ANNOTATIONS = {
    "is not JSON": '{"train": [',
    "is not JSON .*recursion": "[" * 100_000,
    "holds a list, not an object": "[]",
    "lacks the split 'test'": {"train": [], "val": []},
    "has a blank split name": {"train": [], "val": [], "   ": []},
    "has the split name 'holdout'": three(holdout=[]),
    "has the split val under two names": three(validate=[]),
    "an object with a key twice": '{"train": [], "val": [], "test": [], "test": []}',
    "'train' holds a dict": {"train": {}, "val": [], "test": []},
    "id 'a' occurs twice": three(record(), test=[record(split="test")]),
    "id '3' occurs twice": three(record(3), record("3")),
    "train record 0 is a str": three("a"),
    "has the id None": three(record(None)),
    "has the id True": three(record(True)),
    "has the id ' '": three(record(" ")),
    "has a report of type NoneType": three(record(report=None)),
    "has a report of type list": three(record(report=["Clear."])),
    "has no list of image names": three(record(image_path="a/0.png")),
    "as a list of text": three(record(image_path=[1])),
    "says it belongs to 'test'": three(record(split="test")),
    "is not valid Unicode": '{"val": [], "test": [], "train": [{"id": "a", "report": "\\ud800", "image_path": []}]}',
    "lies outside the data folder; use": three(record(image_path=["/etc/passwd"])),
    "'../x.png', which lies outside": three(record(image_path=["../x.png"])),
    "'a/../../x.png', which lies outside": three(record(image_path=["a/../../x.png"])),
    "'C:/x.png', which lies outside": three(record(image_path=["C:/x.png"])),
    "write a printable relative path": three(record(image_path=["a\\x.png"])),
    "the image ''; write": three(record(image_path=[""])),
}


@pytest.mark.parametrize("reason", BAD_ANNOTATIONS)
def test_bad_annotation_is_one_line_with_file_and_remedy(tmp_path, reason):
    annotate(tmp_path, BAD_ANNOTATIONS[reason])
    with pytest.raises(UserError, match=reason) as caught:
        load_studies("iu_xray_r2gen", tmp_path, allow_missing=True)
    message = str(caught.value)
    assert str(tmp_path / "annotation.json") in message and ";" in message and "\n" not in message
    assert len(message) < 1000


def test_a_path_that_climbs_and_stays_inside_is_normalised(tmp_path):
    annotate(tmp_path, three(record(image_path=["b/../a//0.png"])))
    assert load_studies("iu_xray_r2gen", tmp_path)["train"][0].images == (f"{tmp_path}/images/a/0.png",)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_a_linked_image_folder_is_followed(tmp_path):
    (tmp_path / "store" / "a").mkdir(parents=True)
    (tmp_path / "store" / "a" / "0.png").touch()
    root = tmp_path / "data"
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "store")
    annotate(root, three(record()), images=())
    assert len(load_studies("iu_xray_r2gen", root)["train"][0].images) == 1


def test_choices_that_are_none(tmp_path):
    annotate(tmp_path, three(record()))
    for options, reason in (
        ({"sections": ()}, "name one or both"),
        ({"sections": ("findings", "findings")}, "each once"),
        ({"sections": ("history",)}, "name one or both"),
        ({"sections": ("impression",)}, "holds findings alone"),
        ({"views": "lateral"}, 'use "all", "frontal"'),
        ({"views": 0}, 'use "all", "frontal"'),
        ({"views": True}, 'use "all", "frontal"'),
        ({"views": "frontal"}, "does not say which image is frontal"),
        ({"split_file": "x.csv"}, "has a split of its own"),
        ({"incomplete": "hide"}, 'use "keep" or "drop"'),
    ):
        with pytest.raises(UserError, match=reason):
            load_studies("iu_xray_r2gen", tmp_path, **options)
    with pytest.raises(
        UserError, match="use one of phantom, phantom_rare, phantom_room, phantom_hasty, table, iu_xray_r2gen"
    ):
        load_studies("chexpert", tmp_path)
    with pytest.raises(UserError, match="does not exist; name the folder"):
        load_studies("iu_xray_r2gen", tmp_path / "no")
    with pytest.raises(UserError, match="is a file; name the folder"):
        load_studies("iu_xray_r2gen", tmp_path / "annotation.json")
    with pytest.raises(UserError, match=r"annotation.json is missing; it must be R2Gen"):
        load_studies("mimic_cxr_r2gen", tmp_path / "images")


def test_empty_and_very_long_reports_stay(tmp_path):
    long = "word " * 20_000
    annotate(tmp_path, three(record("a", report=" \n"), record("b", report=long), record("c")))
    loaded = load_studies("iu_xray_r2gen", tmp_path)
    assert [len(study.report) for study in loaded["train"]] == [0, len(long) - 1, 6]
    assert any("1 studies have no text in findings and are kept" in n and n.endswith(": a") for n in loaded.notes)
    dropped = load_studies("iu_xray_r2gen", tmp_path, incomplete="drop")
    assert [study.id for study in dropped["train"]] == ["b", "c"]


def test_missing_images_with_and_without_leave(tmp_path):
    names = [f"{n:02d}/0.png" for n in range(12)]
    entries = [record(str(n), image_path=[name, f"{n:02d}/1.png"]) for n, name in enumerate(names)]
    annotate(tmp_path, three(*entries), images=names[:1])
    with pytest.raises(UserError) as caught:
        load_studies("iu_xray_r2gen", tmp_path)
    assert "23 of 24 images are missing" in str(caught.value)
    assert "00/1.png, 01/0.png, 01/1.png" in str(caught.value) and str(caught.value).count(".png") == 10
    kept = load_studies("iu_xray_r2gen", tmp_path, allow_missing=True)
    assert [len(study.images) for study in kept["train"]] == [1] + [0] * 11
    assert any("11 of 12 studies have no image at all" in note for note in kept.notes)


def test_views_count_the_first_images(tmp_path):
    annotate(tmp_path, three(record(image_path=["a/1.png", "a/0.png"])), images=("a/0.png", "a/1.png"))
    for views, names in ((None, ["1", "0"]), (1, ["1"]), (5, ["1", "0"])):
        images = load_studies("iu_xray_r2gen", tmp_path, views=views)["train"][0].images
        assert [Path(name).stem for name in images] == names


def test_sizes_are_held_against_the_published_ones(tmp_path):
    study = Study("a", ("x.png",), "Clear.", "train")
    right = {name: [study] * size for name, size in PUBLISHED["iu_xray_r2gen"].items()}
    assert describe_splits(right, "iu_xray_r2gen") == [
        "iu_xray_r2gen: train 2,069, val 296, test 590 studies, 2,955 images",
        "split sizes equal the published ones",
    ]
    copy = {"train": [study] * 3062, "val": [study] * 382, "test": [study] * 382}
    assert describe_splits(copy, "iu_xray_r2gen")[1:] == [
        "warning: split train of iu_xray_r2gen holds 3,062 studies, the published one 2,069",
        "warning: split val of iu_xray_r2gen holds 382 studies, the published one 296",
        "warning: split test of iu_xray_r2gen holds 382 studies, the published one 590",
    ]
    assert describe_splits(Studies(copy, read=3850), "iu_xray_kaggle")[1:] == [
        "warning: iu_xray_kaggle holds 3,850 studies, the published set 3,851"
    ]
    assert describe_splits({"train": [study]}, "phantom") == ["phantom: train 1 studies, 1 images"]  # nothing to equal


def test_phantom_is_asked_for_its_sections(monkeypatch):
    study = Study("p0", ("phantom:0",), "Clear.", "train")
    monkeypatch.setattr(dataset, "load", lambda root, sections, form: {"train": [study], "val": [], "test": []})
    assert load_studies("phantom", "")["train"] == [study]


def test_real_case_reports(shared):
    loaded = load_studies("iu_xray_r2gen", shared / "data" / "case_reports")
    assert [len(loaded[name]) for name in ("train", "val", "test")] == [143, 18, 31]
    assert all(Path(name).is_file() for part in loaded.values() for study in part for name in study.images)
    assert any(
        "holds 143 studies, the published one 2,069" in line for line in describe_splits(loaded, "iu_xray_r2gen")
    )
