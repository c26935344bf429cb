"""The CE-F1 reward: per-report F1 of the positive findings, the plain reward that MRG-R1 compares MCCS with.

It sees only what is positive: a report that denies a finding and one that never speaks of it score alike, which is
what MCCS adds. Batched tensor operations on whatever device the labels lie on; any leading shape.

Deliberate choices, since the paper does not state them: 13 conditions without No Finding, uncertain counts as
positive, and two reports without any finding agree (1). Example-based metric code scores that last case 0: as a
reward this would punish every right "all clear", so the choice is a parameter.
"""

import torch
from torch import Tensor

from mrg_grpo.labels import POSITIVE, UNCERTAIN


def ce_f1(generated: Tensor, reference: Tensor, uncertain: str = "positive", empty: float = 1.0) -> Tensor:
    """Class ids (..., 14) x (..., 14) -> F1 (...,) in [0, 1]: 2 TP / (2 TP + FP + FN) over the 13 conditions.

    uncertain: "positive" or "negative", how class 3 counts; empty: the value where neither report has a finding.
    """
    a, b = (_positive(labels[..., :13], uncertain) for labels in (generated, reference))
    size = (a.sum(dim=-1) + b.sum(dim=-1)).float()  # (...,) 2 TP + FP + FN
    f1 = 2.0 * (a & b).sum(dim=-1) / size.clamp(min=1.0)
    return torch.where(size == 0, torch.full_like(f1, empty), f1)


def _positive(labels: Tensor, uncertain: str) -> Tensor:
    if uncertain not in ("positive", "negative"):
        raise ValueError(f'uncertain is {uncertain!r}; it must be "positive" or "negative"')
    positive = labels == POSITIVE
    return positive | (labels == UNCERTAIN) if uncertain == "positive" else positive
