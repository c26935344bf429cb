"""Which image files of a data set cannot be used: not there, refused by their headers, or damaged behind them.

Deliberate choices:
1. Headers alone are read before a run, in some 30 microseconds of one core a file. To decode a file whole takes
   hundreds of times as long, and only `mrg-grpo check --images` does it.
2. Threads, in blocks of files: on a network disk the time goes by in waiting, and a block keeps their overhead small.
3. Of many ranks each looks at its share, and all of them hear what was found.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.data.images import check_header, open_image, tell_frames
from mrg_grpo.data.packed import is_packed, split_address
from mrg_grpo.data.prefetch import prefetch
from mrg_grpo.errors import ImageError

BLOCK = 256
"""Headers that a thread reads in one go; of files that are decoded a sixteenth."""
WORKERS = 8
MANY = 10_000
"""Files from which on a line says what takes its time."""


def missing_files(folder: Path, names: Iterable[str]) -> set[str]:
    """Which of these names, relative to the folder, are not there; of a picture in a parquet file, the file counts.

    Each folder is listed once. On MIMIC-CXR's tree of one or two images a folder this took as long as asking for each
    file, and on a flat folder of thousands it is one request in place of thousands.
    """
    by_folder: dict[str, list[str]] = {}
    for name in names:
        head, _, tail = name.rpartition("/")
        by_folder.setdefault(head, []).append(tail)
    missing: set[str] = set()
    for head, tails in by_folder.items():
        inner = f"{folder}/{head}" if head else str(folder)
        prefix = f"{head}/" if head else ""
        try:
            present = set(os.listdir(inner))
        except OSError:  # no such folder: then none of its files is there
            present = set()
        missing.update(prefix + tail for tail in tails if split_address(tail)[0] not in present)
    return missing


def image_faults(paths: Sequence[str], whole: bool = False) -> dict[str, str]:
    """path -> why, of the image files that cannot be read: by their headers, or decoded whole."""
    what = "image files" if whole else "headers of image files"
    if len(paths) >= MANY and distributed.is_first():
        print(f"reads the {what}: {len(paths):,}", file=sys.stderr, flush=True)
    own = distributed.share(paths).items
    # pictures of a parquet file in small blocks, so that the threads are in few of its row groups at once
    size = BLOCK // 16 if whole or any(map(is_packed, own)) else BLOCK
    blocks = [own[start : start + size] for start in range(0, len(own), size)]

    def look(block: list[str]) -> tuple[dict[str, str], list[str]]:
        found: dict[str, str] = {}
        frames: list[str] = []
        for path in block:
            try:
                if check_header(path):
                    frames.append(path)
                if whole:
                    open_image(path)
            except ImageError as error:
                found[path] = error.what
        return found, frames

    faults: dict[str, str] = {}
    several: list[str] = []
    workers = os.cpu_count() or 1 if whole else WORKERS
    hidden = None if distributed.is_first() else True  # None: on a terminal alone
    with tqdm(total=len(own), desc=what, disable=hidden, leave=False) as bar:
        for block, (found, frames) in zip(blocks, prefetch(blocks, look, workers, ahead=2 * workers)):
            faults |= found
            several += frames
            bar.update(len(block))
    parts = distributed.all_gather((faults, several))
    if distributed.is_first():
        tell_frames(list(dict.fromkeys(path for _, part in parts for path in part)))
    return {path: why for part, _ in parts for path, why in part.items()}
