"""The file of an experiment: all its records, and how long its steps take, as one compressed JSON.

    xz -dc experiments/results/ablations/rewards.json.xz | less

{"records": {"mccs-seed0": {...}, ...}, "step_seconds": {"sft, think and report": [...], ...}}. The same content has the
same bytes.
"""

from __future__ import annotations

import json
import lzma
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mrg_grpo.files import fcntl, sync

SUFFIX = ".json.xz"
THREADS = threading.Lock()


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Both parts, for reading alone; empty where there is no file."""
    if not path.exists():
        return {"records": {}, "step_seconds": {}}
    found = path.stat()
    return _read(path, found.st_ino, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, *_: int) -> dict[str, dict[str, Any]]:
    """One file as it is now: a page asks for each a hundred times."""
    return json.loads(lzma.decompress(path.read_bytes()))


def keep(path: Path, records: Mapping[str, Any] | None = None, step_seconds: Mapping[str, Any] | None = None) -> None:
    """Put these in beside what is there, or in its place where it has the same name; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):
        content, new = read(path), {"records": records or {}, "step_seconds": step_seconds or {}}
        both = {part: dict(sorted({**content[part], **new[part]}.items())) for part in new}
        temporary = path.with_name(f".{path.name}.part")  # no name that is looked for
        temporary.write_bytes(lzma.compress(json.dumps(both, ensure_ascii=False).encode()))
        sync(temporary)
        os.replace(temporary, path)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within: no other thread or process is here for this folder, so that none writes what the other has not read."""
    with THREADS:
        if not fcntl:
            yield
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed
            yield
        finally:
            os.close(descriptor)
