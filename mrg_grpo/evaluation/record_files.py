"""A prediction file of any form -> records by column name.

    .csv .tsv           by comma, semicolon or tab, whichever gives a header with known names; one column needs none
    .jsonl              a record a line
    .json               a list of records or of texts; records, texts or lists of one text by study; columns as pandas
                        writes them; one list of records under any name; R2Gen's annotation.json, its test split
    .xlsx               a header and a record a row, see sheets.py
    .txt                a report a line
    a folder            a .txt file a report, or a .md file where there is no other, named by the study; also in folders
                        within it

Deliberate choices: a key that comes twice in one object is an error, since its first value would be lost without a
word; so is a study with two files in a folder. Cells that say that there is nothing ("nan", "None", "<NA>", ...) are
nothing, and not words of a report.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrg_grpo.data.records import SPLIT_NAMES
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.columns import KNOWN, TEXTS, folded, looks_like_a_header, shown
from mrg_grpo.evaluation.messages import layout_of
from mrg_grpo.evaluation.sheets import SHEET_KINDS, read_sheet
from mrg_grpo.files import read_bytes
from mrg_grpo.labelers.csv_form import cell_text

KINDS = (".csv", ".tsv", ".json", ".jsonl", ".txt")
SEPARATORS = {",": "", ";": "semicolons", "\t": "tabs"}
NOTHING = frozenset(("nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "NA", "N/A", "#N/A"))
"""What pandas, R and str(None) write where there is no value."""


@dataclass(frozen=True)
class RecordFile:
    """The records of a file, and what was recognised about its form beyond its ending: "" where nothing."""

    records: list[dict[str, Any]]
    form: str = ""


def read_records(path: Path, named: frozenset[str] = frozenset()) -> RecordFile:
    """A file or folder -> its records. named: folded names of columns that are known beside those of columns.py.

    Raises UserError, one line, for what cannot be read.
    """
    try:
        if path.is_dir():
            return _folder(path)
        kind = path.suffix.lower()
        if kind == ".xls":
            raise UserError(f"{path} is an old Excel file; save it as .xlsx or .csv")
        if kind not in (*KINDS, *SHEET_KINDS):
            raise UserError(
                f"{path}: predictions are read from .csv, .json, .jsonl or .xlsx files, also .tsv, .txt (a report a "
                "line) or a folder of .txt files"
            )
        if kind in SHEET_KINDS:
            rows, sheet = read_sheet(path)
            return _with_header(rows, path, named, sheet)
        text = read_bytes(path).decode("utf-8-sig")
        if kind in (".csv", ".tsv"):
            return _table(text, path, named)
        if kind == ".txt":
            return RecordFile([{"report": line} for line in text.splitlines()], "a report a line")
        if kind == ".jsonl":
            # not splitlines(): a line separator of Unicode may stand inside a JSON text
            lines = enumerate(text.split("\n"), start=1)
            return _told(RecordFile([_record(line, path, number) for number, line in lines if line.strip()]))
        return _told(_tree(_parsed(text, str(path)), path, named))
    except FileNotFoundError:
        raise UserError(f"no prediction file at {path}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error})") from error


def _told(file: RecordFile) -> RecordFile:
    """With the name of the layout that its first record has."""
    layout = layout_of(file.records[0]) if file.records else ""
    return RecordFile(file.records, ", ".join(filter(None, (file.form, layout))))


def is_nothing(value: Any) -> bool:
    """Whether a cell says that it holds nothing: null, NaN, or their usual spellings. An empty text is a text."""
    return value is None or value != value or (isinstance(value, str) and value.strip() in NOTHING)


def _folder(path: Path) -> RecordFile:
    files = next(filter(None, (sorted(path.rglob(f"*{kind}")) for kind in (".txt", ".md"))), [])
    files = [file for file in files if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise UserError(
            f"{path} is a folder without .txt files; name a file, or a folder with one .txt for each report"
        )
    by_study: dict[str, Path] = {}
    for file in files:
        if (other := by_study.setdefault(file.stem, file)) != file:
            first, second = (str(one.relative_to(path)) for one in (other, file))
            raise UserError(f"{path} has two files of the study {file.stem}, {first} and {second}; keep one of them")
    return RecordFile(
        [{"study_id": study, "report": _text_of(file)} for study, file in by_study.items()],
        "a folder of one file a report",
    )


def _text_of(file: Path) -> str:
    try:
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error


def _table(text: str, path: Path, named: frozenset[str]) -> RecordFile:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    mark = _separator(text, path, named)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True)
    rows = [[cell_text(cell) for cell in row] for row in reader if row]
    return _with_header(rows, path, named, SEPARATORS[mark] if path.suffix.lower() != ".tsv" or mark != "\t" else "")


def _with_header(rows: Sequence[Sequence[str | None]], path: Path, named: frozenset[str], form: str) -> RecordFile:
    """Rows of cells -> records by the names in the first, or one column of reports without a name."""
    if not rows:
        return RecordFile([])
    header = [(name or "").strip() for name in rows[0]]
    known = {folded(name) for name in header} & (KNOWN | named)
    if len(header) == 1 and not known and not named:
        if looks_like_a_header(header[0]):
            return RecordFile([{"report": row[0]} for row in rows[1:]], f'first row "{header[0]}" read as its header')
        return RecordFile([{"report": row[0]} for row in rows], "no header")
    twice = [name for name in header if folded(name) in known and header.count(name) > 1]
    if twice:
        raise UserError(f"{path} has the column {twice[0]} {header.count(twice[0])} times; keep the one that counts")
    if not known and not named:
        raise UserError(
            f"{path} has no column with a known name (it has {shown(header)}); its first row must be a header, such as "
            "study_id,report, or --columns must say what it holds"
        )
    records = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > len(header):
            raise UserError(f"{path} row {number} has {len(row)} cells for {len(header)} columns; quote its texts")
        # a short row: the cells that are not there are missing, not empty
        records.append(dict(zip(header, [*row, *[None] * (len(header) - len(row))], strict=True)))
    return RecordFile(records, form)


def _separator(text: str, path: Path, named: frozenset[str]) -> str:
    """What divides the cells: the mark by which the first line holds the most known names."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    marks = sorted(SEPARATORS, key=lambda mark: mark != usual)
    known = KNOWN | named
    counts = {mark: sum(folded(cell) in known for cell in next(csv.reader([first], delimiter=mark))) for mark in marks}
    return max(marks, key=counts.__getitem__) if first else usual


