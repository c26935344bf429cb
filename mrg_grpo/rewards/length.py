"""What no label sees: a report that repeats itself, and one that goes on for too long. Core dependencies alone.

* `repetition`: the share of a report's runs of four words that are the first of their kind, 1 where nothing is said
  twice. CXRMate-2 (arXiv 2604.18967) weighs a term of this kind by 0.1; four words are a choice of ours.
* `overlong`: DAPO's soft punishment (arXiv 2503.14476): 0 until `buffer` tokens before the limit, then in a line
  to -1 at it.
"""

import torch
from torch import Tensor

from mrg_grpo.rewards.nlg import words

RUN = 4


def repetition(reports: list[str], run: int = RUN) -> Tensor:
    """B reports -> (B,) in (0, 1]; 1 for one of fewer than `run` words."""
    return torch.tensor([_distinct(words(report), run) for report in reports])


def _distinct(tokens: list[str], run: int) -> float:
    runs = list(zip(*(tokens[start:] for start in range(run))))
    return len(set(runs)) / len(runs) if runs else 1.0


def overlong(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """Tokens of B completions (B,) -> (B,) in [-1, 0]."""
    return ((limit - buffer - lengths.float()) / buffer).clamp(-1.0, 0.0)
