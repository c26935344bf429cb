"""Splits: from a file named by the user, from a hash of the id, and how the sizes compare with the published ones.

A hashed split needs no file and never changes when studies are added: each id alone decides, 70 : 10 : 20 as in R2Gen's
split of IU X-Ray. It is nobody else's split, and a line says so wherever it is used.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mrg_grpo.data import r2gen, records
from mrg_grpo.data.records import Record
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError

# Studies per split. IU X-Ray: R2Gen's annotation.json. MIMIC-CXR in R2Gen form: the customary sizes of papers that use
# R2Gen's file. MIMIC-CXR: the split file of mimic-cxr-jpg 2.0.0, counted in studies. ReXGradient: the data set's card
# and arXiv:2505.00228. PadChest-GR: two public readers of arXiv:2411.05085 and its master table; the paper says 4,555
# studies. CheXpert Plus: its valid split is CheXpert's, of 200 studies, and is test here (chexpert_plus.py).
PUBLISHED = {
    "iu_xray_r2gen": {"train": 2069, "val": 296, "test": 590},
    "mimic_cxr_r2gen": {"train": 270_790, "val": 2130, "test": 3858},
    "mimic_cxr": {"train": 222_758, "val": 1808, "test": 3269},
    "rexgradient": {"train": 140_000, "val": 10_000, "test": 10_000},
    "padchest_gr": {"train": 3185, "val": 455, "test": 915},
    "chexpert_plus": {"test": 200},
}
# Studies in all, for forms without a split of their own, or with a part of one.
PUBLISHED_TOTAL = {"iu_xray_kaggle": 3851, "iu_xray_xml": 3955, "chexpert_plus": 187_711}
HELD_OUT = 0.01
"""Share of the patients of train that validates in a form with no validation split of its own."""
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Of a hashed split, as in R2Gen's split of IU X-Ray."""


class Studies(dict[str, list[Study]]):
    """Studies by split name, with what the user should be told about them."""

    def __init__(
        self,
        by_split: Mapping[str, list[Study]],
        notes: Sequence[str] = (),
        read: int | None = None,
        left_out: Mapping[str, Sequence[int]] | None = None,
    ):
        super().__init__(by_split)
        self.notes = tuple(notes)
        self.read = sum(map(len, by_split.values())) if read is None else read
        """Studies that the files hold, before any was left out."""
        self.left_out = dict(left_out or {})
        """Images that cannot be read and are left out, by study id and place among its images."""


def describe_splits(studies: Mapping[str, list[Study]], form: str) -> list[str]:
    """Lines for the user: sizes, how they compare with the published ones, and the notes of the loader.

    A size that differs gives a line that begins with "warning:" and names both numbers.
    """
    images = sum(len(study.images) for part in studies.values() for study in part)
    sizes = ", ".join(f"{name} {len(part):,}" for name, part in studies.items())
    lines = [f"{form}: {sizes} studies, {images:,} images"]
    differing = [
        f"warning: split {name} of {form} holds {len(studies.get(name, [])):,} studies, the published one {size:,}"
        for name, size in PUBLISHED.get(form, {}).items()
        if len(studies.get(name, [])) != size
    ]
    if form in PUBLISHED_TOTAL:
        read = studies.read if isinstance(studies, Studies) else sum(map(len, studies.values()))
        size = PUBLISHED_TOTAL[form]
        if read == size:
            lines.append(f"{form} holds {read:,} studies, as the published set does")
        else:
            lines.append(f"warning: {form} holds {read:,} studies, the published set {size:,}")
    elif form in PUBLISHED and not differing:
        lines.append("split sizes equal the published ones")
    lines += differing
    if isinstance(studies, Studies):
        lines += studies.notes
    return lines