def _parsed(text: str, where: str) -> Any:
    """JSON; UserError where it is none, or has a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{where} has {shown([twice])} twice in one object; keep the one that counts")
        return entries

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, lists nested for ever
        raise UserError(f"{where}: not valid JSON ({error})") from error


def _record(line: str, path: Path, number: int) -> dict[str, Any]:
    record = _parsed(line, f"{path} line {number}")
    if not isinstance(record, dict):
        raise UserError(f"{path} line {number}: not a JSON object")
    return record


def _tree(tree: Any, path: Path, named: frozenset[str]) -> RecordFile:
    """The records of a .json file, in any of the forms above."""
    form = ""
    if isinstance(tree, dict):
        lists = [name for name, value in tree.items() if _are(dict, value)]
        columns = any(folded(name) in TEXTS | named for name in tree)
        if "test" in tree and all(name.strip().lower() in SPLIT_NAMES for name in tree):
            tree, form = tree["test"], "test split of an annotation file"
        elif columns and all(isinstance(value, dict) for value in tree.values()):
            tree, form = _from_columns({name: list(value.values()) for name, value in tree.items()}, path), "by columns"
        elif columns and all(isinstance(value, list) for value in tree.values()):
            tree, form = _from_columns(tree, path), "by columns"
        elif tree and all(isinstance(value, dict) for value in tree.values()):
            tree = [{"study_id": key, **value} for key, value in tree.items()]  # keyed by study, as ReXrank's
        elif len(lists) == 1:
            tree, form = tree[lists[0]], f'the list "{lists[0]}"'
        elif tree and all(value is None or isinstance(value, str) or _are(str, value, 1) for value in tree.values()):
            tree, form = [{"study_id": key, "report": _one(text)} for key, text in tree.items()], "texts by study"
        elif several := next((key for key, value in tree.items() if _are(str, value)), None):
            raise UserError(f"{path} has {len(tree[several])} texts for {shown([several])}; give one text a study")
    elif tree and _are(str, tree):
        tree, form = [{"report": text} for text in tree], "a list of texts"
    if not _are(dict, tree):
        raise UserError(f"{path}: the JSON must be a list of records, or one object of records or texts by study_id")
    return RecordFile(tree, form)


def _are(kind: type, value: Any, most: int | None = None) -> bool:
    """Whether it is a list of this kind alone, of so many at most."""
    return isinstance(value, list) and all(isinstance(item, kind) for item in value) and len(value) <= (
        len(value) if most is None else most
    )  # fmt: skip


def _one(text: Any) -> Any:
    return (text[0] if text else None) if isinstance(text, list) else text


def _from_columns(columns: dict[str, list[Any]], path: Path) -> list[dict[str, Any]]:
    sizes = {len(values) for values in columns.values()}
    if len(sizes) != 1:
        raise UserError(f"{path} holds columns of different lengths ({', '.join(map(str, sorted(sizes)))}); mend it")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
