"""Attention with a shared prompt: the prompt's keys and values are stored and read once for all reports of a study.

Names of sizes
    n   studies                        T   tokens per report in this pass
    g   reports per study              t   tokens of a report so far, the T new ones included
    b   reports, n * g                 P   prompt tokens
    H   query heads                    m   queries of a group per key-value head, g * r * T
    h   key-value heads, r = H / h     d   size of a head

    out = softmax([q Kp', q Ko'] * scale) [Vp ; Vo]        p: keys and values of the prompt, o: those of the report

The queries of all reports of a study form one matrix. So the prompt takes one matrix product per study and head, both
in sampling (T = 1) and in training. The backward pass sums the gradients of the prompt's keys and values over the
reports inside its own products. Nothing of the prompt is copied per report.

Deliberate choices:
* Plain matrix products, the same on every device. Scores, softmax and the gradient of the scores are in at least fp32.
  The key biases of Qwen2 produce large scores that differ by little, and bf16 would round them to the same number.
* The backward pass recomputes the scores from the log-sum-exp, as FlashAttention does (arXiv 2205.14135), so that no
  scores are kept. As there, exponentials are powers of 2 with log2(e) in the scale, which is cheaper, on a CPU too.
* A prompt without padding and a layer without a sliding window need no mask.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

LOG2_E = math.log2(math.e)
NAME = "mrg_grpo_shared_prefix"
"""The name (attn_implementation) by which the layers of transformers find `attention_forward`."""


def attention_forward(module, query, key, value, attention_mask, scaling=None, shared=None, **kwargs):
    """The attention interface of transformers: query (b, H, T, d) -> (b, T, H, d) and None for the weights.

    shared: the cache of the reports (mrg_grpo.model.kv_cache). Its `update` returned key and value, and it holds the
    prompts and their masks. None means torch's own attention, for prompts and vision towers.
    """
    if shared is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    prefix_key, prefix_value = shared.prefix(module.layer_idx)
    window = kwargs.get("sliding_window")
    mask = shared.mask("sliding_attention" if window else "full_attention")
    return prefix_attention(query, key, value, prefix_key, prefix_value, scale, mask, window), None


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


def prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    scale: float,
    prefix_mask: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """query (b, H, T, d), own key and value (n, h, g, t, d), prefix (n, h, P, d) -> (b, T, H, d).

    "Own" means of the report, "prefix" of the prompt. The queries belong to the last T of the t own tokens. prefix_mask
    (n, 1 or T, P) is True where a query may attend to a prompt token; None allows all. window: a query attends to the
    last `window` own tokens, its own token included; None is no limit.
    """
    n, h, g, t, d = key.shape
    tokens = query.shape[2]
    grouped = query.reshape(n, g, h, -1, d).transpose(1, 2).reshape(n, h, -1, d)  # (n, h, m, d)
    hidden = _hidden_own(tokens, t, window, query.device)
    arguments = (grouped, key, value, prefix_key, prefix_value, scale, tokens, prefix_mask, hidden)
    out = _PrefixAttention.apply(*arguments) if torch.is_grad_enabled() else _attend(*arguments)[0]
    return out.view(n, h, g, -1, tokens, d).permute(0, 2, 4, 1, 3, 5).reshape(n * g, tokens, -1, d)


def _hidden_own(tokens: int, t: int, window: int | None, device: torch.device) -> Tensor | None:
    """(T, t), True where a query may not attend to an own token; None if it may attend to all, as one query may."""
    if tokens == 1 and (window is None or t <= window):
        return None
    place = torch.arange(t, device=device)
    distance = place[t - tokens :].unsqueeze(1) - place  # (T, t)
    return (distance < 0) if window is None else (distance < 0) | (distance >= window)


def _scores(query, key, prefix_key, scale, tokens, prefix_mask, hidden) -> tuple[Tensor, Tensor]:
    """Query (n, h, m, d) -> scores on the prompt (n, h, m, P) and on the own tokens (n, h, m, t), at least fp32."""
    n, h, m, d = query.shape
    query, key, prefix_key = at_least_fp32(query) * scale, at_least_fp32(key), at_least_fp32(prefix_key)
    on_prefix = query @ prefix_key.transpose(-1, -2)
    on_own = (query.view(n, h, key.shape[2], -1, d) @ key.transpose(-1, -2)).view(n, h, m, -1)
    if prefix_mask is not None:
        on_prefix.view(n, -1, tokens, on_prefix.shape[-1]).masked_fill_(~prefix_mask.unsqueeze(1), -torch.inf)
    if hidden is not None:
        on_own.view(n, -1, tokens, on_own.shape[-1]).masked_fill_(hidden, -torch.inf)
    return on_prefix, on_own


def at_least_fp32(numbers: Tensor) -> Tensor:
    """The same numbers in fp32, or unchanged if they are in fp32 or fp64."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def _attend(query, key, value, prefix_key, prefix_value, scale, tokens, prefix_mask, hidden) -> tuple[Tensor, Tensor]:
    """Grouped query (n, h, m, d) -> output (n, h, m, d), and log2 of the sum of exponentials (n, h, m, 1)."""
    on_prefix, on_own = _scores(query, key, prefix_key, scale * LOG2_E, tokens, prefix_mask, hidden)
    top = torch.maximum(on_prefix.amax(-1, keepdim=True), on_own.amax(-1, keepdim=True))  # (n, h, m, 1)
    on_prefix.sub_(top).exp2_()
    on_own.sub_(top).exp2_()
    total = on_prefix.sum(-1, keepdim=True) + on_own.sum(-1, keepdim=True)
    out = on_prefix.to(query.dtype) @ prefix_value + _own(on_own.to(query.dtype), value)
    return (out / total).to(query.dtype), top + total.log2()


