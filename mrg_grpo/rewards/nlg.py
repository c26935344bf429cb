"""Lexical rewards, the ones MRG-R1 compares MCCS with: sentence BLEU and ROUGE-L. Core dependencies alone.

Words are lower-cased runs of letters, digits and apostrophes; punctuation is no word. An empty report scores 0.

* `bleu`: BLEU-4 of one report (Papineni et al. 2002), with one added to matches and totals of the orders above 1
  (Lin and Och 2004), since most short reports share no 4-gram and a reward of 0 for all of them teaches nothing.
* `rouge_l`: longest common subsequence, F with beta 1.2 (Lin 2004, the value that pycocoevalcap uses). Its length comes
  from bit-parallel dynamic programming (Hyyro 2004): one row per word on Python integers, so 64
  reports of 60 words cost a few milliseconds.
"""

import math
import re
from collections import Counter

import torch
from torch import Tensor

BETA = 1.2
_WORD = re.compile(r"[a-z0-9']+")


def words(text: str) -> list[str]:
    """Lower-cased words of a report."""
    return _WORD.findall(text.lower())


def bleu(generated: list[str], reference: list[str], order: int = 4) -> Tensor:
    """B reports and their references -> smoothed sentence BLEU of the given order, (B,) in [0, 1]."""
    return torch.tensor([_bleu(words(a), words(b), order) for a, b in zip(generated, reference, strict=True)])


def rouge_l(generated: list[str], reference: list[str]) -> Tensor:
    """B reports and their references -> ROUGE-L F, (B,) in [0, 1]."""
    return torch.tensor([rouge_l_of_words(words(a), words(b)) for a, b in zip(generated, reference, strict=True)])


def _bleu(generated: list[str], reference: list[str], order: int) -> float:
    """BLEU of one pair."""
    if not generated or not reference:
        return 0.0
    log_precisions = 0.0
    for n in range(1, order + 1):
        ours, theirs = _ngrams(generated, n), _ngrams(reference, n)
        added = 1 if n > 1 else 0
        matches = sum(min(count, theirs[gram]) for gram, count in ours.items() if gram in theirs) + added
        total = max(len(generated) - n + 1, 0) + added
        if matches == 0:  # only for n = 1: no word in common
            return 0.0
        log_precisions += math.log(matches / total)
    return math.exp(min(0.0, 1 - len(reference) / len(generated)) + log_precisions / order)


def _ngrams(tokens: list[str], n: int) -> Counter:
    return Counter(zip(*(tokens[start:] for start in range(n))))


def rouge_l_of_words(generated: list[str], reference: list[str]) -> float:
    """ROUGE-L F of one pair, in [0, 1]."""
    common = _common_subsequence(generated, reference)
    if common == 0:
        return 0.0
    precision, recall = common / len(generated), common / len(reference)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_subsequence(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence: bit i of `state` is 0 where row i of the table steps up."""
    places: dict[str, int] = {}
    for position, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << position
    full = (1 << len(a)) - 1
    state = full
    for token in b:
        matched = state & places.get(token, 0)
        state = ((state + matched) | (state - matched)) & full
    return len(a) - state.bit_count()
