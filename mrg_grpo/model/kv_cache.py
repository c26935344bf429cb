"""Key-value caches of the shared prefix: what the attention layers of transformers see as `past_key_values`.

A layer calls `update(keys, values, layer_index)` with the keys and values of the tokens it is running, each
(b, heads, tokens, head_dim), and attends to what comes back. One cache per move:

    PrefixRecorder     move 1: keeps what the prompt produced, gives it back unchanged
    ContinuationCache  move 2: gives back the reports' own keys and values; `prefix` has the prompts' (with gradient)
    DecodeCache        sampling: the same, with one buffer per layer that is written in place token by token
    FixedDecodeCache   the same for a recorded step, which may not depend on a Python number

n studies with g reports of each make the b = n * g rows, those of one study next to each other. Own keys and values
come back in groups, (n, heads, g, tokens, head_dim), as mrg_grpo.model.attention wants them, and the prompt's are never
copied per report. They are not transformers caches: those grow by concatenation, repeat the prompt and hide state on
the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo.model.attention import key_dtype

Rotations = dict[str, tuple[Tensor, Tensor]]
"""Rotary cosines and sines by kind of attention layer, each (T, n, 1, 1, head_dim)."""


@dataclass
class Places:
    """T places behind the prompts of n studies: where report tokens stand and which prompt tokens they see."""

    positions: Tensor  # (n, T)
    masks: dict[str, Tensor | None]  # by kind of attention layer: (n, 1 or T, P), True where seen, None for all

    def of(self, studies: Tensor) -> Places:
        """Those of some of the n studies."""
        masks = {kind: mask if mask is None else mask[studies] for kind, mask in self.masks.items()}
        return Places(self.positions[studies], masks)


class PrefixRecorder:
    """Keeps each layer's keys and values of the prompt until they are taken.

    A recomputed layer asks again, when all is over (mrg_grpo.model.recompute). What it is then given is not kept: it
    would hold the graph that holds this object, a circle.
    """

    def __init__(self) -> None:
        self.found: dict[int, tuple[Tensor, Tensor]] | None = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if self.found is not None:
            self.found[layer_idx] = (keys, values)
        return keys, values

    def take(self, layers: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of all layers. RuntimeError where a layer has written none."""
        found, self.found = self.found, None
        if found is None or len(found) != layers:
            raise RuntimeError("the cache is not live: some layers did not write it (gradient checkpointing drops it)")
        return [found[i][0] for i in range(layers)], [found[i][1] for i in range(layers)]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class ContinuationCache:
    """The prompts of `studies` (n,), and g = b / n continuations of each, whose tokens stand at `places`."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], studies: Tensor, places: Places) -> None:
        self.studies, self.places = studies, places
        self.keys, self.values = keys, values
        self.seen: set[int] = set()  # layers

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (n, heads, P, head_dim) of the prompts."""
        # index_select, not [studies]: its backward adds in a fixed order, so a run can be repeated to the last bit
        return self.keys[layer].index_select(0, self.studies), self.values[layer].index_select(0, self.studies)

    def mask(self, kind: str) -> Tensor | None:
        """Which prompt tokens the running tokens see: (n, 1 or T, P), None for all."""
        return self.places.masks[kind]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.seen.add(layer_idx)
        return self._grouped(keys), self._grouped(values)

    def _grouped(self, own: Tensor) -> Tensor:
        n = len(self.studies)
        return own.reshape(n, -1, *own.shape[1:]).transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.keys[layer_idx].shape[2]


@dataclass
class Here:
    """Where the one token that runs now stands, by kind of attention layer."""

    rotations: Rotations  # cosines and sines, (n, 1, 1, head_dim) each
    hidden: dict[str, Tensor | None]  # (n, 1, s), True on those of the first s keys that it may not see; None: none