def attend_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt_key: Tensor,
    prompt_value: Tensor,
    scale: float,
    hidden: Tensor | None = None,
) -> Tensor:
    """`prefix_attention` with one new token per report: query (n, g, H, d) -> (n, g, H, d).

    Shapes: key and value of the reports (n * h * g, t, d), prompt_key (n * h, d, P), prompt_value (n * h, P, d). hidden
    (n, 1, s) is True where a query may not attend to one of the first s keys, those of the prompt first. Keys have the
    dtype of `key_dtype`.

    The products are those of `prefix_attention`, with one softmax over both parts. With so few tokens the time depends
    on the number of operations, on a GPU too. So every product is batched, (batch, rows, columns), and includes the
    scale or the sum.
    """
    n, g, heads, d = query.shape
    groups, reports = prompt_value.shape[0], key.shape[0]  # n * h, n * h * g
    h = groups // n
    grouped = query.to(key.dtype).view(n, g, h, -1, d).transpose(1, 2).reshape(groups, -1, d)  # (n h, g r, d)
    on_prompt = scaled_product(grouped, prompt_key, scale)  # (n h, g r, P)
    on_own = scaled_product(grouped.view(reports, -1, d), key.transpose(1, 2), scale)  # (n h g, r, t)
    scores = torch.cat([on_prompt, on_own.view(groups, -1, on_own.shape[-1])], -1)
    if hidden is not None:
        scores.view(n, -1, scores.shape[-1])[..., : hidden.shape[-1]].masked_fill_(hidden, -torch.inf)
    weights = torch.softmax(scores, -1).to(query.dtype)
    on_prompt, on_own = weights.split_with_sizes([on_prompt.shape[-1], on_own.shape[-1]], -1)
    out = (on_prompt @ prompt_value).view(reports, -1, d)
    out = out.baddbmm_(on_own.view(reports, -1, on_own.shape[-1]), value)
    return out.view(n, h, g, -1, d).transpose(1, 2).reshape(n, g, heads, d)


def scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale * left @ right in at least fp32, (b, m, k) and (b, k, n) -> (b, m, n), in one operation."""
    wide = torch.promote_types(left.dtype, torch.float32)
    out = torch.empty(left.shape[0], left.shape[1], right.shape[2], dtype=wide, device=left.device)
    if left.dtype == wide:
        return out.baddbmm_(left, right, beta=0, alpha=scale)  # beta = 0 ignores what `out` holds
    return torch.ops.aten.baddbmm.dtype_out(out, left, right, wide, beta=0, alpha=scale, out=out)


def key_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which decoding keeps its keys: their own where the device has a product of it with an fp32 result,
    as CUDA has, else at least fp32, converted once and not anew for every token."""
    return dtype if has_wide_product(dtype, device) else torch.promote_types(dtype, torch.float32)


@cache
def has_wide_product(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `scaled_product` of two bf16 matrices works here, tried once: with their product, rounded to nothing
    shorter than fp32, it is 2 * (1 + 2**-7)**2."""
    if torch.promote_types(dtype, torch.float32) == dtype:
        return True
    try:
        one = torch.full((1, 8, 8), 1 + 2**-7, dtype=dtype, device=device)
        return bool((scaled_product(one, one, 0.25) == 2 * (1 + 2**-7) ** 2).all())
    except RuntimeError:
        return False


def _own(weights: Tensor, own: Tensor) -> Tensor:
    """Weights (n, h, m, t) times values of the reports (n, h, g, t, d) -> (n, h, m, d)."""
    return (weights.unflatten(2, (own.shape[2], -1)) @ own).flatten(2, 3)


class _PrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, prefix_key, prefix_value, scale, tokens, prefix_mask, hidden):
        out, lse = _attend(query, key, value, prefix_key, prefix_value, scale, tokens, prefix_mask, hidden)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, lse)
        ctx.settings = (scale, tokens, prefix_mask, hidden)
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key, value, prefix_key, prefix_value, out, lse = ctx.saved_tensors
        scale, tokens, prefix_mask, hidden = ctx.settings
        n, h, m, d = query.shape
        per_report = (n, h, key.shape[2], -1, d)
        on_prefix, on_own = _scores(query, key, prefix_key, scale * LOG2_E, tokens, prefix_mask, hidden)
        query, wide = query * scale, at_least_fp32(grad)
        delta = (wide * out).sum(
            -1, keepdim=True
        )  # (n, h, m, 1): for each query, the sum over keys of a weight times its gradient

        weights = on_prefix.sub_(lse).exp2_()  # (n, h, m, P)
        grad_prefix_value = weights.to(grad.dtype).transpose(-1, -2) @ grad if ctx.needs_input_grad[4] else None
        slope = (wide @ at_least_fp32(prefix_value).transpose(-1, -2)).sub_(delta).mul_(weights).to(grad.dtype)
        grad_query = slope @ prefix_key
        grad_prefix_key = slope.transpose(-1, -2) @ query if ctx.needs_input_grad[3] else None

        weights = on_own.sub_(lse).exp2_().view(*per_report[:3], -1, on_own.shape[-1])
        grad, wide = grad.view(per_report), wide.view(per_report)
        grad_value = weights.to(grad.dtype).transpose(-1, -2) @ grad
        slope = (wide @ at_least_fp32(value).transpose(-1, -2)).sub_(delta.view(*per_report[:3], -1, 1)).mul_(weights)
        slope = slope.to(grad.dtype)
        grad_query += (slope @ key).view(n, h, m, d)
        grad_key = slope.transpose(-1, -2) @ query.view(per_report)
        return grad_query.mul_(scale), grad_key, grad_value, grad_prefix_key, grad_prefix_value, None, None, None, None
