"""PadChest-GR in BIMCV's layout, written here with invented sentences."""

import json
from pathlib import Path

import pytest

from mrg_grpo.data import describe_splits, load_studies
from mrg_grpo.data.study import Context
from mrg_grpo.errors import UserError

TABLE = (
    "StudyID,ImageID,label,split,PatientID,PatientSex_DICOM,StudyDate,PatientAge\n"
    "101,a.png,Normal,train,p1,F,2012-01-02,63\n"
    "102,b.png,nodule,train,p1,F,2013-01-02,64\n"
    "102,b.png,effusion,train,p1,F,2013-01-02,64\n"
    "103,c.png,Normal,validation,p2,M,2013-01-02,50.0\n"
    "104,d.png,Normal,test,p3,,2013-01-02,\n"
)


def study(study_id="101", image="a.png", sentences=("Lungs are clear.",), **changes) -> dict:
    findings = [{"sentence_en": text, "sentence_es": "Texto.", "abnormal": False} for text in sentences]
    return {
        "StudyID": study_id,
        "ImageID": image,
        "PreviousStudyID": None,
        "PreviousImageID": None,
        "findings": findings,
    } | changes


def reports() -> list[dict]:
    return [
        study(),
        study(
            "102", "b.png", ("Small  left effusion", "No pneumothorax."), PreviousStudyID="101", PreviousImageID="a.png"
        ),
        study("103", "c.png", ("Clear.", "", "Is it new?"), PreviousStudyID="999", PreviousImageID="z.png"),
        study("104", "d.png", (None,)),
    ]


