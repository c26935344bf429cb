"""Side, size and malposition: what a report says of a finding beside that it is there. CheXbert's 14 ids stay as they
are.

    side         of each of the 13 conditions: none, left, right, both
    size         of each of them, a size or a severity: none, small or mild, moderate, large or severe
    malposition  of devices: none, yes, no

Deliberate choices
* Attributes are what the text says. "Effusion." has no side and no size, whatever the picture shows.
* Only a condition that is stated or doubted has any; one that is denied or not named has none.
* Sides are numbered so that several statements join by `|`: left | right is both. Of several sizes the larger counts.
* The ids of malposition are CheXbert's blank, positive and negative, and positive wins as it does there.

Shapes: B reports, 13 conditions in the order of `labels.CONDITIONS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

SIDES = ("none", "left", "right", "both")
NO_SIDE, LEFT, RIGHT, BOTH = range(4)
SIZES = ("none", "small or mild", "moderate", "large or severe")
NO_SIZE, SMALL, MODERATE, LARGE = range(4)
MALPOSITIONS = ("none", "yes", "no")

Said = tuple[tuple[int, ...], tuple[int, ...], int]
"""The attributes of one report outside of tensors: 13 sides, 13 sizes, malposition."""
NOTHING: Said = ((NO_SIDE,) * 13, (NO_SIZE,) * 13, BLANK)


@dataclass(frozen=True)
class Attributes:
    """Attributes of B reports, long tensors on one device."""

    side: Tensor  # (B, 13)
    size: Tensor  # (B, 13)
    malposition: Tensor  # (B,)

    @classmethod
    def of(cls, rows: Sequence[Said]) -> "Attributes":
        """Rows of B reports -> their tensors."""
        side, size = (torch.tensor([row[i] for row in rows], dtype=torch.long).reshape(-1, 13) for i in (0, 1))
        return cls(side, size, torch.tensor([row[2] for row in rows], dtype=torch.long))

    @classmethod
    def unpacked(cls, rows: Tensor) -> "Attributes":
        """(B, 27) of `packed` -> the attributes."""
        return cls(rows[:, :13], rows[:, 13:26], rows[:, 26])

    def packed(self) -> Tensor:
        """13 sides, 13 sizes and the malposition of each report, (B, 27): one tensor to send or to gather."""
        return torch.cat([self.side, self.size, self.malposition[:, None]], dim=1)

    def to(self, device: torch.device | str) -> "Attributes":
        """The same on another device."""
        return Attributes(self.side.to(device), self.size.to(device), self.malposition.to(device))

    def where_claimed(self, labels: Tensor) -> "Attributes":
        """Without the attributes of conditions that class ids (B, 14) neither state nor doubt."""
        claimed = (labels[:, :13] == POSITIVE) | (labels[:, :13] == UNCERTAIN)  # (B, 13)
        return Attributes(self.side * claimed, self.size * claimed, self.malposition * claimed[:, 12])


def join_malposition(first: int, second: int) -> int:
    """Of two statements about devices: what is badly placed stays so beside one that is well placed."""
    return min(first, second) if first and second else max(first, second)


def join(first: Said, second: Said) -> Said:
    """Two statements about the same conditions -> what they say together."""
    side = tuple(a | b for a, b in zip(first[0], second[0]))
    size = tuple(max(a, b) for a, b in zip(first[1], second[1]))
    return side, size, join_malposition(first[2], second[2])


assert (BLANK, POSITIVE, NEGATIVE) == (0, 1, 2)  # the order of MALPOSITIONS
