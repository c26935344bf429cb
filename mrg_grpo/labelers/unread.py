"""Texts that a labeler cannot read: without a label, or longer than it looks.

A report that no label sees (in another language, a file's path, a bare id) agrees with every other such report, and
MCCS gives the wrong one a 1. So a set of references most of which no label sees is refused unless it is allowed.

Deliberate choice: without a label is what is blank in all 14, and what is blank in the 13 conditions and not written in
Latin letters for the most part, or is one word with a digit, a slash or an underscore. CheXbert calls much of what it
cannot read No Finding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mrg_grpo.data.records import first_names
from mrg_grpo.errors import UserError
from mrg_grpo.labels import BLANK, POSITIVE

SAMPLE = 128
"""References of a training split that are looked at before a run: evenly spaced, since labelling all takes its time."""
NAMED = 5


@dataclass(frozen=True)
class Unread:
    """Of `total` texts the places of those without a label, and of those that are longer than the labeler reads."""

    total: int
    without_label: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)

    @property
    def share(self) -> float:
        return len(self.without_label) / self.total if self.total else 0.0

    def notes(self, what: str, names: Sequence[str]) -> list[str]:
        """A line for each kind of trouble, with its count and the first names; what: "references"."""
        lines = []
        if self.without_label:
            lines.append(
                f"{len(self.without_label):,} of {self.total:,} {what} carry no label ({self.share:.0%}): any report "
                f"without a finding agrees with them ({_first(names, self.without_label)})"
            )
        if self.cut:
            lines.append(
                f"{len(self.cut):,} of {self.total:,} {what} are longer than the labeler reads: labelled by their "
                f"first 512 tokens ({_first(names, self.cut)})"
            )
        return lines

    def require(self, what: str, names: Sequence[str], allowed: bool, option: str) -> None:
        """UserError if more than half carry no label and that is not allowed; option says how to allow it."""
        if self.share > 0.5 and not allowed:
            raise UserError(
                f"{len(self.without_label):,} of {self.total:,} {what} carry no label ({self.share:.0%}; "
                f"{_first(names, self.without_label)}): not English, no reports, or not this labeler's; mend them, "
                f"or go on with {option}"
            )


def unread_of(labels: Tensor, texts: Sequence[str], labeler: Any = None) -> Unread:
    """Class ids (B, 14) of B texts -> what was not read. labeler: one that can say which texts it cuts."""
    rows = labels.tolist()
    blank = [i for i, (row, text) in enumerate(zip(rows, texts)) if _sees_nothing(row, text)]
    cuts = getattr(labeler, "cuts", None)
    return Unread(len(rows), blank, [i for i, cut in enumerate(cuts(list(texts))) if cut] if cuts else [])


def unread_references(labeler: Any, studies: Sequence[Any]) -> tuple[Unread, list[str]]:
    """At most SAMPLE studies, evenly spaced: what of their reports was not read, and their ids."""
    count = min(SAMPLE, len(studies))
    few = [studies[i * len(studies) // count] for i in range(count)]
    texts = [study.report for study in few]
    return unread_of(labeler.label(texts), texts, labeler), [study.id for study in few]


def _sees_nothing(labels: list[int], text: str) -> bool:
    if any(label != BLANK for label in labels[:13]):
        return False
    marks = [mark for mark in text if not mark.isspace()]
    latin = sum(mark.isalpha() and mark < "\u0250" for mark in marks)
    one_word = len(text.split()) == 1 and re.search(r"[\d/\\_]", text) is not None
    return labels[13] != POSITIVE or 2 * latin < len(marks) or one_word


def _first(names: Sequence[str], places: list[int]) -> str:
    return first_names([names[place] for place in places], NAMED)
