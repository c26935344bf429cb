"""How well scores rank reports as people have rated them.

S reports, each with a rating and of a case (a study); reports of one case by several systems are compared.

* tau-b over all reports: Kendall 1945, with its correction for ties on either side.
* Spearman: correlation of mean ranks.
* pairs right: of two reports of one case that people rate differently, how often the score ranks them so; a tie of the
  score counts half. It is what GRPO uses of a reward, whose advantages rank the reports of one study.
Intervals are 95% percentiles over resampled cases, with the same cases for every score, so that differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo.evaluation.table import Number

DRAWS = 2000


def tau_b(a: Tensor, b: Tensor) -> float:
    """Kendall's tau-b of two lists (S,); NaN where one of them is constant."""
    x, y = ((values.unsqueeze(1) - values.unsqueeze(0)).sign() for values in (a.double(), b.double()))
    size = math.sqrt(float(x.abs().sum() * y.abs().sum()))
    return float((x * y).sum()) / size if size else math.nan


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks (S,) from 0, equal values sharing the mean of theirs."""
    below = (values.unsqueeze(1) > values.unsqueeze(0)).sum(dim=1)
    equal = (values.unsqueeze(1) == values.unsqueeze(0)).sum(dim=1)
    return below + (equal - 1) / 2


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of mean ranks; NaN where one of the lists is constant."""
    x, y = (mean_ranks(values.double()) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x.square().sum() * y.square().sum()))
    return float((x * y).sum()) / size if size else math.nan


def pairs_of(ratings: Tensor, cases: Sequence[str]) -> list[tuple[int, int]]:
    """(better, worse) of all pairs of one case that are rated differently."""
    by_case: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        by_case.setdefault(case, []).append(place)
    pairs = [(i, j) for places in by_case.values() for i in places for j in places]
    return [(i, j) for i, j in pairs if ratings[i] > ratings[j]]


def pairs_right(scores: Tensor, pairs: Sequence[tuple[int, int]]) -> float:
    """Share of pairs (better, worse) that the scores (S,) rank so, ties as half; NaN without any."""
    if not pairs:
        return math.nan
    better, worse = (scores[torch.tensor(side)].double() for side in zip(*pairs))
    return float(((better > worse).double() + 0.5 * (better == worse).double()).mean())


def pairs_tied(scores: Tensor, pairs: Sequence[tuple[int, int]]) -> float:
    """Share of pairs that the scores make equal."""
    if not pairs:
        return math.nan
    better, worse = (scores[torch.tensor(side)] for side in zip(*pairs))
    return float((better == worse).double().mean())


@dataclass(frozen=True)
class Ranking:
    """How one score ranks."""

    tau_b: Number
    spearman: Number
    pairs: Number
    ties: float

    def to_json(self) -> dict[str, object]:
        numbers = {name: getattr(self, name).to_json() for name in ("tau_b", "spearman", "pairs")}
        return {**numbers, "ties": None if math.isnan(self.ties) else self.ties}


FIGURES = ("tau_b", "spearman", "pairs")


def figures(scores: Tensor, ratings: Tensor, pairs: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """tau-b, Spearman and pairs right; pairs: those of `pairs_of`."""
    return tau_b(scores, ratings), spearman(scores, ratings), pairs_right(scores, pairs)


@dataclass(frozen=True)
class Resampled:
    """Figures of every score on the same resampled cases: name -> (draws, 3), in the order of FIGURES."""

    values: dict[str, Tensor]

    def interval(self, name: str, figure: int, less: str = "") -> tuple[float, float]:
        """The 95% interval of one figure of a score; with `less`, of its difference to that one's."""
        found = self.values[name][:, figure] - (self.values[less][:, figure] if less else 0.0)
        found = found[~found.isnan()]
        if not len(found):
            return math.nan, math.nan
        low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
        return low, high


def resample(scores: Mapping[str, Tensor], ratings: Tensor, cases: Sequence[str], draws: int = DRAWS) -> Resampled:
    """`draws` times as many cases with replacement; a case drawn twice counts as two."""
    names = list(dict.fromkeys(cases))
    places = {name: [i for i, case in enumerate(cases) if case == name] for name in names}
    generator, values = (
        torch.Generator().manual_seed(0),
        {name: torch.zeros(draws, 3, dtype=torch.float64) for name in scores},
    )
    for draw in range(draws):
        chosen = torch.randint(len(names), (len(names),), generator=generator).tolist()
        rows = [i for n in chosen for i in places[names[n]]]
        again = [f"{place}" for place, n in enumerate(chosen) for _ in places[names[n]]]
        pairs = pairs_of(ratings[rows], again)
        for name, own in scores.items():
            values[name][draw] = torch.tensor(figures(own[rows], ratings[rows], pairs))
    return Resampled(values)


def rankings(
    scores: Mapping[str, Tensor], ratings: Tensor, cases: Sequence[str], draws: int = DRAWS
) -> tuple[dict[str, Ranking], Resampled]:
    """name -> scores (S,), higher better, against ratings (S,), higher better; and the draws, for differences."""
    resampled, pairs = resample(scores, ratings, cases, draws), pairs_of(ratings, cases)
    found = {}
    for name, own in scores.items():
        tau, rho, right = (
            Number(value, *resampled.interval(name, i)) for i, value in enumerate(figures(own, ratings, pairs))
        )
        found[name] = Ranking(tau, rho, right, pairs_tied(own, pairs))
    return found, resampled
