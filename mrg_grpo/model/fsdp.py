"""A base too large for one GPU: its frozen weights spread over the ranks (`model.shard = true`), by torch's FSDP2.

Each rank keeps 1 / world of every layer of the language model and of the vision tower. A layer is put together from all
ranks just before it runs, forward and backward, and taken apart after it.

Deliberate choices:
* The adapter is whole on every rank and goes through the one sum of gradients like any other run's.
* Embeddings, final norm and lm_head stay whole: they are called and read outside of any module's forward (token by
  token in sampling, in chunks in mrg_grpo.model.logprobs). Of Qwen2.5-VL-7B these are 1.09 of 8.29 billion parameters.
* Every forward and every backward pass is an exchange, so all ranks make the same number of them: filler studies
  (mrg_grpo.distributed), groups without spread are not left out, and decoding goes on until all ranks have finished.
* LoRA is never merged for sampling: the merged copy would be of whole layers, the very thing there is no room for.
* Each rank maps the checkpoint's file into memory and moves it to its GPU layer by layer. The ranks of a machine share
  its pages, unless model.dtype is not the file's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mrg_grpo import distributed
from mrg_grpo.errors import UserError
from mrg_grpo.model.families import Family


def shard(base: nn.Module, family: Family, device: torch.device) -> None:
    """Spread the base, on the CPU and with its LoRA in place, over the ranks; what stays whole moves to the device."""
    if distributed.alone():
        raise UserError(
            "model.shard: it spreads the base over the ranks of torchrun; start with "
            "`torchrun --nproc-per-node K -m mrg_grpo ...`, or set model.shard = false"
        )
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for tower in (family.text_model(base), family.vision_tower(base)):
        whole = {p for p in tower.parameters() if p.requires_grad}  # the adapter
        for layer in layers(tower):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        if tower is family.text_model(base):
            inner = {p for layer in layers(tower) for p in layer.parameters()}
            whole |= {p for p in tower.parameters() if p not in inner}
        fully_shard(tower, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    base.to(device)


def layers(tower: nn.Module) -> nn.ModuleList:
    """The repeated blocks of a transformer: of its lists of modules the one with the most parameters."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()))


def bytes_here(model: nn.Module) -> dict[str, int]:
    """Bytes of parameters on this rank: of the sharded ones its part, of the others all."""
    sizes = {"sharded": 0, "whole": 0}
    for parameter in model.parameters():
        data: Any = parameter.data
        spread = isinstance(data, DTensor)
        local = data.to_local() if isinstance(data, DTensor) else data
        sizes["sharded" if spread else "whole"] += local.numel() * local.element_size()
    return sizes
