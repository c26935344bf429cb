"""The contract of a model family.

A new family is one file with one subclass of `Family` and one line in FAMILIES (families/__init__.py). It answers eight
questions: image processor, image tokens in the text, how many at most, vision features, prompt embeddings, prompt
positions, vision tokens that are never sampled, and where LoRA goes. Where its attention differs it overrides
`prompt_masks`. tests/tiny.py then needs a tiny checkpoint of it, and tests/model/test_policy.py holds it to plain
transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from mrg_grpo.model.batch import PromptBatch

Masks = dict[str, Tensor | None] | Tensor
"""Boolean (b, 1, q, k), True = attend: by kind of attention layer, or one for all, as the text model takes it."""


@dataclass
class PromptInputs:
    """What the text model is given for the prompt; N rows, P tokens, D hidden size."""

    embeds: Tensor  # (N, P, D)
    text_kwargs: dict  # anything else the family's text model wants in the prompt; continuations never need it


class Family(ABC):
    """One family of vision-language checkpoints. Stateless but for the configuration."""

    image_token: ClassVar[str]
    """The token that stands for one vision feature; its id is config.image_token_id."""
    placeholder: ClassVar[str]
    """What the chat template writes for a whole image."""
    vision_tokens: ClassVar[tuple[str, ...]]
    """Image and vision special tokens: never sampled, -inf in training and reference alike."""

    lora_pattern = r".*language_model.*\.(?:{targets})"
    """Anchored on the language model: vision towers have gate, up and down projections too."""
    default_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    vision_lora_pattern = r".*visual\.blocks\..*\.(?:{targets})"
    vision_targets: ClassVar[tuple[str, ...]]
    """Attention and MLP projections of the vision tower, which lora.vision adds."""
    norms: ClassVar[tuple[str, str, str, str]] = ("input_layernorm", "", "post_attention_layernorm", "")
    """A text layer's norms before and after attention, before and after the MLP; "" where there is none."""
    plain_norms: ClassVar[bool] = True
    """Whether they multiply by their weight as it is."""

    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config

    @abstractmethod
    def image_processor(self, path: str, max_pixels: int | None, revision: str = "main"):
        """The PIL image processor of the checkpoint at `path` (no torchvision), with at most max_pixels an image."""

    @abstractmethod
    def expand_images(self, text: str, processed: dict[str, Tensor]) -> str:
        """Chat text with one placeholder per image -> with as many image tokens as each image takes."""

    @abstractmethod
    def most_tokens(self, pixels: int) -> tuple[int, int]:
        """Of an image of at most `pixels`, for `mrg-grpo plan`: tokens, and patches that the vision tower sees."""

    @abstractmethod
    def vision_features(self, model: Any, batch: PromptBatch) -> Tensor:
        """Run the vision tower: -> (image tokens of the batch, D); D may hold several features side by side."""

    def prompt_inputs(self, model: Any, batch: PromptBatch, features: Tensor | None) -> PromptInputs:
        """Embeddings of the prompt, with the features in the places of the image tokens."""
        image = batch.input_ids == self.config.image_token_id
        # some vocabularies have no row for the image token, and its embedding is replaced anyway
        embeds = model.get_input_embeddings()(batch.input_ids.masked_fill(image, 0))
        if features is not None:
            embeds = embeds.masked_scatter(image.unsqueeze(-1), features.to(embeds.dtype))
        return PromptInputs(embeds, {})

    def prompt_positions(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Of a batch on the CPU: positions of the prompt, (3, N, P) for M-RoPE, (N, P) otherwise, and rope_deltas (N,).

        A report's token t stands at the number of real prompt tokens + t + rope_delta.
        """
        positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)  # (N, P)
        return positions, torch.zeros_like(positions[:, 0])

    def locate(self, batch: PromptBatch) -> None:
        """Note the positions in a batch that has none yet. On a GPU that would wait for it for every image."""
        if batch.positions is None:
            batch.positions, batch.rope_deltas = self.prompt_positions(batch)

    def prepare(self, model: Any) -> None:  # noqa: B027  (most change nothing)
        """What the family changes of a model right after it is loaded."""

    @property
    def layers(self) -> int:
        return self.config.get_text_config().num_hidden_layers

    def vision_tower(self, model: Any) -> nn.Module:
        return model.model.visual

    def vision_modules(self, model: Any) -> list[nn.Module]:
        """All modules that make vision features: the tower with the mergers in it, and what stands behind it."""
        return [self.vision_tower(model)]

    def text_model(self, model: Any) -> nn.Module:
        return model.model.language_model

    def suppressed_ids(self, tokenizer: Any) -> list[int]:
        """Ids of `vision_tokens`, by name: configurations list different subsets of them."""
        vocabulary = tokenizer.get_vocab()
        return [vocabulary[token] for token in self.vision_tokens if token in vocabulary]

    def lora_targets(self, names: list[str], vision: bool = False) -> str:
        """The regular expression peft matches module names with; `names` are of the language model."""
        language = self.lora_pattern.format(targets="|".join(names or self.default_targets))
        if not vision:
            return language
        return f"{language}|{self.vision_lora_pattern.format(targets='|'.join(self.vision_targets))}"

    def continuation_positions(self, positions: Tensor) -> Tensor:
        """Positions of report tokens (b, t) in the form the text model takes."""
        return positions

    def rotations(self, text: Any, hidden: Tensor, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Rotary cosines and sines (b, t, head_dim) of `positions`, by kind of attention layer."""
        rotation = text.rotary_emb(hidden, positions)
        return {"full_attention": rotation, "sliding_attention": rotation}

    def prompt_masks(self, batch: PromptBatch, place: Tensor, real: Tensor, padded: bool) -> Masks:
        """Masks of the prompt itself; place (N, P) counts real tokens. Without padding plain causal needs no tensor."""
        masks = self.layer_masks(place, real)
        return masks if padded else {**masks, "full_attention": None}

    def layer_masks(self, place: Tensor, real: Tensor, together: Tensor | None = None) -> dict[str, Tensor | None]:
        """Boolean masks (N, 1, P, P) of a prompt, True = attend, one per kind of attention layer.

        place (N, P): how many real tokens of its row stand before each; real (N, P): not padding.
        together (N, P, P): pairs that attend both ways, later keys too; a sliding window holds for them as well.
        Every token sees itself, padding too: an all-False row would be NaN.
        """
        distance = place.unsqueeze(2) - place.unsqueeze(1)  # (N, P, P)
        attend = (distance >= 0) if together is None else (distance >= 0) | together
        attend = attend & real.unsqueeze(1)
        same = torch.eye(place.shape[1], dtype=torch.bool, device=place.device)
        masks: dict[str, Tensor | None] = {"full_attention": (attend | same).unsqueeze(1)}
        if self.window:
            masks["sliding_attention"] = ((attend & (distance < self.window)) | same).unsqueeze(1)
        return masks

    def continuation_mask(self) -> Masks:
        """What the text model is handed as mask in a continuation, and hands on: attention takes `prefix_masks`."""
        return {"full_attention": None, "sliding_attention": None}

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


class TowerAndProjector(Family):
    """A family whose features come from a vision tower and go through a projector of their own."""

    def vision_tower(self, model: Any) -> nn.Module:
        return model.model.vision_tower

    def vision_modules(self, model: Any) -> list[nn.Module]:
        return [self.vision_tower(model), model.model.multi_modal_projector]
