"""CheXpert Plus in the layout of Stanford AIMI, written here with invented texts."""

import csv
from pathlib import Path

import pytest

from mrg_grpo.data import describe_splits, load_studies
from mrg_grpo.data.splits import published_sizes
from mrg_grpo.data.study import Context
from mrg_grpo.errors import UserError

COLUMNS = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order",
    "report", "section_narrative", "section_clinical_history", "section_history", "section_comparison",
    "section_technique", "section_procedure_comments", "section_findings", "section_impression",
    "section_end_of_impression", "section_summary", "section_accession_number", "age", "sex", "race", "ethnicity",
    "interpreter_needed", "insurance_type", "recent_bmi", "deceased", "split",
)  # fmt: skip


def row(patient=1, study=1, view="view1_frontal", split="train", **changes) -> dict[str, str]:
    name = f"{split}/patient{patient:05d}/study{study}/{view}"
    return (
        dict.fromkeys(COLUMNS, "")
        | {
            "path_to_image": f"{name}.jpg",
            "path_to_dcm": f"{name}.dcm",
            "frontal_lateral": "Frontal" if "frontal" in view else "Lateral",
            "deid_patient_id": f"patient{patient:05d}",
            "patient_report_date_order": str(study),
            "report": "NARRATIVE: ...",
            "section_findings": f"Findings of {patient}/{study}.",
            "section_impression": "1. Stable.",
            "section_clinical_history": "Cough.",
            "section_comparison": "None.",
            "age": "82.0",
            "sex": "Female",
            "split": split,
        }
        | changes
    )


def rows() -> list[dict[str, str]]:
    return [
        row(1, 10, view="view2_lateral"),
        row(1, 10),
        row(1, 2, section_history="Smoker.", section_findings=""),
        row(1, 9, section_clinical_history=""),
        row(3, 1),
        row(7, 1, split="valid"),
    ]


