"""Text that fits a terminal: how wide it is, letters that take two columns of it, lines broken where
they must be, and the time left in words.

Nothing is left out to fit, and what goes to a file is not broken at all.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata

from tqdm import tqdm


def columns() -> int | None:
    """Columns of the terminal that standard output is; None where it is none and lines may have any length."""
    return shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None


def width(text: str) -> int:
    """Columns that a text takes: East Asian letters two, accents that stand on other letters none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "FW") for c in text)


def time_left(seconds: float, done: int, total: int) -> str:
    """How long the rest takes if it goes on as the `done` of `total` did in these seconds: "01:30 left"."""
    return f"{tqdm.format_interval(seconds / done * (total - done))} left"


def pad(text: str, room: int) -> str:
    """The text with spaces behind it, to `room` columns."""
    return text + " " * (room - width(text))


def wrap(text: str, room: int | None, first: str = "", rest: str = "") -> str:
    """The words of `text` behind `first`, in lines of at most `room` columns, each further one behind `rest`.

    A word wider than a line is broken; room None is one line.
    """
    if room is None:
        return first + text
    lines: list[str] = []
    line, bare = first, True
    for word in text.split():
        if not bare and width(line) + 1 + width(word) > room:
            lines, line, bare = [*lines, line], rest, True
        line, bare = line + ("" if bare else " "), False
        for letter in word:
            if width(line) + width(letter) > max(room, width(rest) + 2):
                lines, line = [*lines, line], rest
            line += letter
    return "\n".join([*lines, line])
