"""The family of clinical rewards: golden values by hand, its members that have a name, and a slow loop."""

import math

import pytest
import torch

from mrg_grpo.rewards.clinical import agreement, smooth_gate
from mrg_grpo.rewards.mccs import clinical_cosine

B, P, N, U = range(4)


def ids(*classes):
    return torch.tensor([*classes, *[B] * (14 - len(classes))])


@pytest.mark.parametrize(
    ("generated", "reference", "options", "value"),
    [
        ((P, N), (P, N), {"denial": 0.3}, 1.0),
        ((P, N), (P,), {"denial": 0.5}, 1 / math.sqrt(1.25)),  # 1 / sqrt((1 + 0.25) * 1)
        ((P,), (P, N, N), {"denial": 0.5}, 1 / math.sqrt(1.5)),
        ((N,), (P,), {"denial": 0.5}, -1.0),  # -0.5 / sqrt(0.25 * 1)
        ((P, N), (N, N), {"denial": 0.5}, (-0.5 + 0.25) / math.sqrt(1.25 * 0.5)),
        ((P, N), (N, N), {"denial": 0.5, "contradiction": 1.0}, max(-1.0, (-1 + 0.25) / math.sqrt(1.25 * 0.5))),
        ((N, P, P), (P, P, P), {"denial": 0.0, "contradiction": 1.0}, 1 / math.sqrt(6)),  # -1 + 2 over sqrt(2 * 3)
        ((U, P), (P, P), {"uncertain": 0.5}, 1.5 / math.sqrt(2.5)),  # 0.5 + 1 over sqrt(1.25 * 2)
        ((U,), (U,), {"uncertain": 0.5}, 1.0),
        ((U, P), (N, P), {"uncertain": 0.5}, 0.5 / math.sqrt(2.5)),
        ((N, N), (B, N, N), {}, 0.5),
        ((N, N), (B, N, N), {"normal": "strict"}, 1.0),
        ((N, U), (B, N, N), {"normal": "strict"}, -0.5),  # a finding that is uncertain is one
        ((N, U), (B, N, N), {"normal": "positive"}, 1.0),
        ((N, U), (B, N, N), {"normal": "unhedged"}, -0.5),
        ((B, N, N), (N, U), {"normal": "unhedged"}, 1.0),  # the reference may doubt
        ((U,) * 13, (N,) * 13, {"normal": "unhedged", "denial": 0.1}, -1.0),  # and a report that doubts all is not paid
        ((U,) * 13, (N,) * 13, {"normal": "positive", "denial": 0.1}, 1.0),
        ((N, N), (P, N, N), {"normal": "strict"}, 0.0),  # -1 + 1
        ((B,), (B,), {}, 1.0),
        ((B,), (B,), {"empty": 0.2}, 0.2),
        ((B,), (B,), {"empty": 0.2, "normal": "positive"}, 1.0),
        ((B,), (P,), {"normal": "positive"}, 0.0),
        ((N,), (N, N), {"denial": 0.0}, 1.0),  # nothing that weighs
    ],
)
def test_golden_values(generated, reference, options, value):
    assert agreement(ids(*generated), ids(*reference), **options).item() == pytest.approx(value, abs=1e-6)


def draws(seed=0, count=400):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 4, (count, 14), generator=generator) for _ in range(2))


def test_with_full_weights_it_is_the_cosine_of_signed_vectors():
    a, b = draws()
    a[:9], b[5:14] = 0, 0
    assert (agreement(a, b) - clinical_cosine(a, b)).abs().max() < 1e-6
    assert agreement(a.view(2, 200, 14), b.view(2, 200, 14)).shape == (2, 200)


@pytest.mark.parametrize("normal", ["none", "positive", "strict", "unhedged"])
def test_each_report_against_each_reference(normal):
    a, b = (ids[:20] * (torch.arange(20)[:, None] % 3 > 0) for ids in draws(2))
    table = agreement(a[:, None], b, 0.1, normal=normal)
    assert table.shape == (20, 20) and torch.equal(table.diagonal(), agreement(a, b, 0.1, normal=normal))


def test_a_loop_over_conditions_finds_the_same():
    a, b = draws(1)
    for d, c, u in ((0.3, 1.0, 0.5), (0.0, 0.0, 1.0), (0.1, 0.5, 0.7)):

        def k(x, y, d=d, c=c, u=u):
            if B in (x, y):
                return 0.0
            if x == y:
                return {N: d * d, U: u * u, P: 1.0}[x]
            return u if N not in (x, y) else -c if U not in (x, y) else -c * u

        for x, y, found in zip(a.tolist(), b.tolist(), agreement(a, b, d, c, u).tolist()):
            both, own, other = (sum(map(k, s[:13], t[:13])) for s, t in ((x, y), (x, x), (y, y)))
            size = math.sqrt(own * other)
            assert found == pytest.approx(max(-1, min(1, both / size)) if size else float(own == other), abs=1e-5)


def test_the_gate_keeps_every_difference():
    value = torch.linspace(-1, 1, 9)
    gated = smooth_gate(value, 3.0)
    assert gated[0] == 0 and gated[-1] == 1 and gated[4] == 0.125 and (gated.diff() > 0).all()
