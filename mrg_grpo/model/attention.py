"""Attention of many reports to one prompt: a study's keys and values are read once for all its reports.

n studies, g reports of each, b = n * g reports; T tokens a report runs now, t tokens of its own that it can see (T of
them new); P prompt tokens; H query heads, h key-value heads, r = H / h; m = g * r * T queries of a group; d head size.

    out = softmax([q Kp', q Ko'] * scale) [Vp ; Vo]        p: the prompt's keys and values, o: the report's own

The queries of a group lie in one matrix, so the prompt's part is one product per study and head, in sampling (T = 1)
as in training, and the gradients of the prompt's keys and values are summed over the group inside a product. Nothing of
the prompt is copied per report.

Deliberate choices:
* Plain matrix products, the same on every device. Scores, softmax and the scores' gradient are in at least fp32: large
  scores that differ by little, which the key biases of Qwen2 make, come out of a product in bf16 alike.
* The backward pass computes the scores again from the log-sum-exp (as FlashAttention does, arXiv 2205.14135), so no
  scores outlive their layer. Powers are of 2, with log2(e) in the scale, as there: on a CPU too these are cheaper.
* A prompt without padding and a layer without a window need no mask.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

LOG2_E = math.log2(math.e)
NAME = "mrg_grpo_shared_prefix"
"""The attn_implementation under which transformers' layers find `attention_forward`."""


def attention_forward(module, query, key, value, attention_mask, scaling=None, shared=None, **kwargs):
    """transformers' attention interface: query (b, H, T, d) -> (b, T, H, d), None.

    shared: the cache of a continuation (mrg_grpo.model.kv_cache), whose `update` gave key and value and which knows
    prompts and masks; None is torch's own attention, for prompts and vision towers.
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

    The queries are the last T of the t own tokens. prefix_mask (n, 1 or T, P): True where a prompt token is seen, None
    for all. window: an own token sees the last `window` own tokens, itself included.
    """
    n, h, g, t, d = key.shape
    tokens = query.shape[2]
    grouped = query.reshape(n, g, h, -1, d).transpose(1, 2).reshape(n, h, -1, d)  # (n, h, m, d)
    hidden = _hidden_own(tokens, t, window, query.device)
    arguments = (grouped, key, value, prefix_key, prefix_value, scale, tokens, prefix_mask, hidden)
    out = _PrefixAttention.apply(*arguments) if torch.is_grad_enabled() else _attend(*arguments)[0]
    return out.view(n, h, g, -1, tokens, d).permute(0, 2, 4, 1, 3, 5).reshape(n * g, tokens, -1, d)


def _hidden_own(tokens: int, t: int, window: int | None, device: torch.device) -> Tensor | None:
    """(T, t), True where an own token is not seen; None where all are (one query sees all before it)."""
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
    """The same numbers in at least fp32; themselves where they are."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def _attend(query, key, value, prefix_key, prefix_value, scale, tokens, prefix_mask, hidden) -> tuple[Tensor, Tensor]:
    """Grouped query (n, h, m, d) -> output (n, h, m, d) and log2 of the scores' sum of exponentials (n, h, m, 1)."""
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
    prompt_mask: Tensor | None = None,
) -> Tensor:
    """`prefix_attention` for the one token that every report writes next: query (n, g, H, d) -> (n, g, H, d).

    own key and value (n * h * g, t, d), prompt's key (n * h, d, P) and value (n * h, P, d), prompt_mask (n, 1, P). The
    keys are `at_least_fp32` ones.
    The same products, and one softmax over both parts: a token costs mostly the number of its operations, on a GPU too.
    So products take the operands they are made for, (batch, rows, columns), with scale and sum inside.
    """
    n, g, heads, d = query.shape
    groups, reports = prompt_value.shape[0], key.shape[0]  # n * h, n * h * g
    h = groups // n
    grouped = at_least_fp32(query).view(n, g, h, -1, d).transpose(1, 2).reshape(groups, -1, d)  # (n h, g r, d)
    on_prompt = scaled_product(grouped, prompt_key, scale)  # (n h, g r, P)
    on_own = scaled_product(grouped.view(reports, -1, d), key.transpose(1, 2), scale)  # (n h g, r, t)
    if prompt_mask is not None:
        on_prompt.view(n, -1, on_prompt.shape[-1]).masked_fill_(~prompt_mask, -torch.inf)
    scores = torch.cat([on_prompt, on_own.view(groups, -1, on_own.shape[-1])], -1)
    weights = torch.softmax(scores, -1).to(query.dtype)
    on_prompt, on_own = weights.split_with_sizes([on_prompt.shape[-1], on_own.shape[-1]], -1)
    out = (on_prompt @ prompt_value).view(reports, -1, d)
    out = out.baddbmm_(on_own.view(reports, -1, on_own.shape[-1]), value)
    return out.view(n, h, g, -1, d).transpose(1, 2).reshape(n, g, heads, d)


def scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale * left right, (b, m, k) and (b, k, n) -> (b, m, n), in one operation."""
    out = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    return out.baddbmm_(left, right, beta=0, alpha=scale)  # beta = 0: what is in it does not count


def _own(weights: Tensor, own: Tensor) -> Tensor:
    """Weights (n, h, m, t) on own tokens (n, h, g, t, d) -> (n, h, m, d)."""
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
        delta = (wide * out).sum(-1, keepdim=True)  # (n, h, m, 1): sum over keys of weight * its gradient

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
