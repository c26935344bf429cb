"""The files of a table, and the rows of those that are text: .csv, .tsv, .jsonl, each also with .gz behind it.

Deliberate choices:
1. A row knows where it stands, as its reader would look for it: the line of a text file that it begins in, counted from
   1, or the row of a parquet file, counted from 0.
2. These files are the user's own, so what is not UTF-8 is refused, with its line, and not guessed.
3. Cells are divided by the mark (comma, semicolon, tab) that gives the first line the most of them.
"""

import csv
import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrg_grpo.data import records
from mrg_grpo.errors import UserError, nearest

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
MARKS = (",", ";", "\t")
REMEDY = "mend the table"


@dataclass(frozen=True, slots=True)
class Packed:
    """A picture in a parquet file, by its address relative to the data folder."""

    address: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it stands, and its cells by column; a cell that is not there is None."""

    where: str
    number: int
    cells: dict[str, Any]


@dataclass(frozen=True)
class TableFile:
    """A file whose header is known."""

    path: Path
    columns: list[str]
    rows: Callable[[Sequence[str], str], Iterator[Row]]
    """The rows with these columns, to be asked for once. Of the column that the second argument names, the pictures in
    a parquet file are `Packed`."""


def named(root: Path, table: str) -> list[Path]:
    """The files that data.table names, in the order of their names; UserError where there are none."""
    path = root / table
    if path.is_file():
        return [path]
    if path.is_dir():
        raise UserError(f"data.table {path} is a folder; name a file in it, or a pattern such as {table}/*.parquet")
    pattern = table if os.path.isabs(table) else os.path.join(glob.escape(str(root)), table)
    found = sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
    if not found:
        there = sorted(str(file.relative_to(root)) for file in root.glob("*") if file.name.endswith(KINDS))
        hint = nearest(table, there) or f"tables in data.root {root}: {records.first_names(there) or 'none'}"
        raise UserError(f"data.table {path}: no such file; {hint}")
    return [Path(name) for name in found]


def opened(path: Path) -> TableFile:
    """A file of text by its ending. UserError for what cannot be read, and for a file without a column."""
    text = _text(path)
    if not text.strip():
        raise UserError(f"{path} is empty; {REMEDY}")
    return _json_lines(path, text) if kind_of(path) == ".jsonl" else _csv(path, text)


def kind_of(path: Path) -> str:
    """One of KINDS, by the ending of the name; UserError for another."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    kind = plain.suffix.lower()
    if kind not in KINDS or (kind == ".parquet" and plain != path):
        raise UserError(f"{path}: a table is read from {', '.join(KINDS)}; save it as one of these")
    return kind


def _text(path: Path) -> str:
    """A file as UTF-8, with or without byte order mark; UserError that names the line which is not."""
    raw = records.read_bytes(path, REMEDY)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line} is not UTF-8 (byte {error.start:,}); save the file as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path} line {line} has a NUL character; {REMEDY}")
    return text


def _csv(path: Path, text: str) -> TableFile:
    first = text.lstrip().split("\n", 1)[0]
    usual = "\t" if kind_of(path) == ".tsv" else ","
    marks = sorted(MARKS, key=lambda mark: mark != usual)
    mark = max(marks, key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
    lines = records.csv_rows(text, path, "quote texts with commas or line ends in them", mark)
    columns = [name.strip() for name in next(lines)[1]]

    def rows(wanted: Sequence[str], images: str) -> Iterator[Row]:
        picks = [(name, columns.index(name)) for name in wanted]
        for line, cells in lines:
            yield Row(f"{path} line {line}", line, {name: cells[pick] for name, pick in picks})

    return TableFile(path, columns, rows)


def _json_lines(path: Path, text: str) -> TableFile:
    """Its columns are the keys of all its lines."""
    found: list[Row] = []
    # not splitlines(): a line separator of Unicode may stand inside a JSON text
    for line, part in enumerate(text.split("\n"), start=1):
        if not part.strip():
            continue
        where = f"{path} line {line}"
        try:
            cells = json.loads(part, object_pairs_hook=records.unique_keys)
        except UserError as error:
            raise UserError(f"{where} {error}; keep the one that counts") from error
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, lists nested for ever
            raise UserError(f"{where} is not JSON ({error}); write one object a line") from error
        if not isinstance(cells, dict):
            raise UserError(f"{where} holds a {type(cells).__name__}, not an object; write one object a line")
        found.append(Row(where, line, cells))
    columns = list(dict.fromkeys(key for row in found for key in row.cells))
    return TableFile(path, columns, lambda wanted, images: iter(found))
