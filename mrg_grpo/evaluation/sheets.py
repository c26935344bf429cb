"""Excel workbooks as rows of cells, by the extra `xlsx` (openpyxl).

Deliberate choices: the first sheet that holds anything is read, and a note names it where there are others. A formula
counts by the value that the spreadsheet saved with it. Whole numbers have no ".0", since ids are often numbers. A
workbook is an archive of XML: what it unpacks to is bounded before any of it is parsed, and so are its rows.
"""

import io
import itertools
import zipfile
from pathlib import Path
from typing import Any

from mrg_grpo.data.records import MAX_UNPACKED
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.files import read_bytes

SHEET_KINDS = (".xlsx", ".xlsm")
MAX_ROWS = 2**20
"""Rows that Excel itself allows in a sheet: a file may name a row far beyond, and the reader would count up to it."""
LOOKED_AT = 100
"""Rows by which another sheet is judged to be empty."""
OLE = b"\xd0\xcf\x11\xe0"
"""How an old .xls begins, and a workbook that a password locks."""


def read_sheet(path: Path) -> tuple[list[list[str | None]], str]:
    """A workbook -> the rows of its first sheet that holds anything, without those that are empty, and which it was.

    UserError, one line, if openpyxl is not installed or the file is none that it reads.
    """
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{path}: Excel files need openpyxl; pip install 'mrg_grpo[xlsx]', or save the sheet as CSV"
        ) from None
    packed = read_bytes(path)
    if packed.startswith(OLE):
        raise UserError(f"{path} is an old .xls, or locked by a password; save it as .xlsx without one, or as CSV")
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_UNPACKED:
                raise UserError(f"{path} unpacks to {size:,} bytes, more than {MAX_UNPACKED:,}; save the sheet as CSV")
            for name in archive.namelist():
                with archive.open(name) as part:
                    if b"<!DOCTYPE" in part.read(1024):  # no workbook declares entities: small texts that grow large
                        raise UserError(f"{path} declares a document type in {name}, as no workbook does; save it anew")
        book = openpyxl.load_workbook(io.BytesIO(packed), read_only=True, data_only=True)
        return _first_sheet(book, path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged workbook fails anywhere in openpyxl, by any name
        raise UserError(f"{path} is no workbook that can be read ({first_line(error)}); save it anew") from error


def _first_sheet(book: Any, path: Path) -> tuple[list[list[str | None]], str]:
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # some writers call a sheet smaller than it is: what lies beyond would be lost
    held = [sheet for sheet in book.worksheets if _holds_anything(sheet)]
    if not held:
        return [], ""
    others = f", the first of {len(held)} that hold anything" if len(held) > 1 else ""
    rows = []
    for number, cells in enumerate(held[0].iter_rows(values_only=True), start=1):
        if number > MAX_ROWS:
            raise UserError(f"{path}, sheet {held[0].title}: more than {MAX_ROWS:,} rows; save the sheet as CSV")
        row = [_text(cell) for cell in cells]
        while row and row[-1] is None:  # cells that were emptied, or hold a colour alone
            row.pop()
        if row:
            rows.append(row)
    return rows, f'sheet "{held[0].title}"{others}'


def _holds_anything(sheet: Any) -> bool:
    rows = itertools.islice(sheet.iter_rows(values_only=True), LOOKED_AT)
    return any(cell is not None for row in rows for cell in row)


def _text(cell: Any) -> str | None:
    """A cell as a text; None where it is empty."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return None if cell is None else str(cell)
