"""ReXGradient-160K in the layout of its hub files, written here with invented texts."""

import json
from pathlib import Path

import pytest

from mrg_grpo.config import Config
from mrg_grpo.data import describe_splits, load_studies
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.study import Context
from mrg_grpo.errors import UserError


def path(patient: str, accession: str, image: str) -> str:
    return f"../deid_png/{patient}/{accession}/studies/1.2/series/3.4/instances/{image}.png"


def study(patient="GRDN01", accession="GRDNA1", images=("10", "11"), views=("LATERAL", "PA"), **changes) -> dict:
    return {
        "StudyInstanceUid": "1.2",
        "PatientID": patient,
        "AccessionNumber": accession,
        "PatientSex": "F",
        "PatientAge": "063Y",
        "StudyDate": 20200105,
        "Indication": "Cough.",
        "Comparison": "None.",
        "Findings": "Lungs are \n clear.",
        "Impression": "Normal.",
        "ImagePath": [path(patient, accession, image) for image in images],
        "ImageViewPosition": list(views),
    } | changes


def tree() -> dict[str, dict]:
    return {
        "train": {
            "GRDN01_GRDNA2": study(accession="GRDNA2", StudyDate="20210301", Findings="No change."),
            "GRDN01_GRDNA1": study(),
            "GRDN01_GRDNA3": study(accession="GRDNA3", StudyDate=None, Indication=None, PatientAge="N/A"),
        },
        "valid": {"GRDN02_GRDNB1": study("GRDN02", "GRDNB1", Findings="None", Impression="Only this.")},
        "test": {
            "GRDN03_GRDNC1": study(
                "GRDN03", "GRDNC1", ("5", "6", "7"), ("AP (KUB)", None, "POSTERO_ANTERIOR"), Comparison=None
            )
        },
    }


def write(root: Path, studies: dict | None = None, ending="_metadata_view_position.json") -> Path:
    (root / "metadata").mkdir(parents=True, exist_ok=True)
    for name, part in (tree() if studies is None else studies).items():
        (root / "metadata" / f"{name}{ending}").write_text(part if isinstance(part, str) else json.dumps(part))
    for part in tree().values():
        for one in part.values():
            for image in one["ImagePath"]:
                file = root / image.removeprefix("../")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
    return root


def flat(loaded) -> dict:
    return {one.id: one for part in loaded.values() for one in part}


@pytest.mark.parametrize("ending", ["_metadata_view_position.json", "_metadata.json"])
def test_the_layout_of_the_hub(tmp_path, ending):
    loaded = load_studies("rexgradient", write(tmp_path, ending=ending))
    assert {name: [one.id for one in part] for name, part in loaded.items()} == {
        "train": ["GRDN01_GRDNA2", "GRDN01_GRDNA1", "GRDN01_GRDNA3"],
        "val": ["GRDN02_GRDNB1"],
        "test": ["GRDN03_GRDNC1"],
    }
    one = flat(loaded)["GRDN01_GRDNA1"]
    folder = f"{tmp_path}/deid_png/GRDN01/GRDNA1/studies/1.2/series/3.4/instances"
    assert one.report == "Lungs are clear." and one.images == (f"{folder}/10.png", f"{folder}/11.png")
    assert flat(loaded)["GRDN02_GRDNB1"].report == ""
    lines = describe_splits(loaded, "rexgradient")
    assert "warning: split train of rexgradient holds 3 studies, the published one 140,000" in lines


def test_the_file_with_views_goes_before_the_other(tmp_path):
    write(tmp_path, ending="_metadata.json")
    write(tmp_path, {"train": {"x": study(Findings="Other.")}})
    assert [one.report for one in load_studies("rexgradient", tmp_path)["train"]] == ["Other."]


def test_sections_views_and_incomplete(tmp_path):
    write(tmp_path)
    both = flat(load_studies("rexgradient", tmp_path, sections=("impression", "findings")))
    assert both["GRDN01_GRDNA1"].report == "Normal. Lungs are clear."
    assert both["GRDN02_GRDNB1"].report == "Only this."
    for views, names in (("frontal", ["7"]), (1, ["5"]), (2, ["5", "6"]), ("all", ["5", "6", "7"])):
        images = flat(load_studies("rexgradient", tmp_path, views=views))["GRDN03_GRDNC1"].images
        assert [Path(name).stem for name in images] == names
    dropped = load_studies("rexgradient", tmp_path, incomplete="drop")
    assert dropped["val"] == [] and any("GRDN02_GRDNB1" in note and "left out" in note for note in dropped.notes)


def test_missing_images(tmp_path):
    write(tmp_path)
    next((tmp_path / "deid_png").rglob("11.png")).unlink()
    with pytest.raises(UserError, match=r"1 of 11 images are missing from .*: deid_png/GRDN01/GRDNA"):
        load_studies("rexgradient", tmp_path)
    kept = load_studies("rexgradient", tmp_path, allow_missing=True)
    assert sorted(len(one.images) for one in flat(kept).values()) == [1, 2, 2, 2, 3]


