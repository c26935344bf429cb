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
made part of the product: y = [x, x A'] [W, s B]', where W is stored in a wider matrix that has room for s B.

Qwen's vision towers project patches by a convolution whose kernel is as large as the patch. This equals one matrix
product, which is faster.

`patch_lora` gives these forward passes to the layers of a loaded model. Parameters, names and saved files do not
change.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional


def plus_product(large: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """large + scale * left @ right, shapes (m, n), (m, r) and (r, n), in the dtype of `left`; overwrites `large`."""
    return large.to(left.dtype).addmm_(left, right, alpha=scale).to(large.dtype)


def side_by_side(rows: Tensor, low: Tensor, joined: Tensor) -> Tensor:
    """Rows (m, in) and x A' (m, r) as one matrix with as many columns as `joined`; the remaining columns are 0."""
    low, left = low.to(rows.dtype), joined.shape[1] - rows.shape[1] - low.shape[1]
    return torch.cat([rows, functional.pad(low, (0, left)) if left else low], dim=1)


def rows_of(x: Tensor) -> Tensor:
    """(..., in) -> (m, in)."""
    return x.reshape(-1, x.shape[-1])


def shaped(rows: Tensor, like: Tensor) -> Tensor:
    """(m, out) -> (..., out), where ... are the leading dimensions of `like`."""
    return rows.view(*like.shape[:-1], rows.shape[-1])


class _WithLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale, joined):
        rows = rows_of(x)
        low = rows.to(a.dtype) @ a.t()  # (m, r)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scale = scale
        if joined is None:
            return shaped(plus_product(functional.linear(rows, weight, bias), low, b.t(), scale), x)
        return shaped(functional.linear(side_by_side(rows, low, joined), joined, bias), x)

    @staticmethod
    def backward(ctx, grad):
        rows, low, weight, a, b = ctx.saved_tensors
        grad_x, slopes = None, rows_of(grad)
        wide = slopes.to(a.dtype)
        inner = (wide @ b).mul_(ctx.scale)  # (m, r)
        if ctx.needs_input_grad[0]:
            grad_x = shaped(plus_product(slopes @ weight, inner, a), grad)
        return grad_x, None, None, inner.t() @ rows.to(a.dtype), (wide.t() @ low).mul_(ctx.scale), None, None


class LoraLinear(lora.Linear):
    """PEFT's linear layer with one plain LoRA, and the forward pass of this module."""

    joined: Tensor | None = None
    """Only for a base in bf16: [W, s B, 0], at least in + r columns wide. The base's own weight is a view of it."""

    def make_room(self) -> None:
        """Move the base's weight into a matrix with room for s B. Its width is a multiple of 8, for fast products."""
        weight: Any = self.base_layer.weight
        a: Any = self.lora_A[self.active_adapters[0]].weight
        columns = weight.shape[1] + a.shape[0]
        self.joined = weight.new_zeros(weight.shape[0], columns + -columns % 8)
        self.joined[:, : weight.shape[1]] = weight.data
        weight.data = self.joined[:, : weight.shape[1]]

    @torch.no_grad()
    def weight_and_b(self) -> Tensor | None:
        """[W, s B, 0] with the current B; None if the base is in fp32 or fp64."""
        if self.joined is not None:
            name, base = self.active_adapters[0], self.base_layer
            b: Any = self.lora_B[name].weight
            start: Any = base.in_features
            self.joined[:, start : start + b.shape[1]] = b * self.scaling[name]
        return self.joined

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, names = self.base_layer, self.active_adapters
        if len(names) > 1 or self.training or self.disable_adapters or x.dtype != base.weight.dtype:
            return super().forward(x, *args, **kwargs)
        a, b = self.lora_A[names[0]].weight, self.lora_B[names[0]].weight
        return _WithLora.apply(x, base.weight, base.bias, a, b, self.scaling[names[0]], self.weight_and_b())


class PatchProjection(nn.Conv3d):
    """A convolution whose input has the size of its kernel: (m, channels, *kernel) -> (m, out, 1, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.kernel_size:
            return super().forward(x)
        return functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def patch_lora(model: nn.Module) -> None:
    """Give the forward passes above to every layer of these kinds. Each LoRA must be plain and not merged."""
    for layer in model.modules():
        if type(layer) is lora.Linear and type(layer.base_layer) is nn.Linear:
            layer.__class__ = LoraLinear
            if isinstance(layer, LoraLinear) and layer.weight.dtype not in (torch.float32, torch.float64):
                layer.make_room()
        elif type(layer) is nn.Conv3d and layer.groups == 1 and not any(layer.padding):
            layer.__class__ = PatchProjection
