"""Key-value caches of the shared prefix: what the attention layers of transformers see as `past_key_values`.

A layer calls `update(keys, values, layer_index)` with the keys and values of the tokens it is running, each
(b, heads, tokens, head_dim), and attends to what comes back. Three caches, one per move:

    PrefixRecorder     move 1: keeps what the prompt produced, gives it back unchanged
    ContinuationCache  move 2: gives back the reports' own keys and values; `prefix` has the prompts' (with gradient)
    DecodeCache        sampling: the same, with one buffer per layer that is written in place token by token

n studies with g reports of each make the b = n * g rows, those of one study next to each other. Own keys and values
come back in groups, (n, heads, g, tokens, head_dim), as mrg_grpo.model.attention wants them, and the prompt's are never
copied per report. They are not transformers caches: those grow by concatenation, repeat the prompt and hide state on
the model.
"""

import torch
from torch import Tensor

from mrg_grpo.model.attention import exact


class PrefixRecorder:
    """Keeps each layer's keys and values of the prompt."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.keys.append(keys)
        self.values.append(values)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class ContinuationCache:
    """The prompts of `studies` (n,), and g = b / n continuations of each."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], studies: Tensor) -> None:
        self.studies = studies
        self.keys, self.values = keys, values
        self.layers_seen = 0
        self.masks: dict[str, Tensor | None] = {}  # by kind of layer: which prompt tokens are seen, (n, 1 or T, P)

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (n, heads, P, head_dim) of the prompts."""
        # index_select, not [studies]: its backward adds in a fixed order, so a run can be repeated to the last bit
        return self.keys[layer].index_select(0, self.studies), self.values[layer].index_select(0, self.studies)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.layers_seen += 1
        return self._grouped(keys), self._grouped(values)

    def _grouped(self, own: Tensor) -> Tensor:
        n = len(self.studies)
        return own.reshape(n, -1, *own.shape[1:]).transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.keys[layer_idx].shape[2]


class DecodeCache:
    """Room for `room` own tokens of each of g reports of n studies; `length` tokens of it are used.

    A `Decoder` asks with `write_once` and `prompts`, whose views are made once for all tokens, transformers' layers
    with `update` and `prefix`. Keys are kept in at least fp32, in which scores are computed: converted once, not anew
    for every token.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor], studies: Tensor, group: int, room: int) -> None:
        self.studies, self.room, self.length = studies, room, 0
        self.masks: dict[str, Tensor | None] = {}  # as in ContinuationCache; for a Decoder of all `room` tokens
        self.rotations: dict[str, tuple[Tensor, Tensor]] = {}  # for a Decoder: (room, n, 1, 1, head_dim) each
        self.prefix_keys = [exact(k.detach().index_select(0, studies)) for k in keys]
        self.prefix_values = [v.detach().index_select(0, studies) for v in values]
        shapes = [(len(studies), k.shape[1], group, room, k.shape[3]) for k in keys]
        self.keys = [k.new_empty(shape) for k, shape in zip(self.prefix_keys, shapes)]
        self.values = [v.new_empty(shape) for v, shape in zip(values, shapes)]
        self._lay_out()

    def _lay_out(self) -> None:
        pairs = zip(self.prefix_keys, self.prefix_values)
        self.prompts = [(k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)) for k, v in pairs]
        self._own = [(k.flatten(0, 2), v.flatten(0, 2)) for k, v in zip(self.keys, self.values)]

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.prefix_keys[layer], self.prefix_values[layer]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        own_keys, own_values = self.keys[layer_idx], self.values[layer_idx]
        n, g, end = len(self.studies), own_keys.shape[2], self.length + keys.shape[2]
        own_keys[:, :, :, self.length : end] = keys.view(n, g, *keys.shape[1:]).transpose(1, 2)
        own_values[:, :, :, self.length : end] = values.view(n, g, *values.shape[1:]).transpose(1, 2)
        return own_keys[:, :, :, :end], own_values[:, :, :, :end]

    def write_once(self, keys: Tensor, values: Tensor, layer: int, window: int | None) -> tuple[Tensor, Tensor]:
        """Keys and values (n, g, heads, head_dim) of the one token that runs now -> all that it sees of its report's,
        (n * heads * g, t, head_dim); window: the last `window` of them, itself included."""
        self.keys[layer].select(3, self.length).copy_(keys.transpose(1, 2))
        self.values[layer].select(3, self.length).copy_(values.transpose(1, 2))
        end = self.length + 1
        first = 0 if window is None else max(0, end - window)
        own_keys, own_values = self._own[layer]
        return own_keys[:, first:end], own_values[:, first:end]

    def mask(self, kind: str) -> Tensor | None:
        """What the token that is written now sees of its prompt: (n, 1, P), None for all."""
        mask = self.masks[kind]
        return mask if mask is None or mask.shape[1] == 1 else mask[:, self.length : self.length + 1]

    def advance(self, tokens: int = 1) -> None:
        """All layers have written their `tokens`; the next ones go behind them."""
        self.length += tokens

    def keep(self, studies: Tensor, reports: Tensor) -> None:
        """Keep the studies (n',) and of each the reports (n', g'), by their places in the present n and g."""
        if len(studies) < len(self.studies):
            self.prefix_keys = [k[studies] for k in self.prefix_keys]
            self.prefix_values = [v[studies] for v in self.prefix_values]
            self.masks = {kind: mask if mask is None else mask[studies] for kind, mask in self.masks.items()}
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
