"""ReXGradient-160K, as the files of rajpurkarlab/ReXGradient-160K on the Hugging Face hub.

    metadata/train_metadata_view_position.json   and valid_, test_: {study: {"ImagePath": [...], "Findings": ..., ...}}
    metadata/train_metadata.json                 read where the first is not there; its views may be poorer
    deid_png/<PatientID>/<AccessionNumber>/studies/.../instances/<uid>.png   from deid_png.part00 to part09, unpacked

A study has PatientID, StudyDate (YYYYMMDD), PatientSex, PatientAge ("063Y"), Indication, Comparison, Findings,
Impression, and two lists: ImagePath ("../deid_png/...", relative to metadata/) and ImageViewPosition. metadata/*.csv
hold the same texts and no images, and are not read.

Read for this: the data set's card; the reader and the notes of f10409/RadHarmony; four more public readers in part.
Inferred: that a plain train_metadata.json has the same keys, and that a text "None" stands for none in findings,
impression and indication (RadHarmony takes it so). A comparison of "None." says something and is kept.

Deliberate choices:
1. Frontal is PA, AP and their long names. "AP (KUB)" is of the abdomen. A view that is missing is not frontal.
2. The study before is the patient's last one of an earlier StudyDate; there is no time of day.
3. The data-use agreement is personal: an error names ids and files, never a report's text.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrg_grpo.data import records
from mrg_grpo.data.context import before, context_of, wants_prior
from mrg_grpo.data.records import LoadOptions, Record, Source
from mrg_grpo.data.sections import SECTIONS, joined
from mrg_grpo.errors import UserError

REMEDY = "take it from huggingface.co/datasets/rajpurkarlab/ReXGradient-160K"
FILES = {"train": "train", "valid": "val", "test": "test"}
"""What the names of the files begin with, and the split."""
FRONTAL = ("PA", "AP", "POSTERO_ANTERIOR", "ANTERO_POSTERIOR")
DATE = re.compile(r"\d{8}", re.ASCII)


def read(root: Path, options: LoadOptions) -> Source:
    """Records of the three splits, in the order of their files."""
    source = Source([], root)
    seen: dict[str, Path] = {}
    dated: dict[str, tuple[str, str]] = {}
    for name, split in FILES.items():
        path = _metadata(root, name)
        for study_id, entry in _entries(path, source.notes).items():
            if study_id in seen:
                raise UserError(f"{path} has the study {study_id!r} of {seen[study_id]} again; keep one of them")
            seen[study_id] = path
            record = _record(study_id, entry, split, f"{path}, study {study_id!r}", options)
            source.records.append(record)
            if date := str(entry.get("StudyDate") or ""):
                if not DATE.fullmatch(date):
                    raise UserError(
                        f"{path}, study {study_id!r} has the StudyDate {date!r}; give it as YYYYMMDD, or leave it out"
                    )
                dated[study_id] = (record.subject, date)
    if wants_prior(options):
        prior = before({study_id: one for study_id, one in dated.items() if one[0]})
        source.records = [replace(record, prior=prior.get(record.id, "")) for record in source.records]
    return source


def _metadata(root: Path, name: str) -> Path:
    paths = [root / "metadata" / f"{name}_metadata{end}.json" for end in ("_view_position", "")]
    return next((path for path in paths if path.is_file()), paths[0])


def _entries(path: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Studies by id of one file."""
    tree = records.json_tree(path, notes, REMEDY)
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}, not an object of studies by id; {REMEDY}")
    for study_id, entry in tree.items():
        if not isinstance(entry, dict):
            raise UserError(f"{path}, study {study_id!r} is a {type(entry).__name__}, not an object; {REMEDY}")
    return tree


def _record(study_id: str, entry: dict[str, Any], split: str, where: str, options: LoadOptions) -> Record:
    records.unicode_text(study_id, where)
    for key in ("ImagePath", "Findings", "Impression"):
        if key not in entry:
            raise UserError(f"{where} has no {key!r} (it has: {records.first_names(list(entry), 20)}); {REMEDY}")
    texts = {name: _text(entry, name.capitalize(), where) for name in (*SECTIONS, "indication")}
    known = {
        "age": entry.get("PatientAge"),
        "sex": entry.get("PatientSex"),
        "indication": texts["indication"],
        "comparison": entry.get("Comparison"),
    }
    patient = entry.get("PatientID")
    return Record(
        study_id,
        joined(texts, options.sections, options.keep_xxxx),
        _images(entry, where, options),
        None if options.split_file else split,
        patient if isinstance(patient, str) else "",
        context_of(known, options, where),
        answer=joined(texts, SECTIONS, options.keep_xxxx) if options.context else "",
    )


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    """A section; "" where it is null, not a number, or "None"."""
    value = entry.get(key)
    if value is None or value != value or (isinstance(value, str) and value.strip().lower() in ("none", "nan")):
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where} has {key} of type {type(value).__name__}; give it as text, null if there is none")
    return records.unicode_text(value, where)


def _images(entry: dict[str, Any], where: str, options: LoadOptions) -> tuple[str, ...]:
    """The images of the wished views, relative to the folder of the data set."""
    paths = _list(entry, "ImagePath", where)
    if not all(isinstance(path, str) for path in paths):
        raise UserError(f"{where} has an ImagePath that is no text; give a list of paths")
    if options.views == "frontal":
        views = _list(entry, "ImageViewPosition", where)
        if len(views) != len(paths):
            raise UserError(f"{where} has {len(paths)} images and {len(views)} views; give each image one, or null")
        paths = [path for path, view in zip(paths, views) if view in FRONTAL]
    elif isinstance(options.views, int):
        paths = paths[: options.views]
    # "../deid_png/x.png" of metadata/ is deid_png/x.png here
    names = (records.unicode_text(path, where).removeprefix("../") for path in paths)
    return tuple(records.safe_relative(name, where) for name in names)


def _list(entry: dict[str, Any], key: str, where: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise UserError(f"{where} has {key} of type {type(value).__name__}; give it as a list")
    return value
