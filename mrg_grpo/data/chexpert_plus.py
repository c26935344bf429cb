"""CheXpert Plus, as Stanford AIMI gives it out: a table of a row an image, and PNG files.

    df_chexpert_plus_240401.csv                            path_to_image, frontal_lateral, deid_patient_id, split,
        patient_report_date_order, section_findings, section_impression, section_clinical_history, section_history,
        section_comparison, age, sex, and more that is not read
    PNG/train/patient00001/study1/view1_frontal.png        from the archives; or under PNG/PNG/, PNGs/, or here

path_to_image is "train/patient00001/study1/view1_frontal.jpg", in the letters of CheXpert; the images came as PNG, so
.png is looked for first, then .jpg. Studies are the rows of one folder, called patient00001_study1 as in ReXrank.

Read for this: Stanford-AIMI/chexpert-plus; the audit of the whole table in mr-shakib/compound-shift-selective-
reliability (columns, counts, values); the readers of uzh-dqbm-cmi/RadVLM-GRPO, f10409/RadHarmony and
alwaniaayan6-png/ClaimGuard-CXR. Inferred: that all images of a copy have one ending.

Deliberate choices:
1. The set has train and valid. Valid, 200 studies, is test here, as in RadVLM and ReXrank; val is 1% of the patients of
   train, by a hash of the patient. A table with a test split is taken as it stands, and data.split_file replaces all.
2. Rows of a study may differ in their texts (the audit found some): those of its first row count, and a note says so.
3. The set has no indication: history is section_clinical_history, then section_history.
4. The study before has the next lower patient_report_date_order: often not the order of dates, as a note says.
5. The data-use agreement is personal: an error names ids and files, never a report's text.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from mrg_grpo.data import records
from mrg_grpo.data.context import before, context_of, wants_prior
from mrg_grpo.data.records import LoadOptions, Record, Source
from mrg_grpo.data.sections import SECTIONS, joined
from mrg_grpo.data.splits import HELD_OUT, hash_share
from mrg_grpo.errors import UserError

TABLE = "df_chexpert_plus_240401.csv"
REMEDY = "take it from aimi.stanford.edu/datasets/chexpert-plus"
NEEDED = ("path_to_image", "frontal_lateral", "deid_patient_id", "split", "section_findings", "section_impression")
MORE = ("section_clinical_history", "section_history", "section_comparison", "age", "sex", "patient_report_date_order")
PATH = re.compile(r"[\w-]+/(patient\w+)/(study\w+)/[\w-]+\.(?:jpg|png)", re.ASCII)
ORDER = re.compile(r"(\d{1,6})(?:\.0)?", re.ASCII)
NOTE = "the study before goes by patient_report_date_order, which a public user found to differ from the reports' dates"


@dataclass
class Joined:
    """The rows of one study."""

    patient: str
    split: str
    said: tuple[str, ...]
    images: list[str] = field(default_factory=list)


def read(root: Path, options: LoadOptions) -> Source:
    """Records of the table, in the order of each study's first row."""
    source, path = Source([], _image_folder(root)), root / TABLE
    studies = _joined(path, options, source.notes)
    splits = _splits(studies, options, source.notes)
    prior: dict[str, str] = {}
    if wants_prior(options):
        prior = before({name: (study.patient, _order(study, path, name)) for name, study in studies.items()})
        source.notes.append(NOTE)
    ending = _ending(source.image_folder, studies)
    for name, study in studies.items():
        findings, impression, clinical, history, comparison, age, sex, _ = study.said
        texts, where = {"findings": findings, "impression": impression}, f"{path}, study {name!r}"
        said = {"history": f"{clinical} {history}", "comparison": comparison, "age": age, "sex": sex}
        images = tuple(f"{image.rsplit('.', 1)[0]}{ending}" for image in study.images)
        source.records.append(
            Record(
                name,
                joined(texts, options.sections, options.keep_xxxx),
                images[: options.views] if isinstance(options.views, int) else images,
                splits[name],
                study.patient,
                context_of(said, options, where),
                prior.get(name, ""),
                joined(texts, SECTIONS, options.keep_xxxx) if options.context else "",
            )
        )
    return source


def _joined(path: Path, options: LoadOptions, notes: list[str]) -> dict[str, Joined]:
    """Studies by id, with the images of the wished views, as path_to_image names them."""
    studies: dict[str, Joined] = {}
    seen: set[str] = set()
    differing: dict[str, None] = {}
    for image, view, patient, name, *said in records.table_rows(path, NEEDED, notes, REMEDY, optional=MORE):
        match = PATH.fullmatch(image)
        if match is None:
            raise UserError(
                f"{path} has the path_to_image {image!r}; it must be as train/patient00001/study1/view1_frontal.jpg"
            )
        if image in seen:
            raise UserError(f"{path}: path_to_image {image!r} occurs twice; keep one row for each image")
        seen.add(image)
        study_id, where = f"{match.group(1)}_{match.group(2)}", f"{path}, image {image!r}"
        if view not in ("Frontal", "Lateral"):
            raise UserError(f"{where}: frontal_lateral {view!r} is neither Frontal nor Lateral; mend the row")
        if not patient.strip():
            raise UserError(f"{where} has a blank deid_patient_id; fill it in, as splits are by patient")
        split = records.split_named(name, where)
        study = studies.setdefault(study_id, Joined(patient, split, tuple(said)))
        if (study.patient, study.split) != (patient, split):
            raise UserError(f"{where} has another patient or split than rows of study {study_id} above; mend the row")
        if study.said != tuple(said):
            differing[study_id] = None
        if options.views != "frontal" or view == "Frontal":
            study.images.append(image)
    if differing:
        named = records.first_names(list(differing))
        notes.append(f"{len(differing):,} studies have rows that differ in texts; the first row counts: {named}")
    return studies


def _splits(studies: dict[str, Joined], options: LoadOptions, notes: list[str]) -> dict[str, str | None]:
    """The split of each study; None where a split file says it."""
    if options.split_file or any(study.split == "test" for study in studies.values()):
        return {name: None if options.split_file else study.split for name, study in studies.items()}
    notes.append(
        f"chexpert_plus has no test split: its valid split is test, and val is {HELD_OUT:.0%} of the patients of "
        "train, by a hash of the patient"
    )
    return {
        name: "test" if study.split == "val" else "val" if hash_share(study.patient) < HELD_OUT else "train"
        for name, study in studies.items()
    }


def _order(study: Joined, path: Path, name: str) -> int:
    match = ORDER.fullmatch(study.said[-1])
    if match is None:
        raise UserError(
            f"{path}, study {name!r}: patient_report_date_order {study.said[-1]!r} is no whole number; mend the row, "
            "or ask for no prior study"
        )
    return int(match.group(1))


def _image_folder(root: Path) -> Path:
    """Where the images lie: the first of the usual folders that has a folder of a split."""
    folders = [root / name for name in ("PNG/PNG", "PNG", "PNGs", "")]
    return next((one for one in folders if any((one / split).is_dir() for split in ("train", "valid"))), root / "PNG")


def _ending(folder: Path, studies: dict[str, Joined]) -> str:
    """What the names of the image files end in: as the first that is there."""
    stems = (f"{folder}/{image.rsplit('.', 1)[0]}" for study in studies.values() for image in study.images)
    found = (ending for stem in stems for ending in (".png", ".jpg") if Path(stem + ending).is_file())
    return next(found, ".png")
