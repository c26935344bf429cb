"""Faster forward and backward passes for two kinds of layers: linear layers with LoRA, and patch projections.

m rows (tokens), W (out, in) is frozen, A (r, in) and B (out, r) are LoRA's factors (arXiv 2106.09685), s is its scale,
g is the gradient of y, and ' is the transpose:

    y  = x W' + s (x A') B'        dx = g W + s (g B) A        dA = s (g B)' x        dB = s g' (x A')

PEFT allocates four tensors of size m x out: x W', (x A') B', the latter times s, and the sum. If the base is in bf16
and the adapter in fp32, it also keeps an fp32 copy of x for every layer. Here the second product is added into the
first, in both passes. For the backward pass x is kept in its own dtype, and layers with the same input share it.

In bf16 y must be rounded only once, after the sum. Early in training the part from LoRA is usually smaller than half
of the last of eight bits. If y were rounded before the sum, that part would vanish, and the policy would stay at its
start until the adapter had grown. A product on a GPU rounds its result before anything is added to it. So the sum is
made part of the product: y = [x, x A'] [W, s B]', where W is stored in a wider matrix that has room for s B. Layers
with the same input share one such matrix, which sampling multiplies by at once (`JoinedWeights`).

Qwen's vision towers project patches by a convolution whose kernel is as large as the patch. This equals one matrix
product, which is faster.

`patch_lora` gives these forward passes to the layers of a loaded model. Parameters, names and saved files do not
change.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional

from mrg_grpo.model.nf4 import Nf4Linear


def plus_product(large: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """large + scale * left @ right, shapes (m, n), (m, r) and (r, n), in the dtype of `left`; overwrites `large`."""
    return large.to(left.dtype).addmm_(left, right, alpha=scale).to(large.dtype)


def side_by_side(rows: Tensor, low: Tensor, width: int, start: int = 0) -> Tensor:
    """Rows (m, in), and from column in + start on x A' (m, r), as one matrix of `width` columns; the others are 0."""
    low, left = low.to(rows.dtype), width - rows.shape[1] - start - low.shape[1]
    return torch.cat([rows, functional.pad(low, (start, left)) if start or left else low], dim=1)


def rows_of(x: Tensor) -> Tensor:
    """(..., in) -> (m, in)."""
    return x.reshape(-1, x.shape[-1])


def shaped(rows: Tensor, like: Tensor) -> Tensor:
    """(m, out) -> (..., out), where ... are the leading dimensions of `like`."""
    return rows.view(*like.shape[:-1], rows.shape[-1])


class _WithLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, base, a, b, scale, part):
        rows = rows_of(x)
        low = rows.to(a.dtype) @ a.t()  # (m, r)
        ctx.save_for_backward(rows, low, a, b)
        ctx.base, ctx.scale = base, scale  # not its weight, which is written out anew where it lies in 4 bits
        if part is None:
            return shaped(plus_product(functional.linear(rows, base.weight, base.bias), low, b.t(), scale), x)
        matrix = part.with_b(b, scale)
        return shaped(functional.linear(side_by_side(rows, low, matrix.shape[1], part.start), matrix, base.bias), x)

    @staticmethod
    def backward(ctx, grad):
        rows, low, a, b = ctx.saved_tensors
        grad_x, slopes = None, rows_of(grad)
        wide = slopes.to(a.dtype)
        inner = (wide @ b).mul_(ctx.scale)  # (m, r)
        if ctx.needs_input_grad[0]:
            grad_x = shaped(plus_product(slopes @ ctx.base.weight, inner, a), grad)
        return grad_x, None, inner.t() @ rows.to(a.dtype), (wide.t() @ low).mul_(ctx.scale), None, None


@dataclass
class Part:
    """The place of one layer in a `JoinedWeights`."""

    matrix: Tensor  # (out, width), the layer's rows
    start: int  # behind the columns of W, the first of its own s B
    inputs: int  # columns of W

    def with_b(self, b: Tensor, scale: float) -> Tensor:
        """The rows, with the B (out, r) that the layer has now."""
        first = self.inputs + self.start
        self.matrix[:, first : first + b.shape[1]] = b.detach() * scale
        return self.matrix


@dataclass
class WrittenOut:
    """In place of a `Part` where the base lies in 4 bits: [W, s B, 0], made for each use."""

    base: Nf4Linear
    start: int = 0

    def with_b(self, b: Tensor, scale: float) -> Tensor:
        weight = self.base.weight
        columns = weight.shape[1] + b.shape[1]
        return functional.pad(torch.cat([weight, (b.detach() * scale).to(weight.dtype)], dim=1), (0, -columns % 8))


