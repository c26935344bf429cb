"""Patients, images and copies of images in two splits."""

import json

import pytest

from mrg_grpo.data import describe_splits, load_studies
from mrg_grpo.errors import UserError

SPLITS = ("train", "val", "test")


def dataset(root, edit=None, contents=None):
    """Two records a split with an image each, of bytes of their own -> the folder."""
    tree = {
        split: [{"id": f"{split}{n}", "report": "Clear.", "image_path": [f"{split}{n}.png"]} for n in (0, 1)]
        for split in SPLITS
    }
    if edit:
        edit(tree)
    (root / "images").mkdir(parents=True)
    for name in {name for part in tree.values() for record in part for name in record["image_path"]}:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((contents or {}).get(name, name.encode() * 5000))
    (root / "annotation.json").write_text(json.dumps(tree))
    return root


def image(tree):
    tree["test"][0]["image_path"] = ["train1.png"]


def patient(tree):
    for part in tree.values():
        for number, record in enumerate(part):
            record["subject_id"] = 100 + number


def path_of_patient(tree):
    tree["train"][0]["image_path"] = ["p10/p10000032/s1/a.jpg"]
    tree["test"][1]["image_path"] = ["p10/p10000032/s2/b.jpg"]


def iu_study(tree):
    tree["train"][0]["id"], tree["val"][0]["id"] = "CXR12_IM-0001", "CXR12_IM-0002"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (image, "1 image files are in two splits: train1.png in train and test"),
        (patient, "2 patients are in two splits: 100 in train and val, 101 in train and val"),
        (path_of_patient, "1 patients are in two splits: 10000032 in train and test"),
    ],
)
def test_in_mimic_a_patient_or_an_image_in_two_splits_is_refused(tmp_path, edit, reason):
    with pytest.raises(UserError, match=f"mimic_cxr_r2gen: {reason}; mend the split"):
        load_studies("mimic_cxr_r2gen", dataset(tmp_path / "d", edit))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (image, "1 image files are in two splits: train1.png in train and test"),
        (iu_study, "1 studies by the number in their ids are in two splits: CXR12 in train and val"),
    ],
)
def test_in_iu_x_ray_it_is_a_warning(tmp_path, edit, reason):
    loaded = load_studies("iu_xray_r2gen", dataset(tmp_path / "d", edit))
    assert f"warning: {reason}" in describe_splits(loaded, "iu_xray_r2gen")


@pytest.mark.parametrize("form", ["iu_xray_r2gen", "mimic_cxr_r2gen"])
def test_copies_are_told_by_their_bytes(tmp_path, form):
    size = 40_000
    contents = {
        "train0.png": b"a" * size,
        "test0.png": b"a" * size,  # the same
        "train1.png": b"b" * size,
        "val1.png": b"b" * (size - 1) + b"c",  # the same size and middle
        "test1.png": b"b" * size,
        "val0.png": b"",
    }
    loaded = load_studies(form, dataset(tmp_path / "d", contents=contents))
    assert [note for note in loaded.notes if "copies" in note] == [
        "warning: 2 images are copies of an image of another split: "
        "train0.png (train) and test0.png (test), train1.png (train) and test1.png (test)"
    ]


@pytest.mark.parametrize("form", ["iu_xray_r2gen", "mimic_cxr_r2gen"])
def test_only_files_of_equal_size_are_opened(tmp_path, monkeypatch, form):
    contents = {f"{split}{n}.png": b"x" * (100 + 7 * n + place) for place, split in enumerate(SPLITS) for n in (0, 1)}
    contents["val0.png"] = contents["val1.png"] = b"y" * 500  # alike, in one split
    root = dataset(tmp_path / "d", contents=contents)
    monkeypatch.setattr("mrg_grpo.data.leaks._middle", None)
    assert not any("two splits" in note or "copies" in note for note in load_studies(form, root).notes)


def test_one_patient_may_have_many_images_in_one_split(tmp_path):
    def edit(tree):
        for record in tree["train"]:
            record["subject_id"], record["image_path"] = 7, ["train0.png"]

    assert len(load_studies("mimic_cxr_r2gen", dataset(tmp_path / "d", edit))["train"]) == 2


def test_the_published_iu_x_ray_has_none(shared):
    root = shared / "data" / "iu_xray"
    notes = load_studies("iu_xray_r2gen", root, allow_missing=True).notes
    assert not any("two splits" in note or "copies" in note for note in notes)