class DecodeCache:
    """Room for all tokens at `places` of each of g reports of n studies; they are written one after the other.

    A `Decoder` asks with `here`, `write_once` and `prompts`, whose views are made once for all tokens, transformers'
    layers with `update` and `prefix`. Keys are kept in the dtype of `attention.key_dtype`.

    Attention is given views that grow with every token, so that it computes nothing that is not needed.
    """

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        studies: Tensor,
        group: int,
        places: Places,
        rotations: Rotations | None = None,
        window: int | None = None,
    ) -> None:
        """rotations: of all places, for a Decoder; transformers' layers make their own. window: of sliding layers."""
        self.studies, self.places, self.rotations, self.window = studies, places, rotations or {}, window
        self.length = 0  # tokens of a report that are written
        self.t = torch.zeros(1, dtype=torch.long, device=studies.device)  # the same on the device
        kind = key_dtype(keys[0].dtype, keys[0].device)
        self.prefix_keys = [k.detach().index_select(0, studies).to(kind) for k in keys]
        self.prefix_values = [v.detach().index_select(0, studies) for v in values]
        shapes = [(len(studies), k.shape[1], group, places.positions.shape[1], k.shape[3]) for k in keys]
        self.keys = [self.room(k, shape) for k, shape in zip(self.prefix_keys, shapes)]
        self.values = [self.room(v, shape) for v, shape in zip(values, shapes)]
        self._lay_out()

    @staticmethod
    def room(like: Tensor, shape: tuple[int, ...]) -> Tensor:
        return like.new_empty(shape)

    def _lay_out(self) -> None:
        pairs = zip(self.prefix_keys, self.prefix_values)
        self.prompts = [(k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)) for k, v in pairs]
        self._own = [(k.flatten(0, 2), v.flatten(0, 2)) for k, v in zip(self.keys, self.values)]
        self._hidden = {kind: mask if mask is None else ~mask for kind, mask in self.places.masks.items()}

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.prefix_keys[layer], self.prefix_values[layer]

    @property
    def position(self) -> Tensor:
        """Where the token that is written now stands, (n, 1)."""
        return self.places.positions[:, self.length : self.length + 1]

    def mask(self, kind: str) -> Tensor | None:
        """What the token that is written now sees of its prompt: (n, 1, P), None for all."""
        return self._now(self.places.masks[kind])

    def _now(self, mask: Tensor | None) -> Tensor | None:
        return mask if mask is None or mask.shape[1] == 1 else mask[:, self.length : self.length + 1]

    def here(self) -> Here:
        t = self.length
        rotations = {kind: (cos[t], sin[t]) for kind, (cos, sin) in self.rotations.items()}
        return Here(rotations, {kind: self._now(mask) for kind, mask in self._hidden.items()})

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        own_keys, own_values = self.keys[layer_idx], self.values[layer_idx]
        n, g, end = len(self.studies), own_keys.shape[2], self.length + keys.shape[2]
        own_keys[:, :, :, self.length : end] = keys.view(n, g, *keys.shape[1:]).transpose(1, 2)
        own_values[:, :, :, self.length : end] = values.view(n, g, *values.shape[1:]).transpose(1, 2)
        return own_keys[:, :, :, :end], own_values[:, :, :, :end]

    def write_once(self, keys: Tensor, values: Tensor, layer: int, slides: bool) -> tuple[Tensor, Tensor]:
        """Keys and values (n, g, heads, head_dim) of the one token that runs now -> its report's, with at least all
        that it sees, (n * heads * g, t, head_dim). slides: the layer has a window."""
        self.keys[layer].select(3, self.length).copy_(keys.transpose(1, 2))
        self.values[layer].select(3, self.length).copy_(values.transpose(1, 2))
        end = self.length + 1
        first = max(0, end - self.window) if slides and self.window else 0
        own_keys, own_values = self._own[layer]
        return own_keys[:, first:end], own_values[:, first:end]

    def advance(self) -> None:
        """All layers have written their token; the next one goes behind it."""
        self.length += 1
        self.t.add_(1)

    def keep(self, studies: Tensor, reports: Tensor) -> None:
        """Keep the studies (n',) and of each the reports (n', g'), by their places in the present n and g."""
        if len(studies) < len(self.studies):
            self.prefix_keys = [k[studies] for k in self.prefix_keys]
            self.prefix_values = [v[studies] for v in self.prefix_values]
            self.places = self.places.of(studies)
            self.rotations = {kind: (cos[:, studies], sin[:, studies]) for kind, (cos, sin) in self.rotations.items()}
        self.studies = self.studies[studies]
        self.keys = [self._kept(k, studies, reports) for k in self.keys]
        self.values = [self._kept(v, studies, reports) for v in self.values]
        self._lay_out()

    @staticmethod
    def _kept(own: Tensor, studies: Tensor, reports: Tensor) -> Tensor:
        heads = torch.arange(own.shape[1], device=own.device)
        return own[studies[:, None, None], heads[:, None], reports[:, None, :]]  # (n', heads, g', room, head_dim)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prefix_keys[layer_idx].shape[2] + self.length


class FixedDecodeCache(DecodeCache):
    """The same for a step that is recorded once and replayed (mrg_grpo.model.cuda_graph).

    What is recorded has every address, shape and Python number of its recording. So the number of tokens is a tensor on
    the device, attention always sees the whole room, and places behind the token that runs are hidden.
    """

    @staticmethod
    def room(like: Tensor, shape: tuple[int, ...]) -> Tensor:
        return like.new_zeros(shape)  # what is not written yet has weight 0, and 0 * nan would be nan

    def _lay_out(self) -> None:
        super()._lay_out()
        n, prompt = len(self.studies), self.prefix_keys[0].shape[2]
        none = torch.zeros(n, 1, prompt, dtype=torch.bool, device=self.t.device)
        self._prompts = {kind: none if mask is None else mask for kind, mask in self._hidden.items()}
        self._room = torch.arange(self.places.positions.shape[1], device=self.t.device)

    def here(self) -> Here:
        t, hidden = self.t, dict[str, Tensor | None]()
        for kind, prompt in self._prompts.items():
            own = self._room > t  # (room,)
            if kind == "sliding_attention" and self.window:
                own = own | (self._room <= t - self.window)
            now = prompt if prompt.shape[1] == 1 else prompt.index_select(1, t)
            hidden[kind] = torch.cat([now, own.expand(len(now), 1, -1)], -1)  # (n, 1, P + room)
        rotations = {
            kind: (cos.index_select(0, t)[0], sin.index_select(0, t)[0]) for kind, (cos, sin) in self.rotations.items()
        }
        return Here(rotations, hidden)

    def write_once(self, keys: Tensor, values: Tensor, layer: int, slides: bool) -> tuple[Tensor, Tensor]:
        self.keys[layer].index_copy_(3, self.t, keys.transpose(1, 2).unsqueeze(3).to(self.keys[layer].dtype))
        self.values[layer].index_copy_(3, self.t, values.transpose(1, 2).unsqueeze(3))
        return self._own[layer]

    def advance(self) -> None:
        self.t.add_(1)
