"""PromptBatch: N studies as tensors, prompts padded on the left. mrg_grpo/model/encoder.py makes it.

N studies, P prompt tokens, D hidden size.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from mrg_grpo.data.study import Study


@dataclass
class PromptBatch:
    """N prompts. `features` is filled by a frozen vision tower the first time it runs and outlives the step.

    What decides shapes stays on the CPU (`lengths`, `rows`, grids), so that no phase has to ask the device for it.
    """

    studies: list[Study]
    input_ids: Tensor  # (N, P), padded on the left
    attention_mask: Tensor  # (N, P), 1 on real tokens
    pixels: dict[str, Tensor]  # what the image processor made, images of all studies in order
    features: Tensor | None = None  # (image tokens, D)
    filler: int = 0  # studies at the end that count for nothing, see mrg_grpo.distributed
    keys: list[str] = field(default_factory=list)  # of the N studies' random streams; by default those of `stream_keys`
    rows: dict[str, list[int]] = field(default_factory=dict)  # how many rows of each of `pixels`, and of `features`,
    # are of each study; only needed where the batch is divided
    lengths: list[int] = field(default_factory=list)  # N, real tokens
    positions: Tensor | None = None  # (N, P), or (3, N, P) for M-RoPE; see Family.prompt_positions
    rope_deltas: Tensor | None = None  # (N,)

    def __post_init__(self) -> None:
        self.keys = self.keys or stream_keys(self.study_ids)
        self.lengths = self.lengths or self.attention_mask.sum(1).tolist()

    @property
    def study_ids(self) -> list[str]:
        return [study.id for study in self.studies]

    @property
    def counts(self) -> Tensor:
        """(N,), False for the filler studies; on the CPU."""
        return torch.arange(len(self.studies)) < len(self.studies) - self.filler

    @property
    def padded(self) -> bool:
        """Whether any prompt is."""
        return min(self.lengths) < self.input_ids.shape[1]

    def to(self, device: torch.device | str) -> "PromptBatch":
        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            pixels={name: x.to(device) if x.is_floating_point() else x for name, x in self.pixels.items()},
            positions=moved(self.positions),
            rope_deltas=moved(self.rope_deltas),
        )

    def split(self, size: int) -> list["PromptBatch"]:
        """Parts of `size` studies in order, each with no more padding than it needs; 0, or enough: this batch."""
        count = len(self.studies)
        if size <= 0 or size >= count:
            return [self]
        return [self.chosen(range(first, min(first + size, count))) for first in range(0, count, size)]

    def chosen(self, places: Sequence[int]) -> "PromptBatch":
        """The studies at these places, in this order, with no more padding than they need."""
        rows, lengths = torch.tensor(places), [self.lengths[n] for n in places]
        tokens = slice(self.input_ids.shape[1] - max(lengths), None)

        def some(tensor: Tensor) -> Tensor:
            return tensor.index_select(-2, rows.to(tensor.device))[..., tokens]

        def own(name: str, tensor: Tensor) -> Tensor:
            parts = tensor.split(self.rows[name])
            return torch.cat([parts[n] for n in places])

        pixels = {name: own(name, tensor) for name, tensor in self.pixels.items()}
        return PromptBatch(
            studies=[self.studies[n] for n in places],
            input_ids=some(self.input_ids),
            attention_mask=some(self.attention_mask),
            pixels={name: tensor for name, tensor in pixels.items() if len(tensor)},
            features=None if self.features is None else own("features", self.features),
            filler=sum(n >= len(self.studies) - self.filler for n in places),
            keys=[self.keys[n] for n in places],
            rows={name: [rows[n] for n in places] for name, rows in self.rows.items()},
            lengths=lengths,
            positions=None if self.positions is None else some(self.positions),
            rope_deltas=None if self.rope_deltas is None else self.rope_deltas[rows.to(self.rope_deltas.device)],
        )


def stream_keys(study_ids: list[str]) -> list[str]:
    """The studies of one step, over all ranks -> keys of their random streams: the id, and from the second time on the
    place behind it. Two groups of one key would be copies, and count twice."""
    seen: Counter[str] = Counter()
    keys = []
    for study in study_ids:
        keys.append(f"{study}\n{seen[study]}" if seen[study] else study)
        seen[study] += 1
    return keys


def pad_rows(parts: list[Tensor]) -> Tensor:
    """Rows (n, T) of any T, or (n,), -> one tensor of all, shorter rows padded behind with 0."""
    width = max(part.shape[-1] for part in parts)
    return torch.cat([functional.pad(x, (0, width - x.shape[1])) if x.dim() == 2 else x for x in parts])
