"""How many different reports a system wrote: one sentence for everybody can score well where most studies are normal.

Two texts are one report if they have the same words in the same order; case, punctuation and white space do not count.
A file of labels alone is judged by its label vectors.

The rule, which was set before any data was looked at: a system says nearly the same to everybody where
  * of at least 10 studies one report has half or more, and at least twice the share of the commonest reference; or
  * of at least 50 studies it has fewer than a tenth as many distinct reports as there are distinct references.
Both compare with the references, so that data in which most references are one normal sentence blames no system for it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

FEW, MANY = 10, 50
"""Studies from which each part of the rule holds: of fewer, chance alone repeats reports."""
SHOWN = 120
"""Characters of the commonest report that a page shows."""


@dataclass(frozen=True)
class Distinct:
    """Of one side's texts or label vectors: how many, how many different ones, and how often the commonest comes."""

    total: int
    distinct: int
    commonest: int
    first: int
    """Place of the first copy of the commonest."""

    @property
    def share(self) -> float:
        return self.commonest / self.total

    def __str__(self) -> str:
        often = f", the commonest {self.commonest:,} times ({self.share:.0%})" if self.commonest > 1 else ""
        return f"{self.distinct:,} distinct{often}"


@dataclass(frozen=True)
class Variety:
    """How varied a system's reports are, and the references that it was given."""

    reports: Distinct
    references: Distinct
    label_vectors: Distinct
    text: str = ""
    """The commonest report, cut; "" where no text may be shown, or there is none."""
    labels_alone: bool = False

    @property
    def nearly_constant(self) -> bool:
        """Whether it says nearly the same to everybody, by the rule above."""
        own, reference = self.reports, self.references
        one = own.total >= FEW and own.share >= 0.5 and own.share >= 2 * reference.share
        return one or (own.total >= MANY and 10 * own.distinct < reference.distinct)

    def note(self) -> str:
        """One line for every page."""
        what = "label vectors" if self.labels_alone else "reports"
        text = f': "{self.text}"' if self.text and self.reports.commonest > 1 else ""
        vectors = "" if self.labels_alone else f"; {self.label_vectors.distinct:,} distinct label vectors"
        return f"{self.reports.total:,} {what}, {self.reports}{text}{vectors}; references: {self.references}"

    def warning(self) -> str:
        """One line that must stand out; "" where there is nothing to say."""
        if not self.nearly_constant:
            return ""
        return (
            f"WARNING: nearly the same for everybody, {self.reports.distinct:,} distinct for {self.reports.total:,} "
            f"studies: read these numbers beside the baselines all_normal and most_frequent, which never look at an "
            "image"
        )

    def to_json(self) -> dict[str, Any]:
        """Counts and shares of both sides, and whether the rule holds."""
        return {
            "reports": self.reports.total,
            "distinct": self.reports.distinct,
            "commonest_share": self.reports.share,
            "commonest": self.text or None,
            "label_vectors": self.label_vectors.distinct,
            "references_distinct": self.references.distinct,
            "references_commonest_share": self.references.share,
            "nearly_constant": self.nearly_constant,
        }


def variety(
    reports: Sequence[str], references: Sequence[str], labels: Tensor, reference_labels: Tensor, keep_text: bool = True
) -> Variety:
    """S reports and references with their class ids (S, 14) -> how varied both are; without any text the labels are.

    keep_text: whether the commonest report may be shown.
    """
    vectors, reference_vectors = (distinct(map(tuple, side.tolist())) for side in (labels, reference_labels))
    if not any(reports) and not any(references):
        return Variety(vectors, reference_vectors, vectors, labels_alone=True)
    own = distinct(map(words, reports))
    text = " ".join(reports[own.first].split()) or "(empty)"
    cut = text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
    return Variety(own, distinct(map(words, references)), vectors, cut if keep_text else "")


def distinct(items: Any) -> Distinct:
    """At least one item, each hashable -> what is known of them."""
    whole = list(items)
    item, count = Counter(whole).most_common(1)[0]
    return Distinct(len(whole), len(set(whole)), count, whole.index(item))


def words(text: str) -> tuple[str, ...]:
    """What counts of a text when two are compared."""
    return tuple(re.findall(r"\w+", text.lower()))
