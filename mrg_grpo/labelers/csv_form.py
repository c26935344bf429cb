"""CheXbert's CSV convention: column "Report Impression", then the 14 conditions in CheXbert's order.

In these files a blank is an empty cell, positive is 1, negative is 0 and uncertain is -1. They are not class ids and
not signed vectors: everything else in this project uses class ids, and the two are translated here alone.

Deliberate choice: a report that begins as a formula does (= + - @, a tab, a carriage return) is written behind an
apostrophe, which is what a spreadsheet takes for text: it would run the formula else. Our own readers take that
apostrophe away again, so what is written is what is read; to CheXbert and pandas it is one more mark in the text.
"""

import csv
import io
import math
import re
from pathlib import Path

import torch
from torch import Tensor

from mrg_grpo.attributes import MALPOSITIONS, SIDES, SIZES, Attributes
from mrg_grpo.errors import UserError
from mrg_grpo.files import open_file, write_whole
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN

REPORT_COLUMN = "Report Impression"
CELL_OF_CLASS = {BLANK: "", POSITIVE: "1.0", NEGATIVE: "0.0", UNCERTAIN: "-1.0"}
ATTRIBUTE_COLUMNS = (
    *(f"{condition} side" for condition in CONDITIONS[:13]),
    *(f"{condition} size" for condition in CONDITIONS[:13]),
    "Malposition",
)
ATTRIBUTE_WORDS = (SIDES,) * 13 + (SIZES,) * 13 + (MALPOSITIONS,)
CLASS_OF_VALUE = {1.0: POSITIVE, 0.0: NEGATIVE, -1.0: UNCERTAIN}
_FORMULA = re.compile(r"'*(?:\s*[=+\-@＝＋－＠]|[\t\r])")
"""How a cell begins that a spreadsheet would compute, or that stands behind apostrophes."""


def text_cell(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def cell_text(cell: str) -> str:
    """The text of such a cell, or of any other."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_report_csv(path: str | Path) -> list[str]:
    """Reports of a CSV with a "Report Impression" column, in file order; further columns are ignored."""
    return [cell_text(row[REPORT_COLUMN] or "") for row in _rows(Path(path), (REPORT_COLUMN,))]


def read_label_csv(path: str | Path) -> tuple[list[str], Tensor]:
    """A labelled CSV -> reports and class ids (B, 14). Raises UserError for a missing column or another value."""
    path = Path(path)
    rows = _rows(path, (REPORT_COLUMN, *CONDITIONS))
    labels = [
        [_class_of(row[condition], condition, path, line) for condition in CONDITIONS]
        for line, row in enumerate(rows, start=2)
    ]
    return [cell_text(row[REPORT_COLUMN] or "") for row in rows], torch.tensor(labels, dtype=torch.long).reshape(-1, 14)


def write_label_csv(path: str | Path, reports: list[str], labels: Tensor, attributes: Attributes | None = None) -> None:
    """Write reports and class ids (B, 14) in CheXbert's form; behind them, in columns of our own, what the reports say
    of side, size and malposition, by name and empty where they say none."""
    if labels.shape != (len(reports), len(CONDITIONS)):
        raise ValueError(f"{len(reports)} reports need labels of shape ({len(reports)}, 14), not {tuple(labels.shape)}")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow((REPORT_COLUMN, *CONDITIONS, *(ATTRIBUTE_COLUMNS if attributes else ())))
    more = attributes.packed().tolist() if attributes else [[]] * len(reports)
    for report, row, said in zip(reports, labels.tolist(), more):
        names = (words[value] if value else "" for words, value in zip(ATTRIBUTE_WORDS, said))
        writer.writerow((text_cell(report), *(CELL_OF_CLASS[value] for value in row), *names))
    write_whole(Path(path), table.getvalue(), "name another file with -o")


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with io.TextIOWrapper(open_file(path), newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            for column in columns:
                if header.count(column) != 1:
                    number = f"{header.count(column)} columns" if column in header else "no column"
                    raise UserError(f"{path} has {number} {column!r}; CheXbert's CSV form needs one")
            rows = list(reader)
            for line, row in enumerate(rows, start=2):
                if None in row:  # what DictReader found beyond the header: a report cut at its commas
                    cells = len(header) + len(row[None])
                    raise UserError(f"{path} row {line} has {cells} cells for {len(header)} columns; quote its texts")
            return rows
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV: {error}") from error


def _class_of(cell: str | None, condition: str, path: Path, line: int) -> int:
    """One cell -> class id; line is the row's place in the file, counting records and the header."""
    if cell is None or not cell.strip():
        return BLANK
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if math.isnan(value):
        return BLANK
    if value not in CLASS_OF_VALUE:
        raise UserError(f"{path} row {line}, {condition}: {cell!r} is not 1, 0, -1 or empty")
    return CLASS_OF_VALUE[value]
