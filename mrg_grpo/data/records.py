"""What every reader of a data form shares: the options, the record, and the checks on names, paths and tables.

Deliberate choices:
1. A reader yields `Record`s with image names relative to one image folder; names are judged as text before any file is
   touched. Absolute names and names that climb out with `..` are refused. Symbolic links inside the data folder are the
   user's own doing and are followed: data sets are often linked into place. The run page follows them first and judges
   where they end (`inside`): it is made to be handed on, of runs that may be someone else's.
2. Tables are UTF-8, with or without a byte order mark. A table that is not is read as Latin-1, and a note says so.
3. Split names are train, val and test; "valid", "validate", "validation" and "dev" mean val. Any other is an error:
   a public copy of IU X-Ray has its "test" key overwritten by blanks, and a lost test split must not pass unseen.
"""

import csv
import gzip
import io
import json
import os
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrg_grpo import files
from mrg_grpo.config import ColumnsConfig
from mrg_grpo.data.packed import split_address
from mrg_grpo.data.study import NOTHING, Context
from mrg_grpo.errors import UserError

MAX_UNPACKED = 2**30
"""Bytes of a packed file; the largest real ones, MIMIC-CXR's tables, hold a tenth."""
MAX_REPORT = 4_000_000
"""Bytes of one report in an archive; the real ones hold 20,000 at most."""
PIECE = 2**20
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "val": "val", "dev": "val"} | {
    name: "val" for name in ("valid", "validate", "validation")
}


@dataclass(frozen=True)
class LoadOptions:
    """What the caller wants of each study."""

    sections: tuple[str, ...]
    """Section names, in the order they are joined."""
    views: str | int
    """"all", "frontal", or the number of first images to keep."""
    keep_xxxx: bool
    """Whether de-identified tokens stay in the report."""
    split_file: Path | None
    """A file that assigns splits by id, or None."""
    table: str = ""
    """The file of the form "table", or a pattern of files."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """What its columns are called."""
    context: tuple[str, ...] = ()
    """What of `Context` is asked for. A reader gives what its files hold anyway, and opens another file only for it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One study as a reader found it."""

    id: str
    report: str
    images: tuple[str, ...]
    """Names relative to the image folder, of the wished views."""
    split: str | None
    """None where the form has no split of its own."""
    subject: str = ""
    """The patient, where the form says who it is."""
    context: Context = NOTHING
    """Without the prior study, which `load_studies` fills in; but images of one that is no record itself, by name."""
    prior: str = ""
    """The id of the patient's study before this one, where that is known and asked for."""
    answer: str = ""
    """Where a context is asked for, its findings and impression whole, of which no sentence may be in the question."""


@dataclass
class Source:
    """All that a reader found."""

    records: list[Record]
    image_folder: Path
    notes: list[str] = field(default_factory=list)
    """Lines for the user, such as an encoding that had to be guessed."""


def first_names(names: Sequence[str], limit: int = 10) -> str:
    """The first ten of many names, for a message of one line."""
    rest = "" if len(names) <= limit else ", ..."
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:limit]) + rest


def checked_views(views: str | int | None) -> str | int:
    """`views` with None as "all"; UserError for anything but "all", "frontal" or a whole number from 1."""
    if views is None:
        return "all"
    if views in ("all", "frontal") or (isinstance(views, int) and not isinstance(views, bool) and views >= 1):
        return views
    raise UserError(f'data.views is {views!r}; use "all", "frontal", or a number of first images such as 1')


def split_named(name: object, where: str) -> str:
    """train, val or test; UserError for a blank or unknown name."""
    known = SPLIT_NAMES.get(name.strip().lower()) if isinstance(name, str) else None
    if known is None:
        kind = "a blank split name" if isinstance(name, str) and not name.strip() else f"the split name {name!r}"
        raise UserError(f"{where} has {kind}; name it train, val or test")
    return known


def safe_relative(name: str, where: str) -> str:
    """An image name, normalised; UserError if it is absolute, leaves the data folder, or is no file name."""
    if not name or not name.isprintable() or "\\" in name:
        raise UserError(f"{where} names the image {name!r}; write a printable relative path with forward slashes")
    plain = posixpath.normpath(name) if "." in name or "//" in name else name
    if leaves(plain):
        raise UserError(f"{where} names the image {name!r}, which lies outside the data folder; use a path inside it")
    return plain


def leaves(plain: str) -> bool:
    """Whether a normalised name, relative to a folder, is of no file in that folder."""
    return plain.startswith(("/", "../")) or plain in ("..", ".") or plain[1:2] == ":"


