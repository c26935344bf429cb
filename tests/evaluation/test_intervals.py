"""Intervals and p-values against slow loops, a known standard error, and the seconds they may take."""

import time

import numpy as np
import pytest
import torch

from mrg_grpo.evaluation.clinical import clinical_metrics, clinical_statistics, conditions_from_sums, metrics_from_sums
from mrg_grpo.evaluation.intervals import bootstrap, bootstrap_difference, randomisation_test

NAMES = ("f1_micro_13_uncertain_positive", "f1_macro_14_uncertain_negative", "polarity_accuracy", "clinical_cosine")


def draw(studies, seed, noise=0.5):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.tensor([5.0, 2.0, 3.0, 1.0])
    reference = torch.multinomial(weights, studies * 14, True, generator=generator).view(studies, 14)
    reference[:, 13] %= 2
    other = reference.roll(1, dims=0)
    keep = torch.rand(reference.shape, generator=generator) > noise
    return torch.where(keep, reference, other), reference


def test_bootstrap_draws_are_the_metric_of_the_drawn_studies():
    a, b = draw(40, seed=0)
    resamples, seed = 50, 7
    got = bootstrap(clinical_statistics(a, b), metrics_from_sums, resamples=resamples, seed=seed)
    draws = torch.randint(0, 40, (resamples, 40), generator=torch.Generator().manual_seed(seed))
    slow = [clinical_metrics(a[rows], b[rows]) for rows in draws]
    for name in NAMES:
        low, high = np.quantile([row[name] for row in slow], [0.025, 0.975])
        assert got[name].low.item() == pytest.approx(low, abs=1e-9)
        assert got[name].high.item() == pytest.approx(high, abs=1e-9)
        assert got[name].value.item() == pytest.approx(clinical_metrics(a, b)[name], abs=1e-12)


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = torch.randn(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    statistics = torch.stack([values, torch.ones(400, dtype=torch.float64)], dim=1)
    interval = bootstrap(statistics, lambda sums: {"mean": sums[..., 0] / sums[..., 1]})["mean"]
    error = values.std().item() / 20
    assert interval.low.item() == pytest.approx(values.mean().item() - 1.96 * error, abs=0.1 * error)
    assert interval.high.item() == pytest.approx(values.mean().item() + 1.96 * error, abs=0.1 * error)


def test_seeded_and_chunked_alike(monkeypatch):
    statistics = clinical_statistics(*draw(60, seed=1))
    first = bootstrap(statistics, conditions_from_sums, resamples=200, seed=5)
    again = bootstrap(statistics, conditions_from_sums, resamples=200, seed=5)
    other = bootstrap(statistics, conditions_from_sums, resamples=200, seed=6)
    name = "f1_uncertain_positive"
    assert first[name].low.shape == (14,) and torch.equal(first[name].low, again[name].low)
    assert not torch.equal(first[name].low, other[name].low)
    monkeypatch.setattr("mrg_grpo.evaluation.intervals.CHUNK_CELLS", 60 * 7)  # 7 resamples at a time: the same draws
    chunked = bootstrap(statistics, conditions_from_sums, resamples=200, seed=5)
    assert torch.allclose(chunked[name].low, first[name].low) and torch.allclose(chunked[name].high, first[name].high)


def test_undefined_metrics_stay_undefined_and_do_not_spoil_others():
    blank = torch.zeros(20, 14, dtype=torch.long)
    got = bootstrap(clinical_statistics(blank, blank), metrics_from_sums, resamples=20)
    assert got["polarity_accuracy"].value.isnan() and got["polarity_accuracy"].low.isnan()
    assert got["clinical_cosine"].low.item() == 1.0
    p = randomisation_test(clinical_statistics(blank, blank), clinical_statistics(blank, blank), metrics_from_sums, 20)
    assert p["polarity_accuracy"].isnan() and p["clinical_cosine"].item() == 1.0


def test_paired_difference_against_the_slow_loop():
    a, b = draw(40, seed=0)
    c, _ = draw(40, seed=0, noise=0.2)
    got = bootstrap_difference(
        clinical_statistics(a, b), clinical_statistics(c, b), metrics_from_sums, resamples=60, seed=2
    )
    draws = torch.randint(0, 40, (60, 40), generator=torch.Generator().manual_seed(2))
    for name in NAMES:
        slow = [clinical_metrics(c[rows], b[rows])[name] - clinical_metrics(a[rows], b[rows])[name] for rows in draws]
        low, high = np.quantile(slow, [0.025, 0.975])
        assert got[name].low.item() == pytest.approx(low, abs=1e-9)
        assert got[name].high.item() == pytest.approx(high, abs=1e-9)
        assert got[name].value.item() > 0


def test_randomisation_against_the_slow_loop():
    a, b = draw(30, seed=0, noise=0.5)
    keep = torch.rand(b.shape, generator=torch.Generator().manual_seed(9)) > 0.45
    c = torch.where(keep, b, b.roll(1, dims=0))
    got = randomisation_test(clinical_statistics(a, b), clinical_statistics(c, b), metrics_from_sums, 80, seed=4)
    p_values = []
    flips = torch.randint(0, 2, (80, 30), generator=torch.Generator().manual_seed(4)).bool().unsqueeze(2)
    for name in NAMES:
        observed = abs(clinical_metrics(c, b)[name] - clinical_metrics(a, b)[name])
        swapped = [(torch.where(flip, c, a), torch.where(flip, a, c)) for flip in flips]
        reached = sum(
            abs(clinical_metrics(y, b)[name] - clinical_metrics(x, b)[name]) >= observed - 1e-12 for x, y in swapped
        )
        assert got[name].item() == pytest.approx((reached + 1) / 81)
        p_values.append(got[name].item())
    assert any(0.02 < p < 0.98 for p in p_values)  # the loop had something to count


def test_swaps_that_leave_a_metric_undefined_do_not_count():
    """Two studies, a share of 1 and of 0: only the swaps of both or of none of them leave both systems one."""
    first = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)  # numerator, denominator
    second = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    p = randomisation_test(first, second, lambda sums: {"share": sums[..., 0] / sums[..., 1]}, 200)
    assert p["share"].item() == 1.0  # each that is defined reaches the difference


