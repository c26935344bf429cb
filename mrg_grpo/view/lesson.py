"""What a group taught. G reports of one study, their signed vectors and their advantages.

The gradient of a group pushes up what its reports above the mean have and those below lack. For each condition and sign
the correlation between "this report says it" and the advantage tells how much of the push goes there; it does not
depend on the scale of the advantages. The strongest few are put into words, with counts that can be checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mrg_grpo.labels import CONDITIONS
from mrg_grpo.rewards.mccs import signed_vectors

STRONG = 0.5
"""Correlations below are not worth a word."""
NAMED = 2
"""Findings named in each direction."""
WORDS = {1: "", -1: "no "}


@dataclass(frozen=True)
class Push:
    """One finding: towards it (correlation above 0) or away from it."""

    what: str
    correlation: float
    above: int  # reports above the group's mean that say it
    below: int
    agreement: str


def signs(labels: list[list[int]]) -> list[list[int]]:
    """Rows of class ids, of 14 or 13 conditions -> rows of 13 signs, as the reward has them."""
    return signed_vectors(torch.tensor([row[:13] for row in labels])).int().tolist()


def correlation(values: list[float], advantages: list[float]) -> float:
    """Pearson's; 0 where either side is constant."""
    n = len(values)
    mean_v, mean_a = sum(values) / n, sum(advantages) / n
    covariance = sum((v - mean_v) * (a - mean_a) for v, a in zip(values, advantages))
    spread = math.sqrt(sum((v - mean_v) ** 2 for v in values) * sum((a - mean_a) ** 2 for a in advantages))
    return covariance / spread if spread > 1e-12 else 0.0


def pushes(
    labels: list[list[int]], compliant: list[bool | None], advantages: list[float], reference: list[int]
) -> list[Push]:
    """Every finding, and the form, that some reports of the group have and some lack; strongest first."""
    *vectors, wanted = signs([*labels, reference])
    features = [
        (word + CONDITIONS[c].lower(), [row[c] == sign for row in vectors], _agreement(sign, wanted[c]))
        for c in range(13)
        for sign, word in WORDS.items()
    ]
    if None not in compliant:
        features.append(("the asked form", [bool(flag) for flag in compliant], ""))
    found = []
    for what, has, agreement in features:
        r = correlation([float(flag) for flag in has], advantages)
        above = sum(flag and a > 0 for flag, a in zip(has, advantages))
        below = sum(flag and a < 0 for flag, a in zip(has, advantages))
        found.append(Push(what, r, above, below, agreement))
    return sorted((push for push in found if push.correlation), key=lambda push: -abs(push.correlation))


def lesson(labels: list[list[int]], compliant: list[bool | None], advantages: list[float], reference: list[int]) -> str:
    """A sentence each on what was pushed up and what was pushed down."""
    above, below = sum(a > 0 for a in advantages), sum(a < 0 for a in advantages)
    if not above:
        return f"All {len(advantages)} rewards are equal: no advantage, so this group taught nothing."
    strong = [push for push in pushes(labels, compliant, advantages, reference) if abs(push.correlation) >= STRONG]

    def words(push: Push) -> str:
        counts = f"{push.above} of {above} above the mean, {push.below} of {below} below"
        return f"{push.what} ({counts}{push.agreement})"

    towards = [words(push) for push in strong if push.correlation > 0][:NAMED]
    away = [words(push) for push in strong if push.correlation < 0][:NAMED]
    ways = (("Pushed towards", towards), ("Pushed away from", away))
    parts = [f"{way}: {', '.join(named)}." for way, named in ways if named]
    if not parts:
        return "No single finding tells the reports above the mean from those below."
    return " ".join(parts)


def disagreement(labels: list[list[int]]) -> float:
    """Mean over pairs of reports of the number of conditions, of 13, on which their signs differ."""
    vectors = signs(labels)
    pairs = [(a, b) for i, a in enumerate(vectors) for b in vectors[i + 1 :]]
    return sum(sum(x != y for x, y in zip(a, b)) for a, b in pairs) / len(pairs) if pairs else 0.0


def _agreement(sign: int, wanted: int) -> str:
    if wanted == 0:
        return "; the reference is silent"
    return "; the reference says so too" if sign == wanted else "; the reference says the opposite"
