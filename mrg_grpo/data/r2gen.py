"""The R2Gen form of IU X-Ray and MIMIC-CXR: annotation.json with three lists of records, and images/.

A record has "id", "report" and "image_path", a list of names under images/. A "split" key, where there is one, must
agree with the list it stands in (one public copy has none). The report of this form is the findings section.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrg_grpo.data import records
from mrg_grpo.data.records import LoadOptions, Record, Source
from mrg_grpo.data.sections import clean
from mrg_grpo.errors import UserError

REMEDY = "it must be R2Gen's annotation.json"
ChooseFrontal = Callable[[tuple[str, ...]], tuple[str, ...]]


def read(root: Path, form: str, options: LoadOptions, frontal: ChooseFrontal | None = None) -> Source:
    """Records of `root`/annotation.json; `frontal` picks the frontal ones among image names, where that is known."""
    if options.sections != ("findings",):
        raise UserError(
            f'data.sections is {list(options.sections)!r}, but {form} holds findings alone; use sections = ["findings"]'
        )
    if options.split_file is not None:
        raise UserError(f"{form} has a split of its own; leave out the split file {options.split_file}")
    if options.views == "frontal" and frontal is None:
        raise records.view_error(form, "use views = 1 for the first image, customarily the frontal one")
    path = root / "annotation.json"
    source = Source([], root / "images")
    seen: set[str] = set()
    for split, entries in annotation(path, source.notes).items():
        for number, entry in enumerate(entries):
            record = _record(entry, split, f"{path}, {split} record {number}", options, frontal)
            if record.id in seen:
                raise UserError(f"{path}: id {record.id!r} occurs twice; give each study one record in one split")
            seen.add(record.id)
            source.records.append(record)
    return source


def annotation(path: Path, notes: list[str]) -> dict[str, list[Any]]:
    """The three lists of an annotation file, by split name; UserError if it is not JSON or lacks one."""
    tree = records.json_tree(path, notes, REMEDY)
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}, not an object with train, val and test; {REMEDY}")
    lists: dict[str, list[Any]] = {}
    for name, entries in tree.items():
        split = records.split_named(name, str(path))
        if split in lists:
            raise UserError(f"{path} has the split {split} under two names; keep one")
        if not isinstance(entries, list):
            raise UserError(f"{path}: {name!r} holds a {type(entries).__name__}, not a list of records; {REMEDY}")
        lists[split] = entries
    for split in records.SPLITS:
        if split not in lists:
            raise UserError(f"{path} lacks the split {split!r}; add it, as an empty list if there is none")
    return {split: lists[split] for split in records.SPLITS}


def _record(entry: Any, split: str, where: str, options: LoadOptions, frontal: ChooseFrontal | None) -> Record:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is a {type(entry).__name__}, not an object; {REMEDY}")
    study_id, report, names = (entry.get(key) for key in ("id", "report", "image_path"))
    if not isinstance(study_id, str | int) or isinstance(study_id, bool) or not str(study_id).strip():
        raise UserError(f"{where} has the id {study_id!r}; give it a text or a number")
    where = f"{where} (id {study_id!r})"
    if not isinstance(report, str):
        raise UserError(f'{where} has a report of type {type(report).__name__}; give "report" as text, "" if empty')
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{where} has no list of image names; give "image_path" as a list of text')
    if "split" in entry and records.split_named(entry["split"], where) != split:
        raise UserError(f"{where} says it belongs to {entry['split']!r}; move it there or mend its split")
    images = tuple(records.safe_relative(records.unicode_text(name, where), where) for name in names)
    if isinstance(options.views, int):
        images = images[: options.views]
    elif options.views == "frontal" and frontal is not None:
        images = frontal(images)
    report = clean(records.unicode_text(report, where), options.keep_xxxx)
    subject = entry.get("subject_id")
    known = str(subject) if isinstance(subject, str | int) and not isinstance(subject, bool) else ""
    return Record(records.unicode_text(str(study_id), where), report, images, split, known)
