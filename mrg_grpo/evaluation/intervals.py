"""Intervals and p-values over studies, for every metric at once.

A metric here is a pure function of summed per-study statistics (S, K). Resampling studies is then a matrix of counts
times the statistics, and 10,000 resamples of 1,000 studies are one product of a second or less, not 10,000 loops.

* `bootstrap`: percentile intervals, studies sampled with replacement.
* `bootstrap_difference`: the same for B - A of two systems on the same studies, with the same samples for both.
* `randomisation_test`: paired approximate randomisation (Noreen 1989): under the null the two reports of a study could
  be swapped; p is the share of random swaps with a difference at least as large, +1 in numerator and denominator.
  Swaps that leave the metric undefined count in neither.

All are seeded, on the CPU generator, so a number can be had again. S studies, K statistics, R resamples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MetricFunction = Callable[[Tensor], dict[str, Tensor]]
"""Summed statistics (..., K) -> metrics by name, each (...) or (..., C)."""

CHUNK_CELLS = 4_000_000
"""Cells of one weight matrix (resamples of a chunk x studies): 32 MB in float64."""
KEPT_CELLS = 40_000_000
"""Cells of all chunks of a bootstrap that are kept for the next one: 80 MB as int16, 4,000 studies."""


@dataclass(frozen=True)
class Interval:
    """A metric on all studies and its interval; tensors of one shape, () or (C,). NaN where undefined."""

    value: Tensor
    low: Tensor
    high: Tensor


def bootstrap(
    statistics: Tensor, metric: MetricFunction, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Statistics (S, K) -> percentile interval of each metric. Undefined resamples (NaN) are left out of it."""
    resampled = [metric(weights @ statistics) for weights in _resample_weights(statistics, resamples, seed)]
    return _intervals(metric(statistics.sum(dim=0)), _join(resampled), level)


def bootstrap_difference(
    first: Tensor, second: Tensor, metric: MetricFunction, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Paired: statistics (S, K) of two systems on the same studies in the same order -> intervals of second - first."""
    _check_pair(first, second)

    def difference(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        one, two = metric(a), metric(b)
        return {name: two[name] - one[name] for name in one}

    resampled = [difference(weights @ first, weights @ second) for weights in _resample_weights(first, resamples, seed)]
    return _intervals(difference(first.sum(dim=0), second.sum(dim=0)), _join(resampled), level)


def randomisation_test(
    first: Tensor, second: Tensor, metric: MetricFunction, resamples: int = 10_000, seed: int = 0
) -> dict[str, Tensor]:
    """Paired two-sided p-value of each metric: (1 + #{|d*| >= |d|}) / (1 + R), of the R swaps that leave it defined.
    NaN where d is undefined.
    """
    _check_pair(first, second)
    sum_first, sum_second, swap = first.sum(dim=0), second.sum(dim=0), second - first
    one, two = metric(sum_first), metric(sum_second)
    observed = {name: (two[name] - one[name]).abs() for name in one}
    reached = {name: torch.zeros_like(value) for name, value in observed.items()}
    counted = {name: torch.zeros_like(value) for name, value in observed.items()}
    generator = torch.Generator().manual_seed(seed)
    for rows in _chunks(resamples, len(first)):
        flips = torch.randint(0, 2, (rows, len(first)), generator=generator).to(first)  # 1 where a study is swapped
        moved = flips @ swap  # (rows, K)
        one, two = metric(sum_first + moved), metric(sum_second - moved)
        for name in observed:
            # a difference that is equal but for rounding must count as reached, or p comes out too small
            swapped = (two[name] - one[name]).abs()
            reached[name] += (swapped >= observed[name] - 1e-12).sum(dim=0)
            counted[name] += (~swapped.isnan()).sum(dim=0)
    return {
        name: torch.where(observed[name].isnan(), torch.nan, (reached[name] + 1) / (counted[name] + 1))
        for name in observed
    }


def _resample_weights(statistics: Tensor, resamples: int, seed: int) -> Iterator[Tensor]:
    """Chunks of (rows, S): how often each study is sampled, S times a row."""
    studies = len(statistics)
    if studies == 0:
        raise ValueError("no studies to resample")
    chunks, small = tuple(_chunks(resamples, studies)), studies * resamples <= KEPT_CELLS
    for counts in _kept_counts(studies, chunks, seed) if small else _counts(studies, chunks, seed):
        yield counts.to(statistics)


def _counts(studies: int, chunks: tuple[int, ...], seed: int) -> Iterator[Tensor]:
    """The same as int16, in chunks of so many rows; no count of a sample comes near its limit."""
    generator = torch.Generator().manual_seed(seed)
    for rows in chunks:
        picks = torch.randint(0, studies, (rows, studies), generator=generator)
        cells = picks + torch.arange(rows).unsqueeze(1) * studies  # one bincount for all rows
        yield torch.bincount(cells.flatten(), minlength=rows * studies).view(rows, studies).to(torch.int16)


@lru_cache(maxsize=1)
def _kept_counts(studies: int, chunks: tuple[int, ...], seed: int) -> tuple[Tensor, ...]:
    """One evaluation asks for the same ones a dozen times, a page of ablations a hundred times."""
    return tuple(_counts(studies, chunks, seed))


def _chunks(resamples: int, studies: int) -> Iterator[int]:
    rows = max(1, CHUNK_CELLS // max(studies, 1))
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def _join(resampled: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([chunk[name] for chunk in resampled]) for name in resampled[0]}


def _intervals(values: dict[str, Tensor], resampled: dict[str, Tensor], level: float) -> dict[str, Interval]:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    result = {}
    for name, value in values.items():
        low, high = torch.nanquantile(resampled[name].double(), tails.to(resampled[name].device), dim=0)
        result[name] = Interval(value, low, high)
    return result


def _check_pair(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"a paired comparison needs the same studies: {tuple(first.shape)} and {tuple(second.shape)}")
