"""Less memory for one more forward pass: layers keep their input alone, and run again when the backward pass comes.

Of a training step's memory most is what every layer keeps for its backward pass. Under torch's checkpoint a layer keeps
its input, so of all layers only one at a time holds what it needs. The result is the same to the last bit.

    Recompute(family, base, "prompt")   the layers of prompts, and of a vision tower that trains
    Recompute(family, base, "all")      those of reports too

Deliberate choices:
* Torch's non-reentrant checkpoint, around the forward pass of the layer itself: hooks of a base in shards stay outside.
* transformers' own gradient checkpointing is not used: it drops the cache without an error (mrg_grpo.model.policy).
* Without gradient nothing is kept anyway, and nothing runs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from mrg_grpo.model.families import Family
from mrg_grpo.model.fsdp import layers


class Recompute:
    """Whether the layers of a model recompute, by what is running: "prompt" or "report"."""

    def __init__(self, family: Family, base: Any, what: str) -> None:
        """what: "none", "prompt" or "all"."""
        self.of = {"none": (), "prompt": ("prompt",), "all": ("prompt", "report")}[what]
        self.on = False
        if self.of:
            for tower in (family.text_model(base), family.vision_tower(base)):
                for layer in layers(tower):
                    layer.forward = self.wrapped(layer.forward)

    def wrapped(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward pass of a layer, recomputed while this is on."""

        def recomputed(*args: Any, **kwargs: Any) -> Any:
            if not (self.on and torch.is_grad_enabled()):
                return forward(*args, **kwargs)
            # there is no dropout, so no random state to keep
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return recomputed

    @contextmanager
    def __call__(self, running: str) -> Iterator[None]:
        """Within: a forward pass of prompts or of reports."""
        self.on = running in self.of
        try:
            yield
        finally:
            self.on = False
