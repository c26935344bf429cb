"""A base in 4 bits: NormalFloat with double quantisation (QLoRA, arXiv 2305.14314), by bitsandbytes.

W (out, in) is kept as 4-bit codes and scales, about 0.52 bytes a weight. It is written out in the model's dtype for
each use, forward and backward, and let go.

Deliberate choices:
* Layers of our own in place of bitsandbytes'. On some CPUs those repack their weights in a pass without gradient, so
  that sampling and training differ. And with PEFT around them a young adapter is rounded away in bf16; here the sum is
  rounded once, as for whole weights (mrg_grpo.model.lora).
* The linear layers of the language model alone. Vision tower, projector, embeddings and lm_head stay whole.
* Sampling, training and reference run through the same layers: nothing is folded or copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrg_grpo.errors import UserError


class Nf4Linear(nn.Linear):
    """A frozen linear layer whose weight lies in 4 bits."""

    def __init__(self, packed: Tensor, state: Any, bias: nn.Parameter | None) -> None:
        """packed: the codes, uint8. state: bitsandbytes' QuantState. Made by `quantized`."""
        nn.Module.__init__(self)  # not Linear's, which would make a whole weight
        self.out_features, self.in_features = state.shape
        self.register_buffer("packed", packed)
        self.state = state
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight (out, in), written out anew for every use."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.packed, self.state)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Nf4Linear:
        """As every module, and the scales go along."""
        super()._apply(fn, recurse)
        self.state.to(self.packed.device)
        return self


class _Product(torch.autograd.Function):
    """x W' + bias, of which nothing is kept: torch's own would keep the written-out weight."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.layer.weight, None


def quantized(layer: nn.Linear, device: torch.device) -> Nf4Linear:
    """A linear layer in 4 bits on the device."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(layer.weight.data.to(device), quant_type="nf4", compress_statistics=True)
    bias = None if layer.bias is None else nn.Parameter(layer.bias.data.to(device), requires_grad=False)
    return Nf4Linear(packed, state, bias)


def quantize(text: nn.Module, device: torch.device) -> None:
    """Put every linear layer of the text model in 4 bits, one after the other, on the device."""
    replace_layers(text, lambda layer: type(layer) is nn.Linear, lambda layer: quantized(layer, device))


def adopt(model: nn.Module) -> None:
    """Take over the layers of a checkpoint that bitsandbytes quantised, as they are."""
    from bitsandbytes.nn import Linear4bit

    def own(layer: Any) -> Nf4Linear:
        return Nf4Linear(layer.weight.data, layer.weight.quant_state, layer.bias)

    replace_layers(model, lambda layer: isinstance(layer, Linear4bit), own)


def replace_layers(model: nn.Module, which: Callable[[Any], bool], make: Callable[[Any], nn.Module]) -> None:
    """Put what `make` gives in the place of every layer of a model that `which` holds for."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if which(child):
                setattr(parent, name, make(child))


def require_bitsandbytes() -> None:
    """UserError where it is not installed."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError("model.quantize: it needs bitsandbytes; pip install 'mrg_grpo[quant]'") from error