def write(root: Path, tree=None, table=TABLE, images="Padchest_GR_files/PadChest_GR", priors="") -> Path:
    text = tree if isinstance(tree, str) else json.dumps(reports() if tree is None else tree)
    (root / "grounded_reports_20240819.json").write_text(text)
    (root / "master_table.csv").write_text(table)
    folder = Path("PadChest_GR_progression_prior_studies") / priors
    for name in [*(f"{images}/{letter}.png" for letter in "abcd"), folder / "z.png", folder / "a.png"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def flat(loaded) -> dict:
    return {one.id: one for part in loaded.values() for one in part}


@pytest.mark.parametrize("images", ["Padchest_GR_files/PadChest_GR", "Padchest_GR_files"])
def test_the_sentences_in_order_are_the_report(tmp_path, images):
    loaded = load_studies("padchest_gr", write(tmp_path, images=images))
    assert {name: {one.id: one.report for one in part} for name, part in loaded.items()} == {
        "train": {"101": "Lungs are clear.", "102": "Small left effusion. No pneumothorax."},
        "val": {"103": "Clear. Is it new?"},
        "test": {"104": ""},
    }
    assert flat(loaded)["102"].images == (f"{tmp_path}/{images}/b.png",)
    assert "2 sentences have no English text and are left out" in loaded.notes
    lines = describe_splits(loaded, "padchest_gr")
    assert "warning: split val of padchest_gr holds 1 studies, the published one 455" in lines
    dropped = load_studies("padchest_gr", tmp_path, incomplete="drop")
    assert dropped["test"] == [] and any("no text in findings" in note and "104" in note for note in dropped.notes)


def test_views_sections_and_missing_images(tmp_path):
    write(tmp_path)
    for views in ("frontal", "all", 1):
        assert len(flat(load_studies("padchest_gr", tmp_path, views=views))["101"].images) == 1
    with pytest.raises(UserError, match="padchest_gr holds findings alone; use sections"):
        load_studies("padchest_gr", tmp_path, sections=("findings", "impression"))
    (tmp_path / "Padchest_GR_files/PadChest_GR/c.png").unlink()
    with pytest.raises(UserError, match=r"1 of 4 images are missing from .*: Padchest_GR_files/PadChest_GR/c.png"):
        load_studies("padchest_gr", tmp_path)
    assert flat(load_studies("padchest_gr", tmp_path, allow_missing=True))["103"].images == ()


@pytest.mark.parametrize("priors", ["", "PadChest_GR_progression_prior_studies"])
def test_what_is_known_and_the_study_before(tmp_path, priors):
    asked = ("age", "sex", "indication", "prior_report", "prior_images")
    loaded = flat(load_studies("padchest_gr", write(tmp_path, priors=priors), context=asked))
    assert loaded["101"].context == Context("63", "female")
    images = (f"{tmp_path}/Padchest_GR_files/PadChest_GR/a.png",)
    assert loaded["102"].context == Context("64", "female", prior_report="Lungs are clear.", prior_images=images)
    folder = f"PadChest_GR_progression_prior_studies/{priors}".rstrip("/")
    assert loaded["103"].context == Context("50", "male", prior_images=(f"{tmp_path}/{folder}/z.png",))
    assert loaded["104"].context == Context()
    # the archive of prior images is another download: without it there is no prior image, and no fault
    (tmp_path / folder / "z.png").unlink()
    assert flat(load_studies("padchest_gr", tmp_path, context=asked))["103"].context == Context("50", "male")


def test_a_split_file_names_studies_by_their_bare_number(tmp_path):
    write(tmp_path)
    mine = tmp_path / "mine.csv"
    mine.write_text("id,split\n101,test\n103,train\n")
    loaded = load_studies("padchest_gr", tmp_path, split_file=mine)
    assert {name: [one.id for one in part] for name, part in loaded.items()} == {
        "train": ["103"],
        "val": [],
        "test": ["101"],
    }


def test_nothing_of_a_prior_in_another_split_is_shown(tmp_path):
    """Its image would be in PreviousImageID, too."""
    write(tmp_path)
    mine = tmp_path / "mine.csv"
    mine.write_text("id,split\n101,test\n102,train\n")
    loaded = load_studies("padchest_gr", tmp_path, split_file=mine, context=("prior_report", "prior_images"))
    assert loaded["train"][0].context == Context()


def test_a_study_of_the_table_without_a_report_is_named(tmp_path):
    loaded = load_studies("padchest_gr", write(tmp_path, table=TABLE + "105,e.png,x,test,p9,F,,\n"))
    assert "warning: 1 studies of master_table.csv have no report and are left out: 105" in loaded.notes


BAD = {
    "is not JSON": "[",
    "holds a dict, not a list of studies": "{}",
    "record 0 is a str, not an object": ["x"],
    "record 0 has the StudyID None": [study(None)],
    "record 0 has the StudyID 5": [study(5)],
    "StudyID '101' occurs twice": [study(), study()],
    "study 101 has the ImageID None": [study(image=None)],
    "lies outside the data folder": [study(image="../../../x.png")],
    "study 101 has no list of findings": [study(findings=None)],
    "no list of findings; give objects": [study(findings=["Clear."])],
    "has a sentence_en that is no text": [study(sentences=(3,))],
    "study 101 has the PreviousStudyID 4": [study(PreviousStudyID=4)],
    "study 777 is not in .*master_table.csv, which has its split": [study("777")],
    "is not valid Unicode": '[{"StudyID": "101", "ImageID": "a.png", "findings": [{"sentence_en": "\\ud800"}]}]',
}


@pytest.mark.parametrize("reason", BAD)
def test_a_wrong_record_is_one_line_with_file_and_remedy(tmp_path, reason):
    write(tmp_path, BAD[reason])
    with pytest.raises(UserError, match=reason) as caught:
        load_studies("padchest_gr", tmp_path, allow_missing=True)
    message = str(caught.value)
    assert "grounded_reports_20240819.json" in message and ";" in message and "\n" not in message


BAD_ROWS = {
    "has a blank StudyID or PatientID": ",a.png,x,train,p1,F,,\n",
    "'105' has a blank StudyID or PatientID": "105,a.png,x,train,,F,,\n",
    "has a blank split name": "105,a.png,x,,p1,F,,\n",
    "the split name 'holdout'": "105,a.png,x,holdout,p1,F,,\n",
    "'101' has rows of two patients or splits": "101,a.png,x,test,p1,F,,\n",
    "'102' has rows of two patients or splits": "102,a.png,x,train,p2,F,,\n",
    "3 fields where the header has 8": "105,a.png,x\n",
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_wrong_row_of_the_table_is_one_line(tmp_path, reason):
    write(tmp_path, table=TABLE + BAD_ROWS[reason])
    with pytest.raises(UserError, match=reason) as caught:
        load_studies("padchest_gr", tmp_path)
    assert "master_table.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_named_with_where_they_come_from(tmp_path):
    write(tmp_path)
    for name in ("grounded_reports_20240819.json", "master_table.csv"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=f"{name} is missing; take it from bimcv.cipf.es"):
            load_studies("padchest_gr", tmp_path)
        (tmp_path / name).write_text(text)
