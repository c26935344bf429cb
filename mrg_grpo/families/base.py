"""The contract of a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from mrg_grpo.batch import PromptBatch


@dataclass
class PromptInputs:
    """What the text model is given for the prompt; N rows, P tokens, D hidden size."""

    embeds: Tensor  # (N, P, D)
    positions: Tensor  # (3, N, P) for M-RoPE, (N, P) otherwise
    rope_deltas: Tensor  # (N,): position of a report's token t is real prompt tokens + t + rope_delta
    text_kwargs: dict  # anything else the family's text model wants in the prompt


class Family(ABC):
    """One family of vision-language checkpoints. Stateless but for the configuration."""

    lora_pattern = r".*language_model.*\.(?:{targets})"
    """Anchored on the language model: vision towers have gate, up and down projections too."""
    default_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config

    @abstractmethod
    def image_processor(self, path: str, max_pixels: int | None):
        """The PIL image processor of the checkpoint at `path` (no torchvision), with at most max_pixels an image."""

    @abstractmethod
    def expand_images(self, text: str, processed: dict[str, Tensor]) -> str:
        """Chat text with one placeholder per image -> with as many image tokens as each image takes."""

    @abstractmethod
    def vision_features(self, model: Any, batch: PromptBatch) -> Tensor:
        """Run the vision tower: -> (image tokens of the batch, D)."""

    @abstractmethod
    def prompt_inputs(self, model: Any, batch: PromptBatch, features: Tensor | None) -> PromptInputs:
        """Embeddings and positions of the prompt."""

    @abstractmethod
    def suppressed_ids(self) -> list[int]:
        """Image and vision special tokens: never sampled, -inf in training and reference alike."""

    @property
    def layers(self) -> int:
        return self.config.get_text_config().num_hidden_layers

    def vision_tower(self, model: Any) -> nn.Module:
        return model.model.visual

    def text_model(self, model: Any) -> nn.Module:
        return model.model.language_model

    def lora_targets(self, names: list[str]) -> str:
        """The regular expression peft matches module names with."""
        return self.lora_pattern.format(targets="|".join(names or self.default_targets))

    def continuation_positions(self, positions: Tensor) -> Tensor:
        """Positions of report tokens (b, t) in the form the text model takes."""
        return positions

    def prompt_masks(self, batch: PromptBatch, place: Tensor, real: Tensor, padded: bool) -> dict[str, Tensor | None]:
        """Masks (N, 1, P, P) of the prompt itself, True = attend, one per kind of attention layer.

        place (N, P) counts real tokens. Without padding plain causal needs no tensor. Every token sees itself, padding
        too: an all-False row would be NaN.
        """
        distance = place.unsqueeze(2) - place.unsqueeze(1)  # (N, P, P)
        causal = (distance >= 0) & real.unsqueeze(1)
        same = torch.eye(place.shape[1], dtype=torch.bool, device=place.device)
        masks: dict[str, Tensor | None] = {"full_attention": (causal | same).unsqueeze(1) if padded else None}
        if self.window:
            masks["sliding_attention"] = ((causal & (distance < self.window)) | same).unsqueeze(1)
        return masks

    def prefix_masks(self, real: Tensor, padded: bool, seen: Tensor) -> dict[str, Tensor | None]:
        """Which prompt tokens a report's tokens see: (n, 1 or T, P), None for all, one per kind of attention layer.

        real (n, P): not padding; seen (n, T): how many real tokens stand in front of each report token.
        """
        masks: dict[str, Tensor | None] = {"full_attention": real.unsqueeze(1) if padded else None}
        if self.window:
            place = real.long().cumsum(1) - 1  # (n, P)
            near = seen.unsqueeze(2) - place.unsqueeze(1) < self.window  # (n, T, P)
            masks["sliding_attention"] = near & real.unsqueeze(1)
        return masks

    @property
    def window(self) -> int | None:
        """Tokens that a sliding layer sees, itself included; None where the family has no such layers."""
        text = self.config.get_text_config()
        return text.sliding_window if "sliding_attention" in (getattr(text, "layer_types", None) or ()) else None
