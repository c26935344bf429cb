"""Layers of the model in fewer passes: frozen linear layers with LoRA, and the cutting of pictures into patches.

m rows (tokens), W (out, in) frozen, A (r, in) and B (out, r) of LoRA (arXiv 2106.09685), s its scale:

    y  = x W' + s (x A') B'        dx = g W + s (g B) A        dA = s (g B)' x        dB = s g' (x A')

PEFT writes x W', (x A') B', its multiple by s and the sum as four tensors of m x out, and beside a base in bf16, where
the adapter is in fp32, keeps an fp32 copy of x for each layer. Here the two products are summed in one of them, forward
and backward, and kept is x as it came, which layers that read the same rows share.

In bf16 y has to be rounded once. Rounded before the sum, most of what a young adapter adds is less than half of the
last of eight bits and gone: the policy stays its own start until the adapter is large. A GPU's products round before
they add to anything, so there the sum is part of the product: y = [x, x A'] [W, s B]'; W lies in a wider matrix.

Qwen's vision towers project patches by a convolution whose kernel is the whole patch. That is one product, and it is
run as one here (docs/results/performance.md has both).

`patch_lora` gives these layers of a loaded model their forward pass. Parameters, names and saved files stay what they
are.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional


def plus_product(large: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """large + scale left right, (m, n) + (m, r) (r, n), summed in the dtype of the small ones; overwrites `large`."""
    return large.to(left.dtype).addmm_(left, right, alpha=scale).to(large.dtype)


def side_by_side(rows: Tensor, low: Tensor, joined: Tensor) -> Tensor:
    """Rows (m, in) and their low-rank parts (m, r) as one matrix (m, columns of `joined`), what is left over 0."""
    low, left = low.to(rows.dtype), joined.shape[1] - rows.shape[1] - low.shape[1]
    return torch.cat([rows, functional.pad(low, (0, left)) if left else low], dim=1)


def rows_of(x: Tensor) -> Tensor:
    """(..., in) -> (m, in)."""
    return x.reshape(-1, x.shape[-1])


def shaped(rows: Tensor, like: Tensor) -> Tensor:
    """(m, out) -> (..., out), with the leading dimensions of `like`."""
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
    """PEFT's linear layer with one plain LoRA."""

    joined: Tensor | None = None
    """Beside a base in less than fp32: (out, in and at least r), whose first columns are the base's weight itself."""

    def make_room(self) -> None:
        """Let the base's weight lie in a matrix with room for s B; of a multiple of 8 columns, as products like it."""
        weight: Any = self.base_layer.weight
        a: Any = self.lora_A[self.active_adapters[0]].weight
        columns = weight.shape[1] + a.shape[0]
        self.joined = weight.new_zeros(weight.shape[0], columns + -columns % 8)
        self.joined[:, : weight.shape[1]] = weight.data
        weight.data = self.joined[:, : weight.shape[1]]

    @torch.no_grad()
    def weight_and_b(self) -> Tensor | None:
        """[W, s B, 0] with B as it is now; None where the base is in fp32 or fp64."""
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
    """A convolution with one kernel's worth of picture at a time: (m, channels, *kernel) -> (m, out, 1, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.kernel_size:
            return super().forward(x)
        return functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def patch_lora(model: nn.Module) -> None:
    """Layers of these kinds get the forward passes above; every LoRA must be plain, and not merged."""
    for layer in model.modules():
        if type(layer) is lora.Linear and type(layer.base_layer) is nn.Linear:
            layer.__class__ = LoraLinear
            if isinstance(layer, LoraLinear) and layer.weight.dtype not in (torch.float32, torch.float64):
                layer.make_room()
        elif type(layer) is nn.Conv3d and layer.groups == 1 and not any(layer.padding):
            layer.__class__ = PatchProjection
