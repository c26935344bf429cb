"""What stands in two splits at once: a patient, an image, or a copy of an image.

Deliberate choices:
1. In MIMIC-CXR a patient or an image file in two splits is an error, as in its native form: the published split is by
   patient, so the file is not that split. In IU X-Ray it is a warning: its splits were made by others, by study. In a
   table of the user's own it is a warning, too, and in BY_PATIENT, whose own split a file of the user's may replace.
2. A copy of an image under another name is a warning in either: blank pictures of two patients are equal, too.
3. Names come first, then sizes; contents are read only of files whose sizes are equal across two splits, first 4 kB
   from their middle, and the whole where those are equal. An empty file is no copy of another. Pictures in parquet
   files are read once, in the order of the file, which a size alone would need, too. Sets whose own split is by
   patient are large, and are not looked through for copies.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mrg_grpo.data.packed import is_packed, place, read
from mrg_grpo.data.records import Record, first_names
from mrg_grpo.data.splits import study_key
from mrg_grpo.errors import UserError

SUBJECT = re.compile(r"(?:^|/)p(\d{8})/", re.ASCII)
"""A patient in the path of a MIMIC-CXR image."""
BY_PATIENT = ("rexgradient", "chexpert_plus", "padchest_gr")
"""Forms that name each study's patient, and whose own split is by patient."""
PIECE = 4096
STUDIES = "studies by the number in their ids"


def leaks(pairs: list[tuple[str, Record]], folder: Path, absent: set[str], form: str) -> list[str]:
    """Warnings on patients, images and copies of images in two splits; UserError where that is an error."""
    mimic = form.startswith("mimic")
    subject, who = (_patient, "patients") if mimic or form in ("table", *BY_PATIENT) else (_iu_study, STUDIES)
    lines = [
        _in_two_splits(pairs, who, lambda record: filter(None, [subject(record)])),
        _in_two_splits(pairs, "image files", lambda record: record.images),
    ]
    lines = [line for line in lines if line]
    if lines and mimic:
        raise UserError(f"{form}: {'; '.join(lines)}; mend the split: results on what was trained on say nothing")
    copies = [] if form in BY_PATIENT else _copies(pairs, folder, absent)
    if copies:
        named = first_names([f"{one} ({split}) and {other} ({its})" for (split, one), (its, other) in copies])
        lines.append(f"{len(copies):,} images are copies of an image of another split: {named}")
    return [f"warning: {line}" for line in lines]


def _patient(record: Record) -> str:
    found = next((match for name in record.images if (match := SUBJECT.search(name))), None)
    return record.subject or (found.group(1) if found else "")


def _iu_study(record: Record) -> str:
    key = study_key(record.id)
    return key if re.fullmatch(r"CXR\d+", key, re.ASCII) else ""


def _in_two_splits(pairs: list[tuple[str, Record]], what: str, keys: Callable[[Record], Iterable[str]]) -> str:
    """How many keys stand in two splits, the first of them with theirs; "" where none does."""
    first: dict[str, str] = {}
    both: dict[str, str] = {}
    for split, record in pairs:
        for key in keys(record):
            if first.setdefault(key, split) != split:
                both.setdefault(key, split)
    named = first_names([f"{key} in {first[key]} and {split}" for key, split in both.items()])
    return f"{len(both):,} {what} are in two splits: {named}" if both else ""


def _copies(
    pairs: list[tuple[str, Record]], folder: Path, absent: set[str]
) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Images of one split with the first of another split that has the same bytes: (split, name) twice."""
    splits: dict[str, str] = {}
    for split, record in pairs:
        for name in record.images:
            if name not in absent:
                splits.setdefault(name, split)
    if len(set(splits.values())) < 2:
        return []
    found, marks = [], _marks([f"{folder}/{name}" for name in splits])
    for alike in _groups(splits, list(splits), lambda name: _size(f"{folder}/{name}", marks)):
        for near in _groups(splits, alike, lambda name: _middle(f"{folder}/{name}", marks)):
            for same in _groups(splits, near, lambda name: _digest(f"{folder}/{name}", marks)):
                first = same[0]
                others = (name for name in same if splits[name] != splits[first])
                found += [((splits[first], first), (splits[name], name)) for name in others]
    return found


def _groups(splits: dict[str, str], names: list[str], key: Callable[[str], int | bytes]) -> list[list[str]]:
    """Names of equal key, where two splits share one; a file that cannot be read has none, nor has an empty one."""
    by_key: dict[int | bytes, list[str]] = {}
    for name in names:
        try:
            value = key(name)
        except OSError:
            continue
        if value:
            by_key.setdefault(value, []).append(name)
    return [some for some in by_key.values() if len({splits[name] for name in some}) > 1]


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is kept of a picture in a parquet file."""

    size: int
    middle: bytes
    digest: bytes


Marks = Mapping[str, _Mark]


def _marks(paths: list[str]) -> Marks:
    """address -> mark, of the pictures in parquet files; one that cannot be read has the size 0."""
    marks = {}
    for path in sorted(filter(is_packed, paths), key=place):
        try:
            content = read(path)
        except OSError:
            content = b""
        middle = content[len(content) // 2 :][:PIECE]
        marks[path] = _Mark(len(content), hashlib.sha256(middle).digest(), hashlib.sha256(content).digest())
    return marks


def _size(path: str, marks: Marks) -> int:
    return marks[path].size if path in marks else os.stat(path).st_size


def _middle(path: str, marks: Marks) -> bytes:
    """Of the bytes in the middle, a digest: pictures of one camera share their first bytes."""
    if path in marks:
        return marks[path].middle
    with open(path, "rb") as file:
        file.seek(os.fstat(file.fileno()).st_size // 2)
        return hashlib.sha256(file.read(PIECE)).digest()


def _digest(path: str, marks: Marks) -> bytes:
    if path in marks:
        return marks[path].digest
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
