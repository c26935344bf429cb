"""The user's own table: a row an image or a row a study, its columns named by the configuration ([data.columns]).

Deliberate choices:
1. Rows of one study id are joined, wherever they stand: images in the order of the rows; report, patient and split must
   be the same in all of them, or blank in some. Two that differ are an error that names both rows.
2. A study without a split is never guessed into one. The split is that of its column, else of the names of the files
   (train-00000-of-00002.parquet), else of a hash of the patient, or of the study where no patient is named.
3. The data may be credentialed: an error names ids and places, never a report's text.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrg_grpo.config import ColumnsConfig
from mrg_grpo.data import parquet, records, table_files
from mrg_grpo.data.columns import CONTEXT, NONE, found_columns
from mrg_grpo.data.context import context_of
from mrg_grpo.data.mimic_cxr import FRONTAL_POSITIONS
from mrg_grpo.data.records import SPLIT_NAMES, LoadOptions, Record, Source
from mrg_grpo.data.sections import clean, joined
from mrg_grpo.data.splits import hashed_split
from mrg_grpo.data.table_files import Packed, Row, TableFile
from mrg_grpo.errors import UserError

FRONTAL = {name.lower() for name in (*FRONTAL_POSITIONS, "frontal", "antero-posterior", "postero-anterior")}
"""Views that are frontal, in lower case."""
TEXTS = {"report", "findings", "impression"}


def read(root: Path, options: LoadOptions) -> Source:
    """Records of the files that data.table names, in the order of each study's first row."""
    if options.split_file is not None:
        raise UserError("data.split_file is not read with a table; give the split in a column, data.columns.split")
    paths = table_files.named(root, options.table)
    files = [_opened(path, root) for path in paths]
    columns = found_columns(files[0], options)
    for file in files:
        for name in columns.values():
            if file.columns.count(name) != 1:
                how = "has no" if name not in file.columns else "has more than one"
                raise UserError(f"{file.path} {how} column {name!r}, which {files[0].path} has; mend the tables")
    source = Source([], root)
    by_file = _splits_by_file(paths, options.columns, columns)
    studies = _joined(files, by_file, columns, options)
    if not studies:
        raise UserError(f"{paths[0]} has no rows behind its header; {table_files.REMEDY}")
    splits = _splits(studies, columns, by_file, source.notes)
    source.records += [
        _record(name, study, split, options) for (name, study), split in zip(studies.items(), splits, strict=True)
    ]
    read_as = ", ".join(f"{role} from {name!r}" for role, name in columns.items())
    source.notes.insert(0, f"{options.table}: {read_as}")
    return source


def _opened(path: Path, root: Path) -> TableFile:
    is_parquet = table_files.kind_of(path) == ".parquet"
    return parquet.opened(path, root) if is_parquet else table_files.opened(path)


# ---- rows to studies


@dataclass
class Shared:
    """A cell that all rows of a study share: the first that is not blank, and where it stands."""

    value: str = ""
    where: str = ""

    def add(self, value: str, row: Row, what: str, study: str) -> None:
        if value and self.value and value != self.value:
            raise UserError(
                f"{row.where} gives study {study!r} another {what} than {self.where} does; give it one {what}, or name "
                "the column that tells the studies apart in data.columns.study"
            )
        if value and not self.value:
            self.value, self.where = value, row.where


@dataclass
class Joined:
    """The rows of one study, as far as they have been read."""

    where: str
    texts: dict[str, Shared] = field(default_factory=lambda: defaultdict(Shared))  # of the report, or by section
    patient: Shared = field(default_factory=Shared)
    split: Shared = field(default_factory=Shared)
    images: dict[str, str] = field(default_factory=dict)  # name -> where it stands
    beside: dict[str, Shared] = field(default_factory=lambda: defaultdict(Shared))  # by field of the context


def _joined(
    files: Sequence[TableFile], by_file: Sequence[str], columns: dict[str, str], options: LoadOptions
) -> dict[str, Joined]:
    """Studies by id."""
    studies: dict[str, Joined] = {}
    for file, own_split in zip(files, by_file, strict=True):
        for row in file.rows(list(dict.fromkeys(columns.values())), columns["images"]):
            cells = {role: row.cells.get(name) for role, name in columns.items()}
            name = _text(cells["study"], "study", row) if "study" in cells else f"{file.path.stem}-{row.number}"
            if not name:
                raise UserError(f"{row.where} has a blank study id; give each row the id of its study")
            if "study" not in cells and name in studies:
                raise UserError(f"{row.where} and {studies[name].where} would both be study {name}; rename a file")
            study = studies.setdefault(name, Joined(row.where))
            for role in TEXTS & cells.keys():
                study.texts[role].add(clean(_text(cells[role], role, row), options.keep_xxxx), row, role, name)
            for role in CONTEXT.keys() & cells.keys():
                study.beside[role].add(_text(cells[role], role, row), row, role, name)
            study.patient.add(_text(cells.get("patient"), "patient", row), row, "patient", name)
            split = _text(cells.get("split"), "split", row) or own_split
            study.split.add(records.split_named(split, row.where) if split else "", row, "split", name)
            for image in _images(cells, row, options):
                if image in study.images:
                    raise UserError(
                        f"{row.where} names the image {image} of study {name!r}, which {study.images[image]} has; list "
                        "it once"
                    )
                study.images[image] = row.where
    return studies