def published_sizes(form: str) -> tuple[dict[str, int], str]:
    """Studies by split of a form whose data are not at hand, and what that number is, in words; {} of a user's own."""
    if form in PUBLISHED and form not in PUBLISHED_TOTAL:
        return PUBLISHED[form], "published size"
    if form not in PUBLISHED_TOTAL:
        return {}, "assumed: as many as [run] allows"
    own = PUBLISHED.get(form, {})
    rest = PUBLISHED_TOTAL[form] - sum(own.values())
    shares = {"train": 1 - HELD_OUT, "val": HELD_OUT} if own else SHARES
    return {name: round(share * rest) for name, share in shares.items()} | own, "assumed: shares of the published total"


def hash_share(name: str) -> float:
    """A number from 0 to 1 that a name alone decides: the first 8 bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") / 2**64


def hashed_split(study_id: str) -> str:
    """train, val or test with shares of 70, 10 and 20%, by `hash_share`."""
    share = hash_share(study_id)
    return "train" if share < SHARES["train"] else "val" if share < 1 - SHARES["test"] else "test"


def assigned(found: list[Record], split_file: Path | None, form: str, notes: list[str]) -> list[tuple[str, Record]]:
    """Each record with its split: its own, the named file's, or one hashed from its id.

    A record that a named file does not list is left out, with a note; UserError if the file lists none.
    """
    if all(record.split is not None for record in found):
        return [(record.split, record) for record in found if record.split is not None]
    if split_file is None:
        notes.append(f"{form} has no split of its own: train, val and test (70 : 10 : 20) come from a hash of the id")
        return [(hashed_split(record.id), record) for record in found]
    by_id = split_by_id(split_file, notes, study_key if form.startswith("iu_xray") else str.strip)
    pairs = [(by_id[record.id], record) for record in found if record.id in by_id]
    if found and not pairs:
        raise UserError(
            f"split file {split_file} lists none of the {len(found):,} ids of {form}; ids look like {found[0].id!r}"
        )
    notes.append(f"split by id from {split_file}: {len(pairs):,} studies assigned")
    if len(pairs) < len(found):
        absent = [record.id for record in found if record.id not in by_id]
        notes.append(f"{len(absent):,} studies are not in the split file and left out: {records.first_names(absent)}")
    unknown = sorted(by_id.keys() - {record.id for record in found})
    if unknown:
        notes.append(
            f"warning: {len(unknown):,} ids of the split file are not in {form}: {records.first_names(unknown)}"
        )
    return pairs


def split_by_id(path: Path, notes: list[str], key: Callable[[str], str]) -> dict[str, str]:
    """Splits by study id from R2Gen's annotation.json or a CSV with the columns id and split.

    key: what an id of that file is called here; of IU X-Ray `study_key`.
    """
    if path.suffix == ".json":
        listed = [
            (entry["id"], split, f"{path}, {split} record {number}")
            for split, entries in r2gen.annotation(path, notes).items()
            for number, entry in enumerate(entries)
            if isinstance(entry, dict) and isinstance(entry.get("id"), str | int)
        ]
    else:
        rows = records.table_rows(path, ("id", "split"), notes, "it must be a CSV with the columns id and split")
        listed = [
            (study_id, records.split_named(split, f"{path}, id {study_id!r}"), f"{path}, id {study_id!r}")
            for study_id, split in rows
        ]
    by_id: dict[str, str] = {}
    for study_id, split, where in listed:
        known = key(str(study_id))
        if by_id.setdefault(known, split) != split:
            raise UserError(f"{where} puts study {known} into {split} and {by_id[known]}; give it one split")
    return by_id


def study_key(study_id: str) -> str:
    """The study id that IU X-Ray's forms share: "2384", "CXR2384" and "CXR2384_IM-0942" are all "CXR2384".

    R2Gen's ids carry the name of an image series: what stands before the underscore is the study. A bare number, as
    Kaggle's uid, means the same study as with CXR before it.
    """
    match = re.fullmatch(r"(?:CXR)?(\d+)(?:_.*)?", study_id.strip(), re.ASCII | re.DOTALL)
    return f"CXR{match.group(1)}" if match else study_id.strip()
