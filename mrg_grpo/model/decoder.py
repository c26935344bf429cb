"""The text model during sampling, where each forward pass adds one token to every report.

b reports, D hidden size, H query and h key-value heads, d head size.

The layers of transformers accept any number of tokens. With one token per report, most of their time is the cost of
launching small operations. `Decoder` runs the same layers in fewer operations:

* LoRA is folded into copies of the weights, if their dtype can hold it.
* Linear layers with the same input are one matrix product.
* Queries and keys are rotated together, by angles that are computed once for all tokens.
* Each norm takes few operations.
* Attention reads the shared prompt once per study (mrg_grpo.model.attention).

The model itself does not change. With `sampling.fast_decode = false`, sampling uses the forward pass of training
instead. The tests compare the two. `Sampler` (mrg_grpo.model.sampler) chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional

from mrg_grpo.model.attention import attend_once
from mrg_grpo.model.families import Family
from mrg_grpo.model.kv_cache import DecodeCache, Here, Rotations
from mrg_grpo.model.lora import JoinedWeights, base_of, side_by_side
from mrg_grpo.model.nf4 import Nf4Linear

ROWS = 16
"""Number of rows for which oneDNN packs the weights. Products with other numbers of rows use them too."""
STEP = 8
"""The input of a packed product is padded to a multiple of this many rows. oneDNN caches 0.6 MB for each number of rows
it has seen, and without padding there would be many, because the number of unfinished reports keeps falling."""


class FusedLinear:
    """Linear layers with the same input, and their LoRA: rows (b, in) -> (b, sum of all out), side by side.

    Deliberate choices
    * In fp32 and fp64, LoRA is folded into a copy of the weights. In bf16 it is not: a weight has eight significant
      bits, and early in training the update is usually smaller than half of the last one. Rounding would remove it, and
      sampling would use the start policy. There the weights and LoRA share one product, as in training
      (mrg_grpo.model.lora.JoinedWeights), and nothing is copied.
    * A base in 4 bits (mrg_grpo.model.nf4) is written out for every use anyway, so its layers run as in training.
    * On a CPU, fp32 weights are packed once in oneDNN's format. For few rows this is faster than torch's own product.
    * The layers are concatenated into one product only if their weights are copied anyway, or already lie together.
      Otherwise the copy would cost memory.
    """

    def __init__(self, *layers: Any) -> None:
        self.apart = (
            layers if any(isinstance(base_of(layer), Nf4Linear) for layer in layers) else ()
        )  # they run as in training
        if self.apart:
            return
        first = layers[0].weight
        self.packed = first.is_cpu and first.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        biases, self.low = [layer.bias for layer in layers], None
        joined: JoinedWeights | None = getattr(layers[0], "joined", None)
        if joined and set(layers) <= set(joined.layers):  # not while the base's own layers stand in their place
            matrix, self.low = joined.factors()
            weights = [matrix] if joined.layers == [*layers] else [layer.part.matrix for layer in layers]
        else:
            weights = [folded(layer) for layer in layers]
            if self.packed or all(isinstance(layer, lora.Linear) for layer in layers):
                weights = [torch.cat(weights)]
        if len(weights) == 1 < len(layers):
            biases = [None if biases[0] is None else torch.cat(biases)]
        if self.packed:
            weights = [torch.ops.mkldnn._reorder_linear_weight(weight, ROWS) for weight in weights]
        self.weights, self.biases = weights, biases

    def __call__(self, rows: Tensor) -> Tensor:
        if self.apart:
            return torch.cat([layer(rows) for layer in self.apart], dim=-1)
        if self.packed:
            b = rows.shape[0]
            missing = -b % STEP
            rows = functional.pad(rows, (0, 0, 0, missing)) if missing else rows
            out = torch.ops.mkldnn._linear_pointwise.default(rows, self.weights[0], self.biases[0], "none", [], "")
            return out[:b] if missing else out
        if self.low is not None:
            rows = side_by_side(rows, rows @ self.low, self.weights[0].shape[1])
        parts = [functional.linear(rows, weight, bias) for weight, bias in zip(self.weights, self.biases)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def folded(layer: Any) -> Tensor:
    """The weight of a linear layer (out, in). With LoRA it is a copy, W + s B A."""
    weight = layer.weight.data
    if isinstance(layer, lora.Linear):
        return weight + layer.get_delta_weight(layer.active_adapters[0]).to(weight.dtype)
    return weight


def norm(layer: nn.Module, plain: bool) -> Callable[[Tensor], Tensor]:
    """RMS norm (arXiv 1910.07467) over the last dimension. plain: the layer multiplies by its weight as it is, so that
    torch's fused function computes the same."""
    if not plain:
        return layer
    weight: Any = layer.weight
    eps: Any = layer.variance_epsilon
    if weight.is_cpu and weight.dtype == torch.float32:
        return partial(rms_norm, weight=weight, eps=torch.tensor(eps))
    return partial(functional.rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)


