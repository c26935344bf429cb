"""MIMIC-CXR in native and R2Gen form, on trees written here with invented texts."""

import json
import sys
import zipfile
from pathlib import Path

import pytest
from mimic_tree import TEXTS, flat, native

from mrg_grpo.data import describe_splits, load_studies, records
from mrg_grpo.data.sections import joined, parse_report
from mrg_grpo.errors import UserError


@pytest.mark.parametrize(("packed", "archived"), [(False, False), (True, True)])
def test_native_layout(tmp_path, packed, archived):
    loaded = load_studies("mimic_cxr", native(tmp_path, packed=packed, archived=archived))
    ids = {name: [study.id for study in part] for name, part in loaded.items()}
    assert ids == {"train": ["50000001", "50000002"], "val": ["50000003"], "test": ["50000004"]}
    study = loaded["train"][0]
    assert study.report == "The lungs are clear. Compared to ___: no change. Heart size is normal."
    folder = f"{tmp_path}/files/p10/p10000032/s50000001"
    assert study.images == (f"{folder}/aa-1.jpg", f"{folder}/aa-2.jpg")
    assert loaded["val"][0].report == "" and any("no text in findings and are kept" in n for n in loaded.notes)
    lines = describe_splits(loaded, "mimic_cxr")
    assert "warning: split train of mimic_cxr holds 2 studies, the published one 222,758" in lines


def test_no_image_is_opened_and_each_folder_is_listed_once(tmp_path):
    native(tmp_path)
    events: list[tuple[str, str]] = []
    watching = [True]

    def watch(event, args):
        if watching[0] and event in ("open", "os.listdir", "os.scandir"):
            events.append((event, str(args[0])))

    sys.addaudithook(watch)  # audit hooks cannot be removed
    load_studies("mimic_cxr", tmp_path)
    watching[0] = False
    assert len({name for _, name in events if name.endswith(".txt")}) == 4
    assert not [name for _, name in events if name.endswith(".jpg")]
    listed = [name for event, name in events if event != "open"]
    assert len(listed) == len(set(listed)) == 4


def test_sections_and_views(tmp_path):
    native(tmp_path)
    both = flat(load_studies("mimic_cxr", tmp_path, sections=("findings", "impression"), keep_xxxx=False))
    assert both["50000001"].report == (
        "The lungs are clear. Compared to: no change. Heart size is normal. "
        "1. No acute disease. 2. Tube ends 4 cm above the carina."
    )
    assert both["50000002"].report == "Both lungs clear."
    for section in ("findings", "impression"):
        assert flat(load_studies("mimic_cxr", tmp_path, sections=[section]))["50000002"].report.startswith("Both")
    for views, names in (("frontal", ["aa-2"]), (1, ["aa-1"]), (2, ["aa-1", "aa-2"]), ("all", ["aa-1", "aa-2"])):
        images = flat(load_studies("mimic_cxr", tmp_path, views=views))["50000001"].images
        assert [Path(name).stem for name in images] == names


def test_missing_images_and_reports(tmp_path):
    native(tmp_path)
    (tmp_path / "files/p10/p10000032/s50000001/aa-2.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 5 images are missing from .*: files/p10/p10000032/s50000001/aa-2.jpg"):
        load_studies("mimic_cxr", tmp_path)
    kept = flat(load_studies("mimic_cxr", tmp_path, allow_missing=True))
    assert [Path(name).stem for name in kept["50000001"].images] == ["aa-1"] and len(kept) == 4
    (tmp_path / "files/p12/p12000009/s50000004.txt").unlink()
    with pytest.raises(UserError, match=r"1 of 4 reports are missing: files/p12/p12000009/s50000004.txt; put mimic-"):
        load_studies("mimic_cxr", tmp_path, allow_missing=True)
    # a part of the data set: a table in the same form names what is there
    (tmp_path / "part.csv").write_text("dicom_id,study_id,subject_id,split\ncc-1,50000003,11000007,test\n")
    part = load_studies("mimic_cxr", tmp_path, split_file=tmp_path / "part.csv")
    assert [len(part[name]) for name in ("train", "val", "test")] == [0, 0, 1]


def row(dicom="zz", study="50000009", subject="13000001", split="train") -> tuple[str, str, str, str]:
    return dicom, study, subject, split


