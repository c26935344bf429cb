"""A family of clinical rewards around the cosine of MRG-R1, one idea each: what a denial weighs, what a contradiction
costs, what "uncertain" is, whether two normal reports are equal, and a smooth gate in place of the margin.

Label ids in, rewards out, in batched tensor operations on whatever device the labels lie on; any leading shape.

    agreement(g, r) = sum_i k(g_i, r_i) / sqrt(sum_i k(g_i, g_i) * sum_i k(r_i, r_i))

over the 13 conditions without No Finding, with k between two classes:

                blank   positive      negative      uncertain
    blank       0       0             0             0
    positive    0       1             -c            u
    negative    0       -c            d * d         -c * u
    uncertain   0       u             -c * u        u * u

d is the weight of a denial, c of a contradiction, u the value of "uncertain". With d = c = u = 1 it is CCS, with
d = c = 0 and u = 1 the cosine of the findings alone; c = d is the cosine of vectors with 1, -d and u.
"""

import torch
from torch import Tensor

from mrg_grpo.config import ClinicalConfig
from mrg_grpo.labels import POSITIVE, UNCERTAIN


def class_agreement(denial: float, contradiction: float, uncertain: float) -> Tensor:
    """k as (4, 4), in the order of CheXbert's classes: blank, positive, negative, uncertain."""
    d, c, u = denial, contradiction, uncertain
    return torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, -c, u], [0.0, -c, d * d, -c * u], [0.0, u, -c * u, u * u]]
    )  # fmt: skip


NORMAL = {
    "positive": ((POSITIVE,), (POSITIVE,)),
    "strict": ((POSITIVE, UNCERTAIN), (POSITIVE, UNCERTAIN)),
    "unhedged": ((POSITIVE, UNCERTAIN), (POSITIVE,)),
}
"""Rule -> what neither the report nor the reference holds where both are normal. With "positive" a report that calls
everything possible is normal, and is paid in full wherever the reference is."""


def agreement(
    generated: Tensor,
    reference: Tensor,
    denial: float = 1.0,
    contradiction: float | None = None,
    uncertain: float = 1.0,
    normal: str = "none",
    empty: float = 1.0,
) -> Tensor:
    """Class ids (..., 14) x (..., 14) -> agreement (...,) in [-1, 1].

    contradiction: None is `denial`, the cosine of vectors. normal: two normal reports agree fully, whatever they deny;
    which ones are is in NORMAL, and "none" has no such rule. empty: the value where neither report says anything that
    weighs; where just one does, it is 0.
    """
    table = class_agreement(denial, denial if contradiction is None else contradiction, uncertain).to(generated.device)
    g, r = generated[..., :13].long(), reference[..., :13].long()
    both, own, other = (table[a, b].sum(dim=-1) for a, b in ((g, r), (g, g), (r, r)))  # (...,)
    value = (both / (own * other).sqrt().clamp(min=1e-12)).clamp(-1.0, 1.0)
    value = value.masked_fill((own == 0) & (other == 0), empty)
    if normal == "none":
        return value
    says, holds = (
        torch.isin(ids, torch.tensor(own, device=ids.device)).any(dim=-1) for ids, own in zip((g, r), NORMAL[normal])
    )
    return torch.where(says | holds, value, 1.0)


def smooth_gate(value: Tensor, power: float) -> Tensor:
    """Agreement in [-1, 1] -> reward ((1 + x) / 2) ** power in [0, 1].

    As the margin it pays little for little agreement. Unlike it, it never makes two different values equal, so every
    group whose reports differ has spread.
    """
    return ((1.0 + value) / 2.0) ** power


def clinical(generated: Tensor, reference: Tensor, settings: ClinicalConfig | None = None) -> Tensor:
    """The term of that name: class ids (..., 14) x (..., 14) -> reward (...,) in [-1, 1], behind a gate in [0, 1].

    settings: [reward.clinical]; None is its defaults.
    """
    own = settings or ClinicalConfig()
    contradiction = max(own.denial, own.contradiction)
    value = agreement(generated, reference, own.denial, contradiction, own.uncertain, own.normal)
    return smooth_gate(value, own.gate) if own.gate else value
