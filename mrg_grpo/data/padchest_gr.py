"""PadChest-GR, as BIMCV gives it out: studies of one frontal image, with their findings sentence by sentence.

    grounded_reports_20240819.json     a list: StudyID, ImageID, PreviousStudyID, PreviousImageID (or null), findings:
                                       [{"sentence_en": ..., "sentence_es": ..., "abnormal": ..., "boxes": ...}, ...]
    master_table.csv                   StudyID, PatientID, split (train, validation, test), PatientAge,
                                       PatientSex_DICOM, and more that is not read; a row a finding, so many a study
    Padchest_GR_files/PadChest_GR/     the images, from PadChest_GR.zip.001 to .037; or without the inner folder
    PadChest_GR_progression_prior_studies/    images of prior studies, here or in one folder inside

Read for this: the paper (arXiv:2411.05085); the readers of alwaniaayan6-png/ClaimGuard-CXR (columns of both files),
PabloMessina/CURE and Maa1604/BLIP2-PADCHESTGR; three more public readers in part. Inferred: the inner folder of the
prior images, and that a sentence may lack its full stop.

Deliberate choices:
1. The report is all sentences in English, of what is there and of what is not, in the order of the file, each closed
   by a full stop. It is the findings: there is no impression. A sentence without English is left out and counted.
2. All images are frontal: the set was selected so.
3. A prior report is shown where PreviousStudyID is in the set itself; a prior image in either case.
4. The research-use agreement is personal: an error names ids and files, never a report's text.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mrg_grpo.data import records
from mrg_grpo.data.context import context_of
from mrg_grpo.data.records import LoadOptions, Record, Source
from mrg_grpo.data.sections import clean
from mrg_grpo.errors import UserError

REPORTS = "grounded_reports_20240819.json"
TABLE = "master_table.csv"
REMEDY = "take it from bimcv.cipf.es/bimcv-projects/padchest-gr"
IMAGES = "Padchest_GR_files"
PRIORS = "PadChest_GR_progression_prior_studies"


def read(root: Path, options: LoadOptions) -> Source:
    """Records of the reports, in the order of their file."""
    if options.sections != ("findings",):
        raise UserError(
            f"data.sections is {list(options.sections)!r}, but padchest_gr holds findings alone; use sections = "
            '["findings"]'
        )
    source, path = Source([], root), root / REPORTS
    table = _table(root / TABLE, source.notes)
    tree = records.json_tree(path, source.notes, REMEDY)
    if not isinstance(tree, list):
        raise UserError(f"{path} holds a {type(tree).__name__}, not a list of studies; {REMEDY}")
    entries = _by_id(tree, path)
    images, priors = _inner(root, IMAGES, "PadChest_GR"), _inner(root, PRIORS, PRIORS)
    silent = 0
    for study_id, entry in entries.items():
        where = f"{path}, study {study_id}"
        if study_id not in table:
            raise UserError(f"{where} is not in {root / TABLE}, which has its split; {REMEDY}")
        split, patient, age, sex = table[study_id]
        sentences, without = _sentences(entry, where, options)
        silent += without
        before, image = _name(entry, "PreviousStudyID", where), _name(entry, "PreviousImageID", where)
        known = context_of({"age": age, "sex": sex}, options, where)
        if "prior_images" in options.context and image and before not in entries:
            known = replace(known, prior_images=(records.safe_relative(f"{priors}/{image}", where),))
        report = " ".join(sentences)
        source.records.append(
            Record(
                study_id,
                report,
                (records.safe_relative(f"{images}/{_name(entry, 'ImageID', where, needed=True)}", where),),
                None if options.split_file else split,
                patient,
                known,
                before,
                report if options.context else "",
            )
        )
    if silent:
        source.notes.append(f"{silent:,} sentences have no English text and are left out")
    if unused := sorted(table.keys() - entries.keys()):
        named = records.first_names(unused)
        source.notes.append(f"warning: {len(unused):,} studies of {TABLE} have no report and are left out: {named}")
    return source


def _table(path: Path, notes: list[str]) -> dict[str, tuple[str, str, str, str]]:
    """Split, patient, age and sex of each study."""
    studies: dict[str, tuple[str, str, str, str]] = {}
    columns, more = ("StudyID", "PatientID", "split"), ("PatientAge", "PatientSex_DICOM")
    for study_id, patient, name, age, sex in records.table_rows(path, columns, notes, REMEDY, optional=more):
        where = f"{path}, study {study_id!r}"
        if not study_id.strip() or not patient.strip():
            raise UserError(f"{where} has a blank StudyID or PatientID; mend the row")
        split = records.split_named(name, where)
        if studies.setdefault(study_id, (split, patient, age, sex))[:2] != (split, patient):
            raise UserError(f"{where} has rows of two patients or splits; give the study one of each")
    return studies


def _by_id(tree: list[Any], path: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(tree):
        if not isinstance(entry, dict):
            raise UserError(f"{path}, record {number} is a {type(entry).__name__}, not an object; {REMEDY}")
        study_id = _name(entry, "StudyID", f"{path}, record {number}", needed=True)
        if study_id in entries:
            raise UserError(f"{path}: StudyID {study_id!r} occurs twice; keep one record for each study")
        entries[study_id] = entry
    return entries


def _name(entry: dict[str, Any], key: str, where: str, needed: bool = False) -> str:
    """An id or file name; "" for null or where there is none, if it is not needed."""
    value = entry.get(key)
    if value in (None, "") and not needed:
        return ""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} has the {key} {value!r}; give it as text")
    return records.unicode_text(value.strip(), where)


def _sentences(entry: dict[str, Any], where: str, options: LoadOptions) -> tuple[list[str], int]:
    """The English sentences, closed, and how many have no English text."""
    findings = entry.get("findings")
    if not isinstance(findings, list) or not all(isinstance(one, dict) for one in findings):
        raise UserError(f"{where} has no list of findings; give objects with sentence_en")
    texts = [one.get("sentence_en") or "" for one in findings]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where} has a sentence_en that is no text; mend the record")
    cleaned = [clean(records.unicode_text(text, where), options.keep_xxxx) for text in texts]
    closed = [text if text.endswith((".", "!", "?")) else f"{text}." for text in cleaned if text]
    return closed, len(texts) - len(closed)


def _inner(root: Path, folder: str, inner: str) -> str:
    """A folder of images, or the folder inside that the archive makes."""
    return f"{folder}/{inner}" if (root / folder / inner).is_dir() else folder
