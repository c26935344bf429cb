"""Writing so that a kill, a power cut or a full disk leaves the old file or the new one, never half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mrg_grpo.errors import UserError

REMEDY = "make room there or mend the folder, then go on with --resume: the last checkpoint is intact"


@contextmanager
def writing(path: Path | str, remedy: str = REMEDY) -> Iterator[None]:
    """Within: a disk that is full, or a folder that cannot be written, is one line that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: cannot be written ({reason}); {remedy}") from error


def write_whole(path: Path, text: str, remedy: str = REMEDY) -> None:
    """Replace a file: written beside it, synced, renamed. UserError if it cannot be written; the old one stays then."""
    temporary = path.with_name(f".{path.name}")
    with writing(path, remedy):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
