"""Plain-text tables for the console: aligned columns, numbers with their interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> str:
    """Rows under a header, the first column to the left and the others to the right, each as wide as it must be."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    rule = "-" * len(lines[0])
    return "\n".join([*([title] if title else []), lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:])])