def _text(value: Any, what: str, row: Row) -> str:
    """An id or a name without white space around it; "" where there is none. Whole numbers are ids, too."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if what in ("study", "patient", "age") and not isinstance(value, bool):
        if isinstance(value, float) and value.is_integer():  # pandas makes whole numbers with a gap among them such
            value = int(value)
        value = str(value) if isinstance(value, int) else value
    if not isinstance(value, str):
        raise UserError(f"{row.where} has a {what} of type {type(value).__name__}; give it as text")
    return records.unicode_text(value, row.where).strip()


def _images(cells: dict[str, Any], row: Row, options: LoadOptions) -> Iterator[str]:
    """The images of a row, of the wanted views, relative to the data folder."""
    separators = options.columns.separators
    found = _items(cells["images"], "image", separators, row)
    if options.views == "frontal":
        views = _items(cells["view"], "view", separators, row)
        if len(views) != len(found):
            raise UserError(f"{row.where} has {len(found)} images and {len(views)} views; give each image one")
        found = [one for one, view in zip(found, views) if str(view).lower() in FRONTAL]
    for one in found:
        if isinstance(one, Packed):
            yield one.address
        else:
            yield records.safe_relative(records.unicode_text(one, row.where), row.where)


def _items(value: Any, what: str, separators: str, row: Row) -> list[str | Packed]:
    """A cell as a list: a list of its own, one written as JSON, or a text that the separators divide."""
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UserError(f'{row.where} has a list that is not JSON; write it as ["a.png", "b.png"]') from error
    elif isinstance(value, str):
        parts = re.split(f"[{re.escape(separators)}]", value) if separators else [value]
        value = [part.strip() for part in parts if part.strip()]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, str | Packed):
            raise UserError(f"{row.where} lists a {type(item).__name__} among its {what}s; give names as text")
    return items


def _record(name: str, study: Joined, split: str, options: LoadOptions) -> Record:
    said = {role: shared.value for role, shared in study.beside.items()}
    return Record(
        name,
        _report(study, options),
        tuple(study.images)[: _most(options)],
        split,
        study.patient.value,
        context_of(said, options, study.where),
        answer=" ".join(shared.value for shared in study.texts.values()) if options.context else "",
    )


def _report(study: Joined, options: LoadOptions) -> str:
    if "report" in study.texts:
        return study.texts["report"].value
    return joined({role: shared.value for role, shared in study.texts.items()}, options.sections)


def _most(options: LoadOptions) -> int | None:
    return options.views if isinstance(options.views, int) else None


# ---- splits


def _splits_by_file(paths: Sequence[Path], asked: ColumnsConfig, columns: dict[str, str]) -> list[str]:
    """The split that each file's name begins with; "" where a column says it, or no name does."""
    names = [SPLIT_NAMES.get(re.split(r"[^A-Za-z]", path.name, maxsplit=1)[0].lower(), "") for path in paths]
    if "split" in columns or asked.split == NONE or not any(names):
        return [""] * len(paths)
    for path, name in zip(paths, names):
        if not name:
            raise UserError(
                f"{path}: its name does not begin with a split, as those of other files do; rename it, name "
                'data.columns.split, or set that to "none" for a split by patient'
            )
    return names


def _splits(studies: dict[str, Joined], columns: dict[str, str], by_file: Sequence[str], notes: list[str]) -> list[str]:
    """The split of each study; notes say where it is from, unless a column has it."""
    if "split" in columns:
        return [study.split.value or records.split_named("", study.where) for study in studies.values()]
    if any(by_file):
        found = set(by_file)
        notes.append("splits are as the names of the files begin")
        if len(found) == 1:
            notes.append(
                f'warning: all files are named as {found.pop()}; data.columns.split = "none" takes 70 : 10 : 20 by a '
                "hash"
            )
        return [study.split.value for study in studies.values()]
    by = "patient" if "patient" in columns else "study id, as no column of patients is named"
    notes.append(f"the table has no split: train, val and test (70 : 10 : 20) come from a hash of the {by}")
    for name, study in studies.items():
        if "patient" in columns and not study.patient.value:
            raise UserError(
                f"{study.where}: study {name!r} has no patient, by whom the split is made; fill it in, or set "
                'data.columns.patient = "none" for a split by study'
            )
    return [hashed_split(study.patient.value or name) for name, study in studies.items()]
