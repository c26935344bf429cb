"""PromptBatch: N studies as tensors, prompts padded on the left. mrg_grpo/model/encoder.py makes it.

N studies, P prompt tokens, D hidden size.
"""

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from mrg_grpo.data.study import Study


@dataclass
class PromptBatch:
    """N prompts. `features` is filled by a frozen vision tower the first time it runs and outlives the step."""

    studies: list[Study]
    input_ids: Tensor  # (N, P), padded on the left
    attention_mask: Tensor  # (N, P), 1 on real tokens
    pixels: dict[str, Tensor]  # what the image processor made, images of all studies in order
    features: Tensor | None = None  # (image tokens, D)
    filler: int = 0  # studies at the end that count for nothing, see mrg_grpo.distributed
    keys: list[str] = field(default_factory=list)  # of the N studies' random streams; by default those of `stream_keys`

    def __post_init__(self) -> None:
        self.keys = self.keys or stream_keys(self.study_ids)

    @property
    def study_ids(self) -> list[str]:
        return [study.id for study in self.studies]

    @property
    def counts(self) -> Tensor:
        """(N,), False for the filler studies."""
        return torch.arange(len(self.studies), device=self.input_ids.device) < len(self.studies) - self.filler

    def to(self, device: torch.device | str) -> "PromptBatch":
        pixels = {name: tensor.to(device) for name, tensor in self.pixels.items()}
        ids, mask = self.input_ids.to(device), self.attention_mask.to(device)
        return PromptBatch(self.studies, ids, mask, pixels, filler=self.filler, keys=self.keys)


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
