"""Ranks against ratings: scipy, loops, and cases by hand."""

import math
import random

import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from mrg_grpo.evaluation.ratings import pairs_of, pairs_right, pairs_tied, rankings, spearman, tau_b


def with_ties(seed, count=60):
    draw = random.Random(seed)
    return torch.tensor([draw.choice([0.0, 0.5, 1.0, 2.0, 3.5]) for _ in range(count)], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_tau_and_spearman_are_scipys(seed):
    a, b = with_ties(seed), with_ties(seed + 100) + 0.3 * with_ties(seed)
    assert tau_b(a, b) == pytest.approx(kendalltau(a, b).statistic)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_a_constant_ranks_nothing():
    assert math.isnan(tau_b(torch.ones(4), torch.arange(4.0))) and math.isnan(
        spearman(torch.arange(4.0), torch.ones(4))
    )
    assert math.isnan(pairs_right(torch.arange(3.0), []))


def test_pairs_are_of_one_case_and_ties_count_half():
    cases, ratings = ["a", "a", "b", "b", "b", "c"], torch.tensor([5.0, 2.0, 1.0, 3.0, 3.0, 4.0])
    pairs = pairs_of(ratings, cases)
    assert sorted(pairs) == [(0, 1), (3, 2), (4, 2)]
    scores = torch.tensor([0.9, 0.1, 0.5, 0.5, 0.2, 0.0])  # right, tied, wrong
    assert pairs_right(scores, pairs) == pytest.approx(0.5) and pairs_tied(scores, pairs) == pytest.approx(1 / 3)


def test_intervals_hold_the_value_and_differences_are_paired():
    cases = [f"{n // 2}" for n in range(80)]
    ratings = with_ties(1, 80) + torch.rand(80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    good = ratings + 0.8 * torch.randn(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = {"good": good, "same": 2 * good - 3, "noise": torch.randn(80, generator=torch.Generator().manual_seed(2))}
    found, resampled = rankings(scores, ratings, cases, draws=300)
    assert found["good"].tau_b == found["same"].tau_b and found["good"].pairs == found["same"].pairs
    for ranking in found.values():
        for number in (ranking.tau_b, ranking.spearman, ranking.pairs):
            assert number.low < number.value < number.high
    assert resampled.interval("good", 0, less="same") == (0.0, 0.0)
    low, high = resampled.interval("good", 0, less="noise")
    assert 0 < low < found["good"].tau_b.value - found["noise"].tau_b.value < high
    assert high - low < 1.2 * (found["noise"].tau_b.high - found["noise"].tau_b.low)
