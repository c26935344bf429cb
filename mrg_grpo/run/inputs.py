"""What a run was given: recorded by content when it begins, and held to that when it goes on.

    RUN_DIR/inputs.json       base, labeler, studies and start adapter as digests
    RUN_DIR/start_adapter/    the adapter that the run continues, if any: the frozen reference

Settings name these by path, and what lies at a path may be another thing at a resume. Then a run would go on with other
studies, or be held near another start, with exit code 0.

Deliberate choices:
* Studies are recorded as they were read: ids, order, reports, pictures by name. The pictures' own bytes are not, and
  one that is lost or damaged later changes nothing here: which of them the run began without is recorded by place.
* Of files above LARGE the size, the first and the last MiB stand for the whole: a base of 16 GB takes a moment.
* A run that began without a record goes on without one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from mrg_grpo.config import Config
from mrg_grpo.data.splits import Studies
from mrg_grpo.data.study import NOTHING, Study
from mrg_grpo.embedded import labeler_path
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.files import read_text, sync, write_whole, writing
from mrg_grpo.labelers import attribute_reader

RECORD, START = "inputs.json", "start_adapter"
IMAGES = "images that were left out"
"""In the record: study id -> places among its images, from 0."""
LARGE = 32 * 2**20
"""Bytes of a file that is still read whole."""
END = 2**20
KINDS = {".json", ".jinja", ".txt", ".model", ".safetensors", ".pth", ".pt", ".bin", ".py"}
"""Files that a checkpoint is read from; a README beside them is not."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def inputs_of(config: Config, splits: dict[str, list[Study]], start: Path | None) -> dict[str, dict[str, Any]]:
    """kind of input -> name -> digest, after all of it has been loaded. start: the folder of the start adapter."""
    labeler = digests(Path(config.labeler.path) if config.labeler.path else labeler_path())
    labeler.pop(attribute_reader.FILE, None)  # no label goes through it
    record: dict[str, dict[str, Any]] = {
        "model.path": digests(base_folder(config)),
        "labeler.path": labeler,
        "the studies of data.root": {
            split: digest_of_studies(studies, config.data.root) for split, studies in splits.items()
        },
        IMAGES: splits.left_out if isinstance(splits, Studies) else {},
    }
    if config.labeler.tokenizer and Path(config.labeler.tokenizer).is_dir():
        record["labeler.tokenizer"] = digests(Path(config.labeler.tokenizer))
    if start:
        record["model.adapter"] = {name: digest(start / name) for name in ADAPTER_FILES if (start / name).is_file()}
    return record


def require_same(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]], run: Path) -> None:
    """UserError that names what is no longer what the run was given."""
    changed = []
    for kind in before:
        old, new = before[kind], now.get(kind, {})
        names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        changed += [f"{kind} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"] if names else []
    if changed:
        raise UserError(
            f"--resume {run}: {'; '.join(changed)} changed since the run began; put the old content back or start a "
            "new run"
        )


def read_record(run: Path) -> dict[str, dict[str, Any]] | None:
    """What the run has recorded; None for one that began without. UserError if the file is damaged."""
    path = run / RECORD
    if not path.exists():
        return None
    try:
        record = {kind: dict(names) for kind, names in json.loads(read_text(path)).items()}
        for places in record.get(IMAGES, {}).values():
            sum(places)  # they are numbers
        return record
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({first_line(error)}); put it back, or remove it to go on unchecked"
        ) from error


def write_record(run: Path, record: dict[str, dict[str, Any]]) -> None:
    write_whole(run / RECORD, json.dumps(record, indent=1))


def base_folder(config: Config) -> Path:
    """The folder that model.path was read from: itself, or what the hub's cache has of that revision."""
    path = config.model.resolved_path()
    if Path(path).is_dir():
        return Path(path)
    found = cached_file(path, "config.json", revision=config.model.revision or None)
    return Path(str(found)).parent  # named by the revision's commit


def digests(path: Path) -> dict[str, str]:
    """Name -> digest of the files of a folder that a checkpoint is read from, or of one file."""
    if path.is_file():
        return {path.name: digest(path)}
    files = sorted(file for file in path.iterdir() if file.suffix in KINDS and file.is_file())
    return {file.name: digest(file) for file in files}


def digest(path: Path) -> str:
    """SHA-256 of a file's size and content; of a large one's size, first and last MiB."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        mark = hashlib.sha256(f"{size}\n".encode())
        if size <= LARGE:
            mark.update(file.read())
        else:
            mark.update(file.read(END))
            file.seek(-END, os.SEEK_END)
            mark.update(file.read(END))
    return mark.hexdigest()


def digest_of_studies(studies: list[Study], root: str) -> str:
    """SHA-256 of a split as it was read; a picture by its name behind the root. Of the context what was asked for."""
    mark = hashlib.sha256()

    def named(images: tuple[str, ...]) -> list[str]:
        return [image.removeprefix(root).lstrip("/") for image in images]

    for study in studies:
        known = vars(study.context) | {"prior_images": named(study.context.prior_images)}
        told = [known] if study.context != NOTHING else []
        mark.update(json.dumps([study.id, study.report, named(study.images), *told]).encode())
    return mark.hexdigest()


def start_adapter(run: Path, config: Config) -> str | None:
    """The adapter that this run starts from: the copy that it keeps, else the one that the configuration names."""
    kept = run / START
    return str(kept) if config.model.adapter and kept.is_dir() else config.model.adapter or None


def adapter_folder(adapter: str) -> Path:
    """The folder that an adapter was loaded from; an id on the hub has one in the hub's cache."""
    if Path(adapter).is_dir():
        return Path(adapter)
    files = [cached_file(adapter, name) for name in ADAPTER_FILES]
    return Path(str(files[0])).parent


def keep_start(source: Path, run: Path) -> Path:
    """RUN_DIR/start_adapter, a copy of the files that were loaded: whole or not at all."""
    final, temporary = run / START, run / f".{START}"
    with writing(final):
        for left in (temporary, final):  # of a start that a kill has ended before the run began
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir()
        for name in ADAPTER_FILES:
            shutil.copyfile(source / name, temporary / name)
            sync(temporary / name)
        sync(temporary)
        os.rename(temporary, final)
        sync(run)
    return final
