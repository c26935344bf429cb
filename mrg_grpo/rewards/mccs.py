"""MCCS, the margin CheXbert cosine similarity of MRG-R1 (arXiv 2512.16145): the clinical reward.

Label ids in, rewards out, in batched tensor operations on whatever device the labels lie on; any leading shape.

    signed vector   positive +1, uncertain +1, negative -1, blank 0, over the 13 conditions without No Finding
    CCS             cosine of the generated and the reference report's signed vectors
    MCCS            max((CCS - m) / (1 - m), 0)
    unsigned cosine the cosine of what is mentioned, whatever its sign: what CCS is without the sign, for comparison

Deliberate choices, since the paper does not state them: two empty vectors agree that nothing is said (cosine 1);
one empty vector agrees with nothing (cosine 0). `zero_vectors` replaces the 1 by another value.
"""

import torch
from torch import Tensor

SIGN_OF_CLASS = (0.0, 1.0, -1.0, 1.0)
"""Sign of CheXbert's classes blank, positive, negative, uncertain."""


def signed_vectors(labels: Tensor) -> Tensor:
    """CheXbert class ids (..., 14) -> signed vectors (..., 13), float32 in {-1, 0, 1}."""
    signs = torch.tensor(SIGN_OF_CLASS, device=labels.device)
    ids = labels[..., :13].long()
    return signs.index_select(0, ids.flatten()).view(ids.shape)  # three times as fast as signs[ids]


def clinical_cosine(
    generated: Tensor, reference: Tensor, weights: Tensor | None = None, zero_vectors: float = 1.0
) -> Tensor:
    """CCS: class ids (..., 14) x (..., 14) -> cosine (...,) in [-1, 1].

    weights (2, 13), finite, from `rarity_weights`: each entry of both vectors is multiplied by row 0 where it is +1 and
    by row 1 where it is -1. zero_vectors is the value where both reports mention nothing; where just one does, it is 0.
    """
    a, b = signed_vectors(generated), signed_vectors(reference)  # (..., 13)
    silent = _silent(a, b)
    if weights is not None:
        weights = weights.to(a)
        a, b = (torch.where(v > 0, weights[0], weights[1]) * v for v in (a, b))
    return _cosine(a, b).masked_fill(silent, zero_vectors)


def unsigned_cosine(generated: Tensor, reference: Tensor, zero_vectors: float = 1.0) -> Tensor:
    """Class ids (..., 14) x (..., 14) -> cosine (...,) in [0, 1] of which conditions are mentioned at all.

    "No pleural effusion" and "pleural effusion" are the same to it. zero_vectors as in `clinical_cosine`.
    """
    a, b = signed_vectors(generated).abs(), signed_vectors(reference).abs()
    return _cosine(a, b).masked_fill(_silent(a, b), zero_vectors)


def _silent(a: Tensor, b: Tensor) -> Tensor:
    """Vectors (..., 13) x (..., 13), not yet weighted -> (...,) whether neither mentions anything."""
    return ~(a.any(dim=-1) | b.any(dim=-1))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Vectors (..., 13) x (..., 13) -> cosine (...,); 0 where a vector is 0."""
    aa, bb = a.square().sum(dim=-1), b.square().sum(dim=-1)
    # dot / sqrt(aa * bb), not dot / (|a| |b|): equal vectors then give 1 to the last bit
    return ((a * b).sum(dim=-1) / (aa * bb).sqrt().clamp(min=1e-12)).clamp(-1.0, 1.0)


def mccs(
    generated: Tensor, reference: Tensor, margin: float, weights: Tensor | None = None, zero_vectors: float = 1.0
) -> Tensor:
    """MCCS: class ids (..., 14) x (..., 14) -> reward (...,) in [0, 1]; margin m in [0, 1)."""
    if not 0.0 <= margin < 1.0:
        raise ValueError(f"margin is {margin}; it must be at least 0 and below 1")
    cosine = clinical_cosine(generated, reference, weights, zero_vectors)
    return ((cosine - margin) / (1.0 - margin)).clamp(min=0.0)


def rarity_weights(reference_labels: Tensor) -> Tensor:
    """Class ids of R reference reports (R, 14) -> weights (2, 13): -log p of each sign of each condition.

    p = (count + 1) / (R + 2), add-one smoothed. Row 0 is for +1 (positive or uncertain), row 1 for -1.
    """
    vectors = signed_vectors(reference_labels)  # (R, 13)
    counts = torch.stack([(vectors > 0).sum(dim=0), (vectors < 0).sum(dim=0)])  # (2, 13)
    return -torch.log((counts + 1.0) / (vectors.shape[0] + 2.0))