def test_p_values_know_a_difference_and_know_none():
    reference = draw(500, seed=0)[1]
    worse, better = draw(500, seed=0, noise=0.6)[0], draw(500, seed=0, noise=0.3)[0]
    name = "f1_micro_13_uncertain_positive"
    far = randomisation_test(
        clinical_statistics(worse, reference), clinical_statistics(better, reference), metrics_from_sums, 500
    )
    assert far[name].item() == pytest.approx(1 / 501)  # never 0
    uniform = []
    for seed in range(20):  # two systems of the same quality: p must not be small too often
        generator = torch.Generator().manual_seed(seed)
        x, y = (
            torch.where(torch.rand(reference.shape, generator=generator) > 0.5, reference, reference.roll(1, dims=0))
            for _ in range(2)
        )
        p = randomisation_test(
            clinical_statistics(x, reference), clinical_statistics(y, reference), metrics_from_sums, 200, seed=seed
        )
        uniform.append(p[name].item())
    assert sum(value < 0.1 for value in uniform) <= 6 and 0.25 < np.mean(uniform) < 0.75


def test_ten_thousand_resamples_of_a_thousand_studies_within_five_seconds():
    statistics = clinical_statistics(*draw(1000, seed=0))
    start = time.perf_counter()
    bootstrap(statistics, metrics_from_sums, resamples=10_000)
    bootstrap(statistics, conditions_from_sums, resamples=10_000)
    assert time.perf_counter() - start < 5.0  # measured: 1.2 s on one core


def test_pairs_of_different_studies_are_refused():
    statistics = clinical_statistics(*draw(20, seed=0))
    for test in (bootstrap_difference, randomisation_test):
        with pytest.raises(ValueError, match="same studies"):
            test(statistics, statistics[:10], metrics_from_sums)
