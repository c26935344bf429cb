"""Plain-text tables for the console: aligned columns, numbers with their interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mrg_grpo.terminal import columns, pad, width, wrap


@dataclass(frozen=True)
class Number:
    """A metric and its 95% interval; NaN where undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_json(self) -> dict[str, float | None]:
        """NaN has no place in JSON: undefined is null."""
        return {key: None if math.isnan(value) else value for key, value in vars(self).items()}

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


UNDEFINED = Number(math.nan)


def of(number: Number, count: float) -> Number:
    """A score of `count` things: undefined where there are none, whatever a convention counts it as in an average."""
    return number if count else UNDEFINED


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", room: int | None = None
) -> str:
    """Rows under a header, the first column to the left and the others to the right, each as wide as it must be.

    A table wider than `room` columns, None asks the terminal, becomes several with the same first column: no number is
    cut or broken, and in a file nothing is.
    """
    room = columns() if room is None else room
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(header))]
    names = widths[0] if room is None else min(widths[0], max(room - 2 - max(widths[1:], default=-2), NARROWEST))
    blocks: list[list[int]] = [[]]
    for column in range(1, len(header)):
        if blocks[-1] and room is not None and names + sum(2 + widths[i] for i in (*blocks[-1], column)) > room:
            blocks.append([])
        blocks[-1].append(column)
    text = "\n\n".join(_block(cells, block, names, widths) for block in blocks)
    return f"{wrap(title, room)}\n{text}" if title else text


NARROWEST = 12
"""Columns that the first column of a table keeps, in however narrow a terminal."""


def _block(cells: list[list[str]], block: list[int], names: int, widths: list[int]) -> str:
    """These columns of a table behind its first, which is broken into lines of `names` columns."""
    lines = []
    for row in cells:
        name, *more = wrap(row[0], names).split("\n") if width(row[0]) > names else [row[0]]
        numbers = "".join(" " * (2 + widths[i] - width(row[i])) + row[i] for i in block)
        lines += [(pad(name, names) + numbers).rstrip(), *more]
        if row is cells[0]:
            lines.append("-" * (names + sum(2 + widths[i] for i in block)))
    return "\n".join(lines)