class JoinedWeights:
    """The weights of layers with the same input, and their LoRA, as one matrix (sum of all out, width):

        [W1  s1 B1  0     ]
        [W2  0      s2 B2 ]     columns: in, then the ranks of all, then 0 up to a multiple of 8, for fast products

    The layers' own weights are views of it, so nothing is stored twice. Its rows are those of the layers, in order.
    """

    def __init__(self, layers: list[Any]) -> None:
        weights = [layer.weight for layer in layers]
        ranks = [rank(layer) for layer in layers]
        inputs = weights[0].shape[1]
        width = inputs + sum(ranks)
        self.layers = layers
        self.matrix = weights[0].new_zeros(sum(len(weight) for weight in weights), width + -width % 8)
        for layer, rows, start in zip(
            layers, self.matrix.split([len(weight) for weight in weights]), accumulate([0, *ranks])
        ):
            rows[:, :inputs] = layer.weight.data
            layer.weight.data = rows[:, :inputs]
            layer.joined, layer.part = self, Part(rows, start, inputs)

    @torch.no_grad()
    def factors(self) -> tuple[Tensor, Tensor | None]:
        """The matrix with every B as it is now, and all A', side by side, (in, sum of ranks), copied in the dtype of
        the weights; None without LoRA."""
        adapted = [layer for layer in self.layers if rank(layer)]
        for layer in adapted:
            name = layer.active_adapters[0]
            layer.part.with_b(layer.lora_B[name].weight, layer.scaling[name])
        low = [layer.lora_A[layer.active_adapters[0]].weight.t() for layer in adapted]
        return self.matrix, torch.cat(low, dim=1).to(self.matrix.dtype) if low else None


def rank(layer: Any) -> int:
    """Of its LoRA; 0 for a layer without."""
    return layer.r[layer.active_adapters[0]] if isinstance(layer, lora.Linear) else 0


class LoraLinear(lora.Linear):
    """PEFT's linear layer with one plain LoRA, and the forward pass of this module."""

    part: Part | WrittenOut | None = None
    """Only for a base that computes in neither fp32 nor fp64: where its weight lies."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, names = self.base_layer, self.active_adapters
        dtype = base.state.dtype if isinstance(base, Nf4Linear) else base.weight.dtype
        if len(names) > 1 or self.training or self.disable_adapters or x.dtype != dtype:
            return super().forward(x, *args, **kwargs)
        a, b = self.lora_A[names[0]].weight, self.lora_B[names[0]].weight
        return _WithLora.apply(x, base, a, b, self.scaling[names[0]], self.part)


class PatchProjection(nn.Conv3d):
    """A convolution whose input has the size of its kernel: (m, channels, *kernel) -> (m, out, 1, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.kernel_size:
            return super().forward(x)
        return functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


WIDE = (torch.float32, torch.float64)
"""Dtypes in which the sum with LoRA needs no care."""
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that read the same rows."""


def patch_lora(model: nn.Module) -> None:
    """Give the forward passes above to every layer of these kinds. Each LoRA must be plain and not merged."""
    for layer in model.modules():
        if type(layer) is lora.Linear and type(layer.base_layer) in (nn.Linear, Nf4Linear):
            layer.__class__ = LoraLinear
            if isinstance(layer.base_layer, Nf4Linear) and layer.base_layer.state.dtype not in WIDE:
                layer.part = WrittenOut(layer.base_layer)  # type: ignore[assignment]
        elif type(layer) is nn.Conv3d and layer.groups == 1 and not any(layer.padding):
            layer.__class__ = PatchProjection
    for module in model.modules():
        for layers in together(module):
            if layers[0].weight.dtype not in WIDE:
                JoinedWeights(layers)


def together(module: nn.Module) -> list[list[Any]]:
    """The linear layers right below a module as they are to be joined: those of one input where all are there, and each
    other one with LoRA alone. None in 4 bits, whose weights are written out for each use."""
    found = {name: layer for name, layer in module.named_children() if type(base_of(layer)) is nn.Linear}
    groups = [[found[name] for name in names] for names in SAME_INPUT if all(name in found for name in names)]
    joined = [layer for group in groups for layer in group]
    alone = [[layer] for layer in found.values() if type(layer) is LoraLinear and all(layer is not x for x in joined)]
    return groups + alone


def base_of(layer: Any) -> Any:
    """A linear layer without the LoRA around it, where there is any."""
    return getattr(layer, "base_layer", layer)
