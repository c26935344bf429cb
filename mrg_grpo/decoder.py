"""One token of every report: the text model's layers as sampling runs them.

b reports, D hidden size, H query and h key-value heads, d head size.

transformers runs a layer for any number of tokens; for one token most of the time goes into starting small operations.
Here the same modules' weights are used with nothing around them: every projection is one matrix product, queries and
keys are rotated together, and attention reads the shared prompt (mrg_grpo.attention). It needs plain linear layers, so
it runs where LoRA is merged (`Policy.merged`); elsewhere a token takes the way of a whole continuation, which is also
what the tests hold this one to.

Deliberate choice: activations are (b, D) in meaning and (D, b) in memory, since a CPU multiplies W x' faster than x W'
where x has few rows; to a GPU they are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mrg_grpo.attention import prefix_attention
from mrg_grpo.cache import DecodeCache
from mrg_grpo.families import Family


def next_hidden(family: Family, text: Any, embeds: Tensor, positions: Tensor, cache: DecodeCache) -> Tensor:
    """Embeddings (b, D) of one token per report at positions (b, 1) -> last hidden states (b, D). Writes the cache."""
    rotations = family.rotations(text, embeds, family.continuation_positions(positions))
    before_attention, after_attention, before_mlp, after_mlp = family.norms
    hidden = embeds
    for layer in text.layers:
        branch = getattr(layer, before_attention)(hidden)
        branch = attention(layer.self_attn, branch, rotations, cache)
        hidden = hidden + (getattr(layer, after_attention)(branch) if after_attention else branch)
        branch = gated(layer.mlp, getattr(layer, before_mlp)(hidden))
        hidden = hidden + (getattr(layer, after_mlp)(branch) if after_mlp else branch)
    return text.norm(hidden)


def attention(layer: Any, hidden: Tensor, rotations: dict[str, tuple[Tensor, Tensor]], cache: DecodeCache) -> Tensor:
    """(b, D) -> (b, D): one token of each report looks at its prompt and at what it wrote before."""
    b, d, index = len(hidden), layer.head_dim, layer.layer_idx
    window = getattr(layer, "sliding_window", None)
    kind = "sliding_attention" if window else "full_attention"
    query, key = product(layer.q_proj, hidden).view(b, -1, d), product(layer.k_proj, hidden).view(b, -1, d)
    if hasattr(layer, "q_norm"):
        query, key = layer.q_norm(query), layer.k_norm(key)
    heads = query.shape[1]
    both = rotated(torch.cat([query, key], dim=1), *rotations[kind]).unsqueeze(2)  # (b, H + h, 1, d)
    value = product(layer.v_proj, hidden).view(b, -1, 1, d)
    own = cache.update(both[:, heads:], value, index)
    query, prompt = both[:, :heads], cache.prefix(index)
    out = prefix_attention(query, *own, *prompt, layer.scaling, cache.masks[kind], window)  # (b, 1, H, d)
    return product(layer.o_proj, out.reshape(b, -1))


def gated(mlp: Any, hidden: Tensor) -> Tensor:
    """The gated MLP, (b, D) -> (b, D)."""
    return product(mlp.down_proj, mlp.act_fn(product(mlp.gate_proj, hidden)) * product(mlp.up_proj, hidden))


def rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) in the half-split form: heads (b, H, d), cos and sin (b, 1, d)."""
    first, second = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat([-second, first], dim=-1), sin)


def product(linear: nn.Linear, rows: Tensor) -> Tensor:
    """linear(rows), (b, in) -> (b, out), with the few rows as columns."""
    if linear.bias is None:
        return (linear.weight @ rows.t()).t()
    return torch.addmm(linear.bias.unsqueeze(1), linear.weight, rows.t()).t()
