"""What LLaVA and InternVL have in common: a projector between a vision tower and a language model that exists alone.

The tower sees square pictures of one size. The language model is Llama, Mistral, Qwen2 or Qwen3, whose layers differ in
biases and in norms of queries and keys alone. Llama and Mistral take one mask for all layers, and make their own unless
it has four dimensions. Qwen2 and Qwen3 take one for each kind of layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mrg_grpo.errors import UserError
from mrg_grpo.model.families.base import Masks, TowerAndProjector

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from mrg_grpo.model.batch import PromptBatch

TEXT_MODELS = ("llama", "mistral", "qwen2", "qwen3")


class ProjectorVL(TowerAndProjector):
    """A vision tower, a projector and a language model."""

    tower: ClassVar[str]
    """`model_type` of its vision tower."""
    tower_layers: ClassVar[str]
    """The beginning of a regular expression: the name of the tower's list of layers."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.vision: Any = config.vision_config
        text = config.get_text_config().model_type
        if text not in TEXT_MODELS or self.vision.model_type != self.tower:
            raise UserError(
                f'model.path {config.name_or_path}: a {config.model_type} of "{self.vision.model_type}" and "{text}" '
                f'is not supported; use one of "{self.tower}" and one of: {", ".join(TEXT_MODELS)}'
            )
        self.one_mask = text in ("llama", "mistral")
        learn = "|".join(str(layer) for layer in range(max(self.places)))  # those behind would have no gradient
        self.vision_lora_pattern = rf"{self.tower_layers}\.(?:{learn})\..*\.(?:{{targets}})"

    @property
    def places(self) -> list[int]:
        """Where in the tower the features are taken: each is a number of layers that stand in front of it."""
        count, chosen = self.vision.num_hidden_layers, self.config.vision_feature_layer
        return [place % (count + 1) for place in ([chosen] if isinstance(chosen, int) else chosen)]

    @property
    def sides(self) -> tuple[int, int]:
        """Pixels of a picture's side and of a patch's."""
        image, patch = (
            size if isinstance(size, int) else size[0] for size in (self.vision.image_size, self.vision.patch_size)
        )
        return image, patch

    def require_side(self, size: Any, path: str) -> None:
        """UserError where the image processor makes pictures of another size than the tower has places for."""
        side = self.sides[0]
        height, width = getattr(size, "height", None), getattr(size, "width", None)
        if (height, width) != (side, side):
            raise UserError(
                f"model.path {path}: preprocessor_config.json makes images of {height} x {width} pixels, the vision "
                f"tower takes {side} x {side}; take both from one checkpoint"
            )

    def prepare(self, model: Any) -> None:
        if self.config.get_text_config().model_type == "mistral":
            text: Any = self.text_model(model)
            for layer in text.layers:  # Mistral's look it up in the configuration; the other models' have it themselves
                layer.self_attn.sliding_window = self.window

    def vision_features(self, model: Any, batch: PromptBatch) -> Tensor:
        pixels = batch.pixels["pixel_values"].to(model.dtype)
        return torch.cat([*model.model.get_image_features(pixels).pooler_output])

    def prompt_masks(self, batch: PromptBatch, place: Tensor, real: Tensor, padded: bool) -> Masks:
        if not self.one_mask:
            return super().prompt_masks(batch, place, real, padded)
        mask = self.layer_masks(place, real)["sliding_attention" if self.window else "full_attention"]
        assert mask is not None
        return mask

    def continuation_mask(self) -> Masks:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool) if self.one_mask else super().continuation_mask()

    @property
    def window(self) -> int | None:
        text = self.config.get_text_config()
        return text.sliding_window if text.model_type == "mistral" else super().window
