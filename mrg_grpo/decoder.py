"""One token of every report: the text model's layers as sampling runs them.

b reports, D hidden size, H query and h key-value heads, d head size.

transformers runs a layer for any number of tokens; for one token most of the time goes into starting small operations.
Here the same modules are called with nothing around them: queries and keys are rotated together, and attention reads
the shared prompt (mrg_grpo.attention). It needs plain linear layers, so it runs where LoRA is merged
(`Policy.merged`, which puts `MergedLinear` in their places); elsewhere a token takes the way of a whole continuation,
which is also what the tests hold this one to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional

from mrg_grpo.attention import prefix_attention
from mrg_grpo.cache import DecodeCache
from mrg_grpo.families import Family

ROWS = 16
"""The number of rows that packed weights are laid out for; they serve any number."""


class MergedLinear(nn.Module):
    """A linear layer with its LoRA folded in, frozen. rows (..., in) -> (..., out).

    Deliberate choice: fp32 weights on a CPU are packed once as oneDNN wants them, which is faster than torch's own
    product of a few rows (docs/performance.md); anywhere else they stay as they are.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight, self.bias = layer.weight.data, layer.bias
        if isinstance(layer, lora.Linear):
            weight = weight + layer.get_delta_weight(layer.active_adapters[0]).to(weight.dtype)
        self.packed = weight.is_cpu and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS) if self.packed else weight

    def forward(self, rows: Tensor) -> Tensor:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return functional.linear(rows, self.weight, self.bias)


def linear_places(parent: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, layer) of every linear layer below, with LoRA or without."""
    for name, child in parent.named_children():
        if isinstance(child, lora.Linear | nn.Linear):
            yield parent, name, child
        else:
            yield from linear_places(child)


def next_hidden(family: Family, text: Any, embeds: Tensor, positions: Tensor, cache: DecodeCache) -> Tensor:
    """Embeddings (b, D) of one token per report at positions (b, 1) -> last hidden states (b, D). Writes the cache."""
    rotations = family.rotations(text, embeds, family.continuation_positions(positions))
    before_attention, after_attention, before_mlp, after_mlp = family.norms
    hidden = embeds
    for layer in text.layers:
        branch = getattr(layer, before_attention)(hidden)
        branch = attention(layer.self_attn, branch, rotations, cache)
        hidden = hidden + (getattr(layer, after_attention)(branch) if after_attention else branch)
        branch = layer.mlp(getattr(layer, before_mlp)(hidden))
        hidden = hidden + (getattr(layer, after_mlp)(branch) if after_mlp else branch)
    return text.norm(hidden)


def attention(layer: Any, hidden: Tensor, rotations: dict[str, tuple[Tensor, Tensor]], cache: DecodeCache) -> Tensor:
    """(b, D) -> (b, D): one token of each report looks at its prompt and at what it wrote before."""
    b, d, index = len(hidden), layer.head_dim, layer.layer_idx
    window = getattr(layer, "sliding_window", None)
    kind = "sliding_attention" if window else "full_attention"
    query, key = layer.q_proj(hidden).view(b, -1, d), layer.k_proj(hidden).view(b, -1, d)
    if hasattr(layer, "q_norm"):
        query, key = layer.q_norm(query), layer.k_norm(key)
    heads = query.shape[1]
    both = rotated(torch.cat([query, key], dim=1), *rotations[kind]).unsqueeze(2)  # (b, H + h, 1, d)
    value = layer.v_proj(hidden).view(b, -1, 1, d)
    own = cache.update(both[:, heads:], value, index)
    query, prompt = both[:, :heads], cache.prefix(index)
    out = prefix_attention(query, *own, *prompt, layer.scaling, cache.masks[kind], window)  # (b, 1, H, d)
    return layer.o_proj(out.reshape(b, -1))


def rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) in the half-split form: heads (b, H, d), cos and sin (b, 1, d)."""
    first, second = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat([-second, first], dim=-1), sin)
