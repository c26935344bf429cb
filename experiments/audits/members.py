"""The rewards that the audit by radiologists holds against ratings: a label term each, alone or with words beside it.

MAIN stands on the page with intervals; TRIES are all that was ever tried on the given half, so that nobody has to ask
how many there were before the best one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

from torch import Tensor

from mrg_grpo.evaluation.rated import text_scores
from mrg_grpo.rewards.ce_f1 import ce_f1
from mrg_grpo.rewards.clinical import agreement
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, unsigned_cosine

LABELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mccs 0.6": lambda g, r: mccs(g, r, 0.6),
    "mccs 0.2": lambda g, r: mccs(g, r, 0.2),
    "ccs": clinical_cosine,
    "unsigned_cosine": unsigned_cosine,
    "ce_f1": ce_f1,
}


RULE = {"unhedged": "", "none": "no rule", "positive": "by positives", "strict": "strict"}
"""What a member is called by its rule for normal reports; the default has no word."""


@dataclass(frozen=True)
class Member:
    """A label term, the member of the family (mrg_grpo/rewards/clinical.py) or `label`, plus weight * words."""

    denial: float = 1.0
    contradiction: float | None = None
    uncertain: float = 1.0
    normal: str = "none"
    label: str = ""
    """Of LABELS, or "none" for words alone; "" is the family."""
    words: str = ""
    weight: float = 1.0

    @property
    def name(self) -> str:
        """Such as "clinical d=0 c=0.5 strict + 1.5 bleu": what a denial weighs, a contradiction costs, the rule for
        normal reports where it is not the default."""
        own = [self.label] if self.label else [f"clinical d={self.denial:g}"]
        own += [f"c={self.contradiction:g}"] if self.contradiction is not None else []
        own += [f"u={self.uncertain:g}"] if self.uncertain != 1 else []
        own += [RULE[self.normal]] if not self.label and RULE[self.normal] else []
        if self.label == "none":
            return self.words
        times = "" if self.weight == 1 else f"{self.weight:g} "
        return " ".join(own) + (f" + {times}{self.words}" if self.words else "")

    def scores(self, generated: Tensor, reference: Tensor, reports: list[str], references: list[str]) -> Tensor:
        """Class ids (S, 14) and texts of reports and references -> (S,)."""
        words = text_scores(reports, references)[self.words].double() if self.words else 0.0
        if self.label == "none":
            return words  # type: ignore[return-value]
        if self.label:
            labels = LABELS[self.label](generated, reference)
        else:
            labels = agreement(
                generated, reference, self.denial, self.contradiction, self.uncertain, self.normal, empty=1.0
            )
        return labels.double() + self.weight * words


def by_name(*members: Member) -> dict[str, Member]:
    return {member.name: member for member in members}


def with_words(member: Member, words: str, *weights: float) -> list[Member]:
    return [replace(member, words=words, weight=weight) for weight in weights]


WORDS = ("rouge_l", "bleu")
EXPECTED = Member(0.3, 1.0, normal="strict")
"""Written down before the first look."""
POSITIVE, UNHEDGED = Member(0.1, normal="positive"), Member(0.1, normal="unhedged")
ALONE = [replace(one, denial=0.0) for one in (POSITIVE, UNHEDGED)]
"""Findings alone."""

MAIN = by_name(
    *(Member(label=label) for label in LABELS),
    *(Member(label="none", words=words) for words in WORDS),
    EXPECTED,
    POSITIVE,
    UNHEDGED,
    *ALONE,
    *with_words(ALONE[1], "rouge_l", 1.0),
    *with_words(ALONE[1], "bleu", 1.0),
    *with_words(UNHEDGED, "bleu", 1.0),
)

FIRST = by_name(
    *(Member(d) for d in (0.0, 0.1, 0.2, 0.3, 0.5)),
    Member(0.3, 1.0), Member(0.3, 0.5), Member(normal="strict"), Member(uncertain=0.5), Member(0.3, normal="strict"),
    EXPECTED,
)  # fmt: skip
"""The first look."""

SECOND = by_name(
    ALONE[0], Member(0.1, normal="strict"), Member(0.1, 0.5, normal="strict"), Member(0.1, 1.0, normal="strict"),
    POSITIVE, Member(0.1, 0.5, normal="positive"), Member(0.1, 0.5, 0.7, "positive"),
    Member(0.1, uncertain=0.7, normal="positive"), Member(0.3, uncertain=0.5, normal="positive"),
)  # fmt: skip
"""What a normal report is, less for denials, and "uncertain" again."""

MIXED = by_name(
    *(
        one
        for member in (ALONE[0], POSITIVE, Member(0.1, 0.5, 0.7, "positive"), Member(label="ce_f1"))
        for words in WORDS
        for one in with_words(member, words, 0.1, 0.5, 1.0, 1.5, 2.0)
    ),
    *(Member(0.0, c, u, "positive") for c, u in product((0.25, 0.5, 1.0), (1.0, 0.7, 0.5))),
)
"""A text term beside it, and what a contradiction costs where denials weigh nothing."""

RULES = by_name(
    *(
        one
        for normal, d, u in product(("positive", "strict", "unhedged"), (0.0, 0.1), (1.0, 0.7, 0.5))
        for member in [Member(d, None, u, normal)]
        for one in (member, *with_words(member, "rouge_l", 1.0), *with_words(member, "bleu", 1.0, 1.5))
    )
)
"""Which reports are normal, after the audit found that by positives alone a report that doubts all of it is paid."""

TRIES = FIRST | SECOND | MIXED | RULES
