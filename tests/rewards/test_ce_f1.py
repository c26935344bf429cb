"""The CE-F1 reward against a set-by-set loop and scikit-learn's example-based F1."""

import pytest
import torch
from sklearn.metrics import f1_score

from mrg_grpo.rewards.ce_f1 import ce_f1


def draw(reports=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.tensor([8.0, 1.0, 2.0, 1.0]), reports * 14, True, generator=generator).view(-1, 14)


@pytest.mark.parametrize("uncertain", ["positive", "negative"])
@pytest.mark.parametrize("empty", [1.0, 0.0])
def test_against_sets(uncertain, empty):
    a, b = draw(seed=0), draw(seed=1)
    a[:10], b[5:15] = 0, 0
    classes = (1, 3) if uncertain == "positive" else (1,)
    slow = []
    for x, y in zip(a.tolist(), b.tolist()):
        found, true = ({i for i in range(13) if row[i] in classes} for row in (x, y))
        slow.append(2 * len(found & true) / (len(found) + len(true)) if found or true else empty)
    got = ce_f1(a, b, uncertain, empty)
    assert torch.allclose(got, torch.tensor(slow)) and 0 < got.mean() < 1
    grouped = ce_f1(a.view(25, 8, 14), b.view(25, 8, 14), uncertain, empty)
    assert torch.equal(grouped, got.view(25, 8))


def test_its_mean_is_the_example_based_f1():
    a, b = draw(seed=2), draw(seed=3)
    positive = [((x == 1) | (x == 3))[:, :13].int().numpy() for x in (a, b)]
    expected = f1_score(positive[1], positive[0], average="samples", zero_division=0)
    assert ce_f1(a, b, empty=0.0).mean().item() == pytest.approx(expected, abs=1e-6)


def test_no_finding_and_negatives_do_not_count():
    a, b = torch.zeros(1, 14, dtype=torch.long), torch.zeros(1, 14, dtype=torch.long)
    a[0, 4] = b[0, 4] = 1
    a[0, 13], b[0, 7] = 1, 2
    assert ce_f1(a, b).item() == 1.0


def test_unknown_reading():
    with pytest.raises(ValueError, match="uncertain"):
        ce_f1(draw(2), draw(2), uncertain="maybe")
