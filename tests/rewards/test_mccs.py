"""MCCS against a slow loop written from the definition, and its edge cases."""

import math

import pytest
import torch

from mrg_grpo.prompt import parse_completion
from mrg_grpo.rewards.format import format_reward
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, rarity_weights, signed_vectors


def slow_cosine(a, b, weights=None):
    sign = {0: 0, 1: 1, 2: -1, 3: 1}

    def entry(i, label):
        s = sign[int(label)]
        return s * (1.0 if weights is None else float(weights[0 if s > 0 else 1][i]))

    x, y = ([entry(i, v[i]) for i in range(13)] for v in (a, b))
    dot, nx, ny = sum(p * q for p, q in zip(x, y)), math.hypot(*x), math.hypot(*y)
    if nx == 0 and ny == 0:
        return 1.0
    return dot / (nx * ny) if nx and ny else 0.0


@pytest.mark.parametrize("weighted", [False, True])
def test_against_the_slow_loop(weighted):
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.multinomial(torch.tensor([6.0, 1, 2, 1]), 400 * 14, True, generator=generator).view(400, 14)  # noqa: E731
    a, b = draw(), draw()
    a[:5] = 0
    b[3:8] = 0
    weights = rarity_weights(b) if weighted else None
    got = clinical_cosine(a, b, weights)
    slow = torch.tensor([slow_cosine(x, y, weights) for x, y in zip(a, b)])
    assert (got - slow).abs().max() < 1e-5
    reward = mccs(a, b, 0.3, weights)
    assert (reward - ((slow - 0.3) / 0.7).clamp(min=0)).abs().max() < 1e-5
    assert (reward[got < 0.3] == 0).all() and (got < 0.3).any() and (got > 0.3).any()
    grouped = clinical_cosine(a.view(50, 8, 14), b.view(50, 8, 14), weights)
    assert torch.equal(grouped, got.view(50, 8))


def test_signs_and_no_finding():
    labels = torch.tensor([[0, 1, 2, 3, *[0] * 9, 1]])
    assert signed_vectors(labels).tolist() == [[0, 1, -1, 1, *[0] * 9]]
    other = labels.clone()
    other[0, 13] = 0
    assert clinical_cosine(labels, other).item() == 1.0  # No Finding is not in the vector


def test_equal_reports_reach_one_exactly_and_opposites_minus_one():
    labels = torch.randint(0, 4, (500, 14), generator=torch.Generator().manual_seed(1))
    assert (clinical_cosine(labels, labels) == 1.0).all()
    flipped = torch.tensor([0, 2, 1, 2])[labels]
    mentioned = (labels[:, :13] > 0).any(1)
    assert (clinical_cosine(labels, flipped)[mentioned] == -1.0).all()


def test_zero_vectors():
    zero, one = torch.zeros(1, 14, dtype=torch.long), torch.ones(1, 14, dtype=torch.long)
    assert clinical_cosine(zero, zero).item() == 1.0 and clinical_cosine(zero, one).item() == 0.0
    assert clinical_cosine(zero, zero, zero_vectors=0.0).item() == 0.0
    assert mccs(zero, one, 0.0).item() == 0.0


def test_weights_of_zero_make_no_empty_report():
    one, other = torch.ones(1, 14, dtype=torch.long), torch.full((1, 14), 2)
    nothing = torch.zeros(2, 13)
    assert clinical_cosine(one, other, nothing).item() == 0.0 and mccs(one, one, 0.0, nothing).item() == 0.0
    assert clinical_cosine(one * 0, one * 0, nothing).item() == 1.0


def test_rarity_weights_by_hand():
    labels = torch.zeros(8, 14, dtype=torch.long)
    labels[:3, 0], labels[3:8, 0] = 3, 2
    weights = rarity_weights(labels)
    assert weights.shape == (2, 13)
    assert math.isclose(weights[0, 0], -math.log(4 / 10), rel_tol=1e-6)
    assert math.isclose(weights[1, 0], -math.log(6 / 10), rel_tol=1e-6)
    assert math.isclose(weights[0, 5], -math.log(1 / 10), rel_tol=1e-6)


def test_margin_bounds():
    with pytest.raises(ValueError, match="margin"):
        mccs(torch.zeros(1, 14), torch.zeros(1, 14), 1.0)


def test_format_reward():
    got = format_reward(
        [parse_completion(text) for text in ("<think>a</think><report>b</report>", "<report>b</report>")]
    )
    assert got.tolist() == [1.0, 0.0] and got.dtype == torch.float32
    assert format_reward([parse_completion("<report>b</report>", think=False)]).tolist() == [1.0]