def write(root: Path, table=None, folder="PNG", ending=".png", columns=COLUMNS) -> Path:
    with open(root / "df_chexpert_plus_240401.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows() if table is None else table)
    for one in rows():
        path = (root / folder / one["path_to_image"]).with_suffix(ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def flat(loaded) -> dict:
    return {one.id: one for part in loaded.values() for one in part}


@pytest.mark.parametrize(
    ("folder", "ending"), [("PNG", ".png"), ("PNG/PNG", ".png"), ("PNGs", ".png"), ("", ".jpg"), ("", ".png")]
)
def test_rows_of_a_folder_are_a_study_and_images_are_png_before_jpg(tmp_path, folder, ending):
    loaded = load_studies("chexpert_plus", write(tmp_path, folder=folder, ending=ending))
    assert list(flat(loaded)) == [
        f"patient0000{name}" for name in ("1_study10", "1_study2", "1_study9", "3_study1", "7_study1")
    ]
    inner = f"{tmp_path}/{folder}/train/patient00001/study10".replace("//", "/")
    one = flat(loaded)["patient00001_study10"]
    assert one.images == (f"{inner}/view2_lateral{ending}", f"{inner}/view1_frontal{ending}")
    assert one.report == "Findings of 1/10." and flat(loaded)["patient00001_study2"].report == ""


def test_where_both_endings_are_there_png_counts(tmp_path):
    write(tmp_path, ending=".jpg")
    write(tmp_path)
    names = [name for one in flat(load_studies("chexpert_plus", tmp_path)).values() for name in one.images]
    assert len(names) == 6 and {Path(name).suffix for name in names} == {".png"}


def test_valid_is_test_and_a_hundredth_of_the_patients_of_train_validates(tmp_path):
    """All studies of a patient together. The patients that validate are pinned: a changed rule would move them."""
    table = [row(patient, study) for patient in range(1, 2001) for study in (1, 2)] + [row(7000, 1, split="valid")]
    loaded = load_studies("chexpert_plus", write(tmp_path, table), allow_missing=True)
    assert [one.id for one in loaded["test"]] == ["patient07000_study1"]
    patients = {name: {one.id.split("_")[0] for one in loaded[name]} for name in ("train", "val")}
    assert patients["train"].isdisjoint(patients["val"]) and len(loaded["val"]) == 2 * len(patients["val"])
    assert 8 <= len(patients["val"]) <= 34  # 20 of 2,000, four standard deviations
    assert patients["val"] == {f"patient{number:05d}" for number in PINNED}
    told = next(note for note in loaded.notes if "no test split" in note)
    assert "its valid split is test, and val is 1% of the patients of train" in told
    lines = describe_splits(loaded, "chexpert_plus")
    assert "warning: chexpert_plus holds 4,001 studies, the published set 187,711" in lines
    assert "warning: split test of chexpert_plus holds 1 studies, the published one 200" in lines
    sizes, _ = published_sizes("chexpert_plus")
    assert sizes == {"train": 185_636, "val": 1875, "test": 200}


PINNED = [65, 96, 241, 249, 314, 316, 472, 623, 873, 963, 1005, 1158, 1194, 1308, 1408, 1526, 1832, 1927, 1985]


def test_a_table_with_a_test_split_is_taken_as_it_stands(tmp_path):
    table = [*rows(), row(8, 1, split="test")]
    loaded = load_studies("chexpert_plus", write(tmp_path, table), allow_missing=True)
    assert [[one.id for one in loaded[name]] for name in ("val", "test")] == [
        ["patient00007_study1"],
        ["patient00008_study1"],
    ]
    mine = tmp_path / "mine.csv"
    mine.write_text("id,split\npatient00001_study10,val\npatient00007_study1,train\n")
    loaded = load_studies("chexpert_plus", tmp_path, split_file=mine, allow_missing=True)
    assert {name: [one.id[8:] for one in part] for name, part in loaded.items()} == {
        "train": ["0007_study1"], "val": ["0001_study10"], "test": [],
    }  # fmt: skip


def test_sections_views_and_missing_images(tmp_path):
    write(tmp_path)
    both = flat(load_studies("chexpert_plus", tmp_path, sections=("findings", "impression")))
    assert both["patient00001_study10"].report == "Findings of 1/10. 1. Stable."
    for views, names in (
        ("frontal", ["view1_frontal"]),
        (1, ["view2_lateral"]),
        (2, ["view2_lateral", "view1_frontal"]),
    ):
        images = flat(load_studies("chexpert_plus", tmp_path, views=views))["patient00001_study10"].images
        assert [Path(name).stem for name in images] == names
    (tmp_path / "PNG/train/patient00003/study1/view1_frontal.png").unlink()
    with pytest.raises(UserError, match=r"1 of 6 images are missing from .*PNG: train/patient00003/study1/view1_front"):
        load_studies("chexpert_plus", tmp_path)
    kept = load_studies("chexpert_plus", tmp_path, allow_missing=True, incomplete="drop")
    assert len(flat(kept)) == 4 and flat(kept)["patient00003_study1"].images == ()


def test_what_is_known_and_the_study_before_by_number(tmp_path):
    """2, 9, 10: as texts "10" would be first."""
    asked = ("age", "sex", "history", "indication", "comparison", "prior_report", "prior_images")
    loaded = load_studies("chexpert_plus", write(tmp_path), context=asked)
    known = {name[8:]: one.context for name, one in flat(loaded).items()}
    assert known["0001_study2"] == Context("82", "female", "", "Cough. Smoker.", "None.")
    assert known["0001_study10"].prior_report == "Findings of 1/9."
    assert known["0001_study9"].prior_report == "" and known["0001_study9"].history == ""
    (image,) = known["0001_study9"].prior_images
    assert image == f"{tmp_path}/PNG/train/patient00001/study2/view1_frontal.png"
    assert known["0003_study1"].prior_images == ()
    assert any("found to differ from the reports' dates" in note for note in loaded.notes)
    assert "indication of 0" in next(note for note in loaded.notes if note.startswith("context: "))


def test_rows_that_differ_in_texts_are_counted_and_the_first_counts(tmp_path):
    table = [row(1, 1), row(1, 1, view="view2_lateral", section_findings="Another.")]
    loaded = load_studies("chexpert_plus", write(tmp_path, table), allow_missing=True)
    assert flat(loaded)["patient00001_study1"].report == "Findings of 1/1."
    assert "1 studies have rows that differ in texts; the first row counts: patient00001_study1" in loaded.notes


BAD = {
    "it must be as train/patient00001/study1": row(path_to_image="../../etc/passwd"),
    "path_to_image ''; it must be as": row(path_to_image=""),
    "occurs twice; keep one row for each image": row(3, 1),
    "frontal_lateral '' is neither": row(9, frontal_lateral=""),
    "has a blank deid_patient_id": row(9, deid_patient_id=" "),
    "has a blank split name": row(9) | {"split": ""},
    "the split name 'holdout'": row(9) | {"split": "holdout"},
    "has another patient or split than rows of study patient00003_study1": row(
        3, 1, view="v2_lateral", deid_patient_id="x"
    ),
    "or split than rows of study patient00001_study2": row(1, 2, view="view3_frontal") | {"split": "valid"},
    "patient_report_date_order 'one' is no whole number": row(9, patient_report_date_order="one"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_wrong_row_is_one_line_with_file_and_remedy(tmp_path, reason):
    write(tmp_path, [*rows(), BAD[reason]])
    with pytest.raises(UserError, match=reason) as caught:
        load_studies("chexpert_plus", tmp_path, allow_missing=True, context=("prior_report",))
    message = str(caught.value)
    assert ("df_chexpert_plus_240401.csv" in message and ";" in message) or "mend" in message
    assert "\n" not in message and "Findings of" not in message


def test_a_missing_column_or_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"df_chexpert_plus_240401.csv is missing; take it from aimi.stanford.edu"):
        load_studies("chexpert_plus", tmp_path)
    write(tmp_path, columns=[name for name in COLUMNS if name != "section_impression"])
    with pytest.raises(UserError, match=r"has no column 'section_impression' \(it has: path_to_image"):
        load_studies("chexpert_plus", tmp_path)
