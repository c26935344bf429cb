"""From hidden states to log-probabilities of given tokens, without ever holding all logits.

M tokens, D hidden size, V vocabulary. All logits are M * V numbers: at V = 152,000 the largest thing of a training
step. Here the tokens are projected in chunks, and the backward pass needs no logits at all:

    log p(y) = z_y / T - logsumexp(z / T),   z = W h
    d log p(y) / d h = (W_y - softmax(z / T) W) / T

The right-hand side is as large as h itself (M, D), so it is computed while the chunk's softmax is at hand and kept.
This needs a frozen projection; where W trains (full fine-tuning, LoRA on lm_head) autograd does it the long way.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNK_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Logits held at once, by device: 64 MiB in fp32 on a CPU, whose caches are small. Each chunk reads the whole
projection twice, so a GPU has larger ones: 441 tokens at V = 152,000, and 40 GB of reads for 8,192 tokens instead of
163."""


def chunk_elements(device: torch.device | str) -> int:
    return CHUNK_ELEMENTS["cpu" if torch.device(device).type == "cpu" else "cuda"]


def tempered(logits: Tensor, temperature: float, suppressed: Tensor) -> Tensor:
    """Logits (M, V) -> the logits of the distribution that is sampled and trained: / T, suppressed ids at -inf.

    In at least fp32. The one place where this distribution is defined: sampling, training and reference call it.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return logits.index_fill_(-1, suppressed, -torch.inf)


def logps_and_entropy(logits: Tensor, targets: Tensor, suppressed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tempered logits (M, V), targets (M,) -> log p(target) (M,), entropy in nats (M,), probabilities (M, V).

    Overwrites the suppressed ids. Each logit is read as seldom as can be: with z* the largest, p* its probability,

        log sum exp(z - z*) = -log p*        log p(y) = z_y - z* + log p*        entropy = z* - log p* - sum p z
    """
    probabilities = logits.softmax(dim=-1)
    top, log_top = logits.amax(dim=-1), probabilities.amax(dim=-1).log()  # (M,)
    logps = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - top + log_top
    mean = torch.linalg.vecdot(probabilities, logits.index_fill_(-1, suppressed, 0.0))  # 0 * -inf is no number
    return logps, (top - log_top - mean).clamp(min=0), probabilities


class _FrozenProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, suppressed):
        rows = max(1, chunk_elements(hidden.device) // weight.shape[0])
        logps, entropies, slopes = [], [], []
        for h, y in zip(hidden.split(rows), targets.split(rows)):
            logits = tempered(h @ weight.T, temperature, suppressed)  # (m, V)
            logp, entropy, probabilities = logps_and_entropy(logits, y, suppressed)
            logps.append(logp)
            entropies.append(entropy)
            if ctx.needs_input_grad[0]:
                # 1 - p before it is rounded: in bf16 the p of a token that is nearly sure is 1
                slope = probabilities.neg_().scatter_add_(1, y[:, None], torch.ones_like(logp)[:, None])  # (m, V)
                slopes.append(slope.to(weight.dtype) @ weight / temperature)  # (m, D)
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logps), entropy

    @staticmethod
    def backward(ctx, grad_logps, _):
        (slopes,) = ctx.saved_tensors
        return (grad_logps.unsqueeze(-1) * slopes).to(slopes.dtype), None, None, None, None


def token_logprobs(
    hidden: Tensor, lm_head: nn.Module, targets: Tensor, temperature: float, suppressed: Tensor
) -> tuple[Tensor, Tensor]:
    """hidden (M, D), targets (M,) -> their log-probabilities (M,) with gradient, and detached entropies (M,)."""
    frozen = type(lm_head) is nn.Linear and lm_head.bias is None and not lm_head.weight.requires_grad
    if frozen:
        return _FrozenProjection.apply(hidden, lm_head.weight, targets, temperature, suppressed)
    logits = tempered(lm_head(hidden), temperature, suppressed)
    entropy = logps_and_entropy(logits.detach().clone(), targets, suppressed)[1]
    return -functional.cross_entropy(logits, targets, reduction="none"), entropy
