"""Key-value caches of the shared prefix: what the attention layers of transformers see as `past_key_values`.

A layer calls `update(keys, values, layer_index)` with the keys and values of the tokens it is running, each
(rows, heads, tokens, head_dim), and attends to what comes back. Three caches, one per move:

    PrefixRecorder     move 1: keeps what the prompt produced, gives it back unchanged
    ContinuationCache  move 2: prefix leaves, expanded to the reports, then the report's own tokens (with gradient)
    DecodeCache        sampling: one buffer per layer, prefix in front, written in place token by token

They are not transformers caches: those grow by concatenation, copy the prompt per report and hide state on the model.
"""

import torch
from torch import Tensor


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
    """Prefix keys and values of the studies `rows` (b,), followed by the b continuations' own."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], rows: Tensor) -> None:
        self.keys, self.values, self.rows = keys, values, rows
        self.layers_seen = 0

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.layers_seen += 1
        # index_select, not [rows]: its backward adds in a fixed order, so a run can be repeated to the last bit
        prefix_keys = self.keys[layer_idx].index_select(0, self.rows)  # (b, h, P, d)
        prefix_values = self.values[layer_idx].index_select(0, self.rows)
        return torch.cat([prefix_keys, keys], dim=2), torch.cat([prefix_values, values], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.keys[layer_idx].shape[2]


class DecodeCache:
    """Room for `room` new tokens behind the prefix of each of the b rows; `length` tokens of it are used."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], rows: Tensor, room: int) -> None:
        self.length = keys[0].shape[2]
        self.keys = [self._with_room(k, rows, room) for k in keys]
        self.values = [self._with_room(v, rows, room) for v in values]

    @staticmethod
    def _with_room(prefix: Tensor, rows: Tensor, room: int) -> Tensor:
        _, heads, length, dim = prefix.shape
        buffer = prefix.new_empty(len(rows), heads, length + room, dim)
        buffer[:, :, :length] = prefix[rows]
        return buffer

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        end = self.length + keys.shape[2]
        self.keys[layer_idx][:, :, self.length : end] = keys
        self.values[layer_idx][:, :, self.length : end] = values
        return self.keys[layer_idx][:, :, :end], self.values[layer_idx][:, :, :end]

    def advance(self, tokens: int = 1) -> None:
        """All layers have written their `tokens`; the next ones go behind them."""
        self.length += tokens

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows`: finished reports leave the batch."""
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length