BAD_ROWS = {
    "whole numbers": row(subject="../../etc"),
    "letters, digits and hyphens": row(dicom="../../../../x"),
    "occurs twice": row(dicom="aa-1"),
    "has a blank split name": row(split="  "),
    "the split name 'holdout'": row(split="holdout"),
    "one patient, one split": row(subject="10000032", split="test"),
    "to subjects 10000032 and 13000001": row(study="50000001"),
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_bad_split_rows(tmp_path, reason):
    native(tmp_path)
    with (tmp_path / "mimic-cxr-2.0.0-split.csv").open("a") as file:
        file.write(",".join(BAD_ROWS[reason]) + "\n")
    with pytest.raises(UserError, match=reason) as caught:
        load_studies("mimic_cxr", tmp_path)
    assert "mimic-cxr-2.0.0-split.csv" in str(caught.value)


def test_damaged_archives(tmp_path):
    native(tmp_path, packed=True, archived=True)
    split, reports = tmp_path / "mimic-cxr-2.0.0-split.csv.gz", tmp_path / "mimic-cxr-reports.zip"
    whole = {path: path.read_bytes() for path in (split, reports)}
    for path, content in whole.items():
        for damaged in (content[: len(content) // 2], b"", b"no archive at all"):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=path.name):
                load_studies("mimic_cxr", tmp_path)
        path.write_bytes(content)
    split.unlink()
    with pytest.raises(UserError, match=r"split.csv and mimic-cxr-2.0.0-split.csv.gz are missing; take it from physio"):
        load_studies("mimic_cxr", tmp_path)


def test_a_report_that_unpacks_to_more_than_a_report_can_is_refused(tmp_path):
    """Even where the archive says that it is small: no more than a report is ever unpacked."""
    native(tmp_path, archived=True)
    archive = tmp_path / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(archive) as packed:
        name = packed.namelist()[0]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, bytes(records.MAX_REPORT + 1))
    with pytest.raises(UserError, match="holds more than a report can; fetch it again"):
        load_studies("mimic_cxr", tmp_path)


def test_an_error_never_quotes_a_report(tmp_path):
    """The texts are credentialed: an error names ids and files alone."""
    native(tmp_path, texts={"50000001": " FINDINGS: secretword\n"})
    (tmp_path / "files/p12/p12000009/s50000004.txt").unlink()
    with pytest.raises(UserError) as caught:
        load_studies("mimic_cxr", tmp_path)
    assert "secretword" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        (" FINDINGS/IMPRESSION:\n\n Clear.\n", "Clear.", "Clear."),
        (" Findings: Clear at 10:30. Note: ok.\n Impression: None.\n", "Clear at 10:30. Note: ok.", "None."),
        (" FINDINGS: A.\n CONCLUSION: B.\n RECOMMENDATION(S): C.\n", "A.", "B."),
        (" FINDINGS: A.\n NOTIFICATION: X.\n ADDENDUM:\n FINDINGS: B.\n", "A. B.", ""),
        (" FINDINGS: A.\n FINDINGS AND IMPRESSION: B.\n", "A.", "B."),
        (" The lungs are clear.\n", "", ""),
        ("", "", ""),
    ],
)
def test_headers(text, findings, impression):
    texts = parse_report(text)
    assert joined(texts, ["findings"]) == findings and joined(texts, ["impression"]) == impression
    both = findings if findings == impression else " ".join(filter(None, (findings, impression)))
    assert joined(texts, ["findings", "impression"]) == both


def test_r2gen_form_and_its_views(tmp_path):
    (tmp_path / "images" / "p10" / "s1").mkdir(parents=True)
    for name in ("aa-1", "aa-2"):
        (tmp_path / "images" / "p10" / "s1" / f"{name}.jpg").touch()
    record = {"id": "aa-1", "study_id": 1, "report": "Clear ___.", "image_path": ["p10/s1/aa-1.jpg", "p10/s1/aa-2.jpg"]}
    (tmp_path / "annotation.json").write_text(json.dumps({"train": [], "val": [], "test": [record]}))
    assert len(load_studies("mimic_cxr_r2gen", tmp_path)["test"][0].images) == 2
    with pytest.raises(UserError, match="does not say which image is frontal; use views = 1"):
        load_studies("mimic_cxr_r2gen", tmp_path, views="frontal")
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text("dicom_id,ViewPosition\naa-1,LL\naa-2,AP\n")
    (study,) = load_studies("mimic_cxr_r2gen", tmp_path, views="frontal", keep_xxxx=False)["test"]
    assert [Path(name).stem for name in study.images] == ["aa-2"] and study.report == "Clear."


def test_reports_without_a_section_are_counted_with_their_headers_alone(tmp_path):
    texts = TEXTS | {
        "50000004": " INDICATION: secretword.\n CHEST, TWO VIEWS: Clear.\n",
        "50000003": " WET READ: Secret.\n",
    }
    loaded = load_studies("mimic_cxr", native(tmp_path, texts=texts), sections=("findings", "impression"))
    notes = [note for note in loaded.notes if "reports have no" in note]
    assert notes == [
        "1 of 4 reports have no findings; the headers in them: WET READ 1",
        "2 of 4 reports have no impression; the headers in them: WET READ 1, INDICATION 1, CHEST, TWO VIEWS 1",
    ]
    assert flat(loaded)["50000004"].report == "Clear."