def rms_norm(rows: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """RMS norm in five operations; torch's own takes six on a CPU, and one on a GPU."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    scale = torch.addcmul(eps, length, length, value=1 / weight.shape[0]).rsqrt_()
    return (rows * scale).mul_(weight)


def unchanged(rows: Tensor) -> Tensor:
    return rows


class DecoderLayer:
    """One layer of the text model."""

    def __init__(self, layer: Any, family: Family) -> None:
        attention, mlp, plain = layer.self_attn, layer.mlp, family.plain_norms
        self.before_attention, self.after_attention, self.before_mlp, self.after_mlp = (
            norm(getattr(layer, name), plain) if name else unchanged for name in family.norms
        )
        self.query_key_value = FusedLinear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.widths = [part.out_features for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        self.query_norm, self.key_norm = (
            norm(getattr(attention, name), plain) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")
        )
        self.out = FusedLinear(attention.o_proj)
        self.gate_up, self.down, self.activation = (
            FusedLinear(mlp.gate_proj, mlp.up_proj), FusedLinear(mlp.down_proj), mlp.act_fn.forward
        )  # fmt: skip
        self.d, self.index, self.scaling = attention.head_dim, attention.layer_idx, attention.scaling
        self.slides = bool(getattr(attention, "sliding_window", None))
        self.kind = "sliding_attention" if self.slides else "full_attention"

    def __call__(self, hidden: Tensor, here: Here, cache: DecodeCache) -> Tensor:
        """(b, D) -> (b, D) for one token per report, which attends to the prompt and to the report's earlier tokens."""
        branch = self.attend(self.before_attention(hidden), here, cache)
        hidden = hidden + self.after_attention(branch)
        gate, up = self.gate_up(self.before_mlp(hidden)).chunk(2, dim=-1)
        return hidden + self.after_mlp(self.down(self.activation(gate).mul_(up)))

    def attend(self, hidden: Tensor, here: Here, cache: DecodeCache) -> Tensor:
        b, d, n, heads = hidden.shape[0], self.d, cache.studies.shape[0], self.widths[0] // self.d
        rows = self.query_key_value(hidden)  # (b, (H + 2 h) d)
        both, value = rows.split_with_sizes([self.widths[0] + self.widths[1], self.widths[2]], dim=-1)
        both = both.view(n, b // n, -1, d)  # (n, g, H + h, d)
        if self.query_norm and self.key_norm:
            both = torch.cat([self.query_norm(both[:, :, :heads]), self.key_norm(both[:, :, heads:])], dim=2)
        both = rotated(both, *here.rotations[self.kind])
        value = value.view(n, b // n, -1, d)
        own_key, own_value = cache.write_once(both[:, :, heads:], value, self.index, self.slides)
        key, value = cache.prompts[self.index]
        hidden_keys = here.hidden[self.kind]
        out = attend_once(both[:, :, :heads], own_key, own_value, key, value, self.scaling, hidden_keys)  # (n, g, H, d)
        return self.out(out.reshape(b, -1))  # with a key head for each query head it is no copy, and no view fits


class Decoder:
    """The text model and the output projection, with the weights as they are when this object is made."""

    @torch.no_grad()
    def __init__(self, family: Family, text: Any, lm_head: Any) -> None:
        self.family, self.text = family, text
        self.layers = [DecoderLayer(layer, family) for layer in text.layers]
        self.norm, self.lm_head = norm(text.norm, family.plain_norms), FusedLinear(lm_head)

    def rotations(self, hidden: Tensor, positions: Tensor) -> Rotations:
        """Cosines and sines of positions (n, T), by kind of layer: (T, n, 1, 1, d) each, in the form for `rotated`."""
        angles = self.family.rotations(self.text, hidden, self.family.continuation_positions(positions))
        return {
            kind: (cos.transpose(0, 1)[:, :, None, None], turned(sin).transpose(0, 1)[:, :, None, None])
            for kind, (cos, sin) in angles.items()
        }

    def __call__(self, embeds: Tensor, cache: DecodeCache) -> Tensor:
        """Embeddings (b, D) of one token per report -> last hidden states (b, D). Adds keys and values to the cache."""
        hidden, here = embeds, cache.here()
        for layer in self.layers:
            hidden = layer(hidden, here, cache)
        return self.norm(hidden)

    def linear_layers(self) -> list[FusedLinear]:
        """All linear layers, the output projection last."""
        inner = [part for x in self.layers for part in (x.query_key_value, x.out, x.gate_up, x.down)]
        return [*inner, self.lm_head]


def turned(sin: Tensor) -> Tensor:
    """Sines (..., d) with the first half negated, in the form for `rotated`."""
    first, second = sin.chunk(2, dim=-1)
    return torch.cat([-first, second], dim=-1)


def rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) in the half-split form: heads (n, g, H, d), cos, sin (n, 1, 1, d).

    sin is the result of `turned`, which is computed once for all tokens and layers.
    """
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)  # roll swaps the halves