def test_what_is_known_and_the_study_before(tmp_path):
    asked = ("age", "sex", "indication", "comparison", "prior_report", "prior_images")
    loaded = flat(load_studies("rexgradient", write(tmp_path), context=asked))
    first = Context("63", "female", "Cough.", "", "None.")
    assert loaded["GRDN01_GRDNA1"].context == first
    images = loaded["GRDN01_GRDNA1"].images
    later = Context("63", "female", "Cough.", "", "None.", "Lungs are clear.", images)
    assert loaded["GRDN01_GRDNA2"].context == later
    assert loaded["GRDN01_GRDNA3"].context == Context("", "female", "", "", "None.")  # no date: nothing before it
    assert loaded["GRDN03_GRDNC1"].context == Context("63", "female", "Cough.")


def test_a_split_file_replaces_the_split_and_priors_of_another_split_are_not_shown(tmp_path):
    write(tmp_path)
    table = tmp_path / "mine.csv"
    table.write_text("id,split\nGRDN01_GRDNA1,test\nGRDN01_GRDNA2,train\n")
    loaded = load_studies("rexgradient", tmp_path, split_file=table, context=("prior_report",))
    assert {name: [one.id for one in part] for name, part in loaded.items()} == {
        "train": ["GRDN01_GRDNA2"], "val": [], "test": ["GRDN01_GRDNA1"],
    }  # fmt: skip
    assert loaded["train"][0].context.prior_report == ""
    told = "warning: context: of 1 studies the study before is in another split and is not shown: GRDN01_GRDNA2"
    assert told in loaded.notes
    assert "warning: 1 patients are in two splits: GRDN01 in train and test" in loaded.notes
    # a study that the file does not list is in no split: it can be a prior, images and all
    table.write_text("id,split\nGRDN01_GRDNA2,train\n")
    (one,) = load_studies("rexgradient", tmp_path, split_file=table, context=asked_prior())["train"]
    assert one.context.prior_report == "Lungs are clear." and len(one.context.prior_images) == 2
    next((tmp_path / "deid_png").glob("GRDN01/GRDNA1/**/10.png")).unlink()
    (one,) = load_studies("rexgradient", tmp_path, split_file=table, context=asked_prior())["train"]
    assert [Path(name).stem for name in one.context.prior_images] == ["11"]


def asked_prior() -> tuple[str, ...]:
    return ("prior_report", "prior_images")


def without(key: str) -> dict:
    return {name: value for name, value in study().items() if name != key}


BAD = {
    "is not JSON": "{",
    "holds a list, not an object of studies by id": "[]",
    "an object with a key twice": '{"x": {}, "x": {}}',
    "study 'x' is a list, not an object": {"x": []},
    "has no 'ImagePath'": {"x": without("ImagePath")},
    "has no 'Findings'": {"x": without("Findings")},
    "has no 'Impression'": {"x": without("Impression")},
    "has Findings of type int": {"x": study(Findings=3)},
    "has Impression of type list": {"x": study(Impression=["Normal."])},
    "has ImagePath of type str": {"x": study(ImagePath="a.png")},
    "has an ImagePath that is no text": {"x": study(ImagePath=[1])},
    "has 2 images and 1 views": {"x": study(views=("PA",))},
    "has ImageViewPosition of type NoneType": {"x": study(ImageViewPosition=None)},
    "lies outside the data folder": {"x": study(ImagePath=["../../../etc/passwd"], views=("PA",))},
    "'/etc/passwd', which lies outside": {"x": study(ImagePath=["/etc/passwd"], views=("PA",))},
    "has the StudyDate '5 May'": {"x": study(StudyDate="5 May")},
    "is not valid Unicode": {"x": study(Findings="\ud800")},
    "has Indication of type float": {"x": study(Indication=1.5)},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_wrong_record_is_one_line_with_file_and_remedy(tmp_path, reason):
    write(tmp_path, tree() | {"test": BAD[reason]})
    with pytest.raises(UserError, match=reason) as caught:
        load_studies("rexgradient", tmp_path, views="frontal", allow_missing=True)
    message = str(caught.value)
    assert "metadata/test_metadata_view_position.json" in message and ";" in message and "\n" not in message
    assert "Lungs" not in message


def test_a_study_in_two_files_and_a_missing_file(tmp_path):
    write(tmp_path, tree() | {"test": {"GRDN01_GRDNA1": study()}})
    with pytest.raises(UserError, match=r"test_metadata_view_position.json has the study 'GRDN01_GRDNA1' of .*train_"):
        load_studies("rexgradient", tmp_path)
    (tmp_path / "metadata" / "valid_metadata_view_position.json").unlink()
    with pytest.raises(UserError, match=r"valid_metadata_view_position.json is missing; take it from huggingface.co"):
        load_studies("rexgradient", tmp_path)


@pytest.mark.parametrize("form", ["rexgradient", "chexpert_plus", "padchest_gr"])
def test_sets_under_an_agreement_are_marked(form):
    config = Config()
    assert banner(config) == {}
    config.data.form = form
    assert "credentialed data" in banner(config)["credentialed"]
