"""Attention inside a vision tower: patches see those of their own segment, an image or a window of it, in one call.

S patches of all images in one row, k segments, M patches of the longest, H heads, d head size.

transformers runs a call for each segment, 5,408 of them for eight X-rays in Qwen2.5-VL-7B, and asks the device for
their lengths in every layer. Here the segments are the rows of a batch. Segments of several lengths are padded to the
longest, and the padding is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

NAME = "mrg_grpo_segments_flash"
"""The name (attn_implementation) by which vision towers find `segment_attention`. transformers hands over all segments
at once to what has "flash" in its name."""
Movable = TypeVar("Movable")


@dataclass
class Segments:
    """Which of S patches, in order, belong together. transformers' towers hand it on in place of `cu_seqlens`."""

    count: int  # k
    longest: int  # M
    padded: Tensor | None = None  # (k, M), the patch at each place; None where all are of one length
    seen: Tensor | None = None  # (k, 1, 1, M), False on padding
    places: Tensor | None = None  # (S,), where each patch lies in k * M

    @classmethod
    def of(cls, bounds: Tensor) -> Segments:
        """From cumulative lengths (k + 1,) on the CPU."""
        bounds = bounds.long()
        starts, lengths = bounds[:-1], bounds.diff()
        count, longest = len(lengths), int(lengths.max())
        if bool((lengths == longest).all()):
            return cls(count, longest)
        place = torch.arange(longest)
        real = place < lengths.unsqueeze(1)  # (k, M)
        padded = torch.where(real, starts.unsqueeze(1) + place, starts.unsqueeze(1))
        return cls(count, longest, padded, real[:, None, None], real.flatten().nonzero().squeeze(1))

    def to(self, device: torch.device) -> Segments:
        return replace(self, padded=on(device, self.padded), seen=on(device, self.seen), places=on(device, self.places))


def on(device: torch.device, value: Movable) -> Movable:
    """A tensor, or segments, on the device; None and what has no place as it is."""
    moved: Any = value
    return moved.to(device) if isinstance(value, Tensor | Segments) else value


def segment_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    cu_seq_lens_q: Segments | Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention interface of transformers: query, key, value (1, H, S, d) -> (1, S, H, d) and None for the weights.

    cu_seq_lens_q: the segments, or their cumulative lengths, as the tower itself makes them.
    """
    segments = cu_seq_lens_q
    if isinstance(segments, Tensor):
        segments = Segments.of(segments.cpu()).to(query.device)
    assert segments is not None
    query, key, value = (in_rows(x[0], segments) for x in (query, key, value))  # (k, H, M, d)
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=segments.seen, scale=scaling)
    flat = out.transpose(1, 2).flatten(0, 1)  # (k * M, H, d)
    return (flat if segments.places is None else flat.index_select(0, segments.places)).unsqueeze(0), None


def in_rows(patches: Tensor, segments: Segments) -> Tensor:
    """(H, S, d) -> (k, H, M, d); padding repeats a patch."""
    if segments.padded is not None:
        patches = patches.index_select(1, segments.padded.flatten())
    return patches.unflatten(1, (segments.count, segments.longest)).transpose(0, 1)


AttentionInterface.register(NAME, segment_attention)
