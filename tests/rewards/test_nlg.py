"""Lexical rewards against pycocoevalcap's ROUGE-L, a quadratic table, and BLEU written out from its definition."""

import math
import random
import time
from collections import Counter

import pytest
import torch

from mrg_grpo.rewards.nlg import bleu, rouge_l

WORDS = "the lungs are clear no pleural effusion or pneumothorax heart size is normal mild edema left base".split(" ")  # noqa: SIM905


def draw(reports=60, seed=0, length=40):
    """Pairs of reports that share phrases; plain lower-case words, so that every tokeniser agrees."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(reports):
        reference = [rng.choice(WORDS) for _ in range(rng.randint(3, length))]
        generated = [word if rng.random() < 0.8 else rng.choice(WORDS) for word in reference]
        start = rng.randint(0, 2)
        pairs.append((" ".join(generated[start:] + generated[:start] * rng.randint(0, 2)), " ".join(reference)))
    return [list(side) for side in zip(*pairs)]


def slow_bleu(generated, reference, order):
    """Lin and Och's smoothing: +1 above and below for n > 1."""
    a, b = generated.split(), reference.split()
    product = 1.0
    for n in range(1, order + 1):
        ours = Counter(tuple(a[i : i + n]) for i in range(len(a) - n + 1))
        theirs = Counter(tuple(b[i : i + n]) for i in range(len(b) - n + 1))
        matches, total = sum(min(ours[gram], theirs[gram]) for gram in ours), sum(ours.values())
        product *= (matches / total if n == 1 else (matches + 1) / (total + 1)) ** (1 / order)
    return product * (1.0 if len(a) >= len(b) else math.exp(1 - len(b) / len(a)))


def slow_rouge_l(generated, reference):
    a, b = generated.split(), reference.split()
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    common = table[-1][-1]
    precision, recall = common / len(a), common / len(b)
    return (1 + 1.44) * precision * recall / (recall + 1.44 * precision) if common else 0.0


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_against_its_definition(order):
    generated, reference = draw()
    got = bleu(generated, reference, order)
    expected = torch.tensor([slow_bleu(a, b, order) for a, b in zip(generated, reference)])
    assert torch.allclose(got, expected, atol=1e-6) and 0.1 < got.mean() < 0.95


def test_rouge_l_against_the_quadratic_table():
    generated, reference = draw(seed=2)
    expected = torch.tensor([slow_rouge_l(a, b) for a, b in zip(generated, reference)])
    assert torch.allclose(rouge_l(generated, reference), expected, atol=1e-6)


def test_rouge_l_against_pycocoevalcap():
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge", reason="needs the extra `eval` (pycocoevalcap)")
    generated, reference = draw(seed=3)
    scorer = rouge.Rouge()
    expected = torch.tensor([scorer.calc_score([a], [b]) for a, b in zip(generated, reference)])
    assert torch.allclose(rouge_l(generated, reference), expected.float(), atol=1e-6)


def test_case_punctuation_and_edges():
    same = rouge_l(["No effusion. Heart: normal."], ["no effusion heart normal"])
    assert same.item() == pytest.approx(1.0) and bleu(["No effusion."], ["no effusion"]).item() == pytest.approx(1.0)
    for reward in (bleu, rouge_l):
        assert reward(["", "clear lungs", "", "edema"], ["clear lungs", "", "", "normal heart"]).tolist() == [0.0] * 4
        assert reward([], []).shape == (0,)
        with pytest.raises(ValueError):
            reward(["one"], ["one", "two"])
    assert rouge_l(["effusion no"], ["no effusion"]).item() < 1 and bleu(["effusion no"], ["no effusion"]).item() < 1


def test_sixty_four_reports_within_fifty_milliseconds():
    rng = random.Random(0)
    generated, reference = ([" ".join(rng.choices(WORDS, k=60)) for _ in range(64)] for _ in range(2))
    for reward in (bleu, rouge_l):
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            reward(generated, reference)
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 0.05  # measured: bleu 15 ms, rouge_l 3 ms on one core