def inside(path: str, folder: str | None) -> str:
    """A path that a run recorded, `..` and links followed to the end; UserError if that is outside the data folder.
    Of a picture in a parquet file, the path is the file's.

    folder None: the run has none, so no file is inside.
    """
    if folder is None:
        raise UserError(f"image {path} was not opened: the run has no data folder, or one that holds more than data")
    file, rest = split_address(path)
    try:
        real = os.path.realpath(file)
        outside = leaves(os.path.relpath(real, os.path.realpath(folder)))
    except ValueError:  # a NUL byte; on Windows, another drive
        outside = True
    if outside:
        raise UserError(f"image {path} lies outside the data folder {folder} and was not opened")
    return real + rest


def unicode_text(text: str, where: str) -> str:
    """The text; UserError if it holds half of a surrogate pair, which no tokenizer or file name can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where} is not valid Unicode ({error.reason}); write the file anew as UTF-8") from error
    return text


def data_folder(root: str | Path) -> Path:
    """The folder of a data set; UserError if it is not one."""
    folder = Path(root)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"data.root {folder} {what}; name the folder that holds the data set")
    return folder


class Unpacked(gzip.GzipFile):
    """A .gz file, read from front to back in pieces of known size: a small one can unpack to any size, so what lies
    behind MAX_UNPACKED bytes is an OSError and is not unpacked."""

    def read(self, size: int | None = -1) -> bytes:
        size = MAX_UNPACKED if size is None or size < 0 else size
        self._allowed(self.tell() + size)
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._allowed(offset)
        return super().seek(offset, whence)

    def _allowed(self, end: int) -> None:
        if end > MAX_UNPACKED:
            raise OSError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")


def read_bytes(path: Path, remedy: str) -> bytes:
    """A file's content, unpacked where its name ends in .gz; UserError with the remedy where that fails."""
    try:
        if path.suffix != ".gz":
            return files.read_bytes(path)
        with files.open_file(path) as raw, Unpacked(fileobj=raw) as file:
            return b"".join(iter(lambda: file.read(PIECE), b""))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {remedy}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error


def decoded(raw: bytes, path: Path, notes: list[str]) -> str:
    """UTF-8, with or without byte order mark; else Latin-1, with a note."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        notes.append(f"warning: {path} is not UTF-8 (byte {error.start:,}) and was read as Latin-1; check its accents")
        return raw.decode("latin-1")


def table_rows(
    path: Path, columns: Sequence[str], notes: list[str], remedy: str, optional: Sequence[str] = ()
) -> Iterator[tuple[str, ...]]:
    """The named columns of a CSV, row by row, as text, then the optional ones, "" where the table has none such; blank
    lines are skipped.

    Raises UserError for a missing file or column, a row of another length, or broken quoting.
    """
    rows = csv_rows(decoded(read_bytes(path, remedy), path, notes), path, remedy)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    absent = [name for name in columns if name not in header]
    if absent:
        there = first_names(header) or "nothing"
        raise UserError(f"{path} has no column {absent[0]!r} (it has: {there}); {remedy}")
    picks = [header.index(name) if name in header else None for name in (*columns, *optional)]
    for _, row in rows:
        yield tuple("" if pick is None else row[pick] for pick in picks)


def csv_rows(text: str, path: Path, remedy: str, mark: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV, header first, each with the line of the file, from 1, that it begins in; no blank ones.

    mark: what divides the cells. UserError for a row that is not as long as the header, or broken quoting.
    """
    reader, width, following = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True), 0, 1
    try:
        for row in reader:
            line, following = following, reader.line_num + 1
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                raise UserError(f"{path} line {line}: {len(row)} fields where the header has {width}; {remedy}")
            yield line, row
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: {error}; {remedy}") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; UserError for a key that comes twice, which would silently lose its first value."""
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise UserError(f"has an object with a key twice (keys: {first_names([key for key, _ in pairs])})")
    return entries


def json_tree(path: Path, notes: list[str], remedy: str) -> Any:
    """What a JSON file holds; UserError if it is none, or has an object with a key twice."""
    text = decoded(read_bytes(path, remedy), path, notes)
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except UserError as error:
        raise UserError(f"{path} {error}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); {remedy}") from error


def view_error(form: str, remedy: str) -> UserError:
    """The error for views = "frontal" on a form that does not say which image is frontal."""
    return UserError(f'data.views is "frontal", but {form} does not say which image is frontal; {remedy}')
