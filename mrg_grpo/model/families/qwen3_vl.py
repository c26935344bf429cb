"""Qwen3-VL: Qwen2.5-VL's prompt, with DeepStack.

Some layers of the vision tower hand over features of their own, which the text model adds to the image tokens behind
its first layers. They lie beside the usual features in one tensor: (image tokens, (1 + levels) * D). Continuations
need none of them: they are added at image tokens only, and later tokens see those through the prompt's keys and values.

The text model makes its own mask unless it is given a four-dimensional one, so it always is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from mrg_grpo.model.families.base import Masks, PromptInputs
from mrg_grpo.model.families.qwen_vl import QwenVL

if TYPE_CHECKING:
    from mrg_grpo.model.batch import PromptBatch


class Qwen3VL(QwenVL):
    """Qwen3-VL, dense."""

    model_class = Qwen3VLModel
    vision_targets = ("attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")

    def prepare(self, model: Any) -> None:
        super().prepare(model)
        text: Any = self.text_model(model)
        text._deepstack_process = add_at_images

    def vision_features(self, model: Any, batch: PromptBatch) -> Tensor:
        output = self.run_tower(model, batch)
        return torch.cat([output.pooler_output, *output.deepstack_features], dim=-1)

    def tower_inputs(self, tower: Any, grid: Tensor) -> dict[str, Any]:
        indices, weights = get_vision_interpolation_indices_and_weights(  # of learned places of patches
            grid,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=tower.spatial_merge_size,
        )
        return {**super().tower_inputs(tower, grid), "interp_indices": indices, "interp_weights": weights}

    def prompt_inputs(self, model: Any, batch: PromptBatch, features: Tensor | None) -> PromptInputs:
        if features is None:
            return super().prompt_inputs(model, batch, None)
        first, *deep = features.split(self.config.get_text_config().hidden_size, dim=-1)
        inputs = super().prompt_inputs(model, batch, first)
        inputs.text_kwargs = {
            "visual_pos_masks": batch.input_ids == self.config.image_token_id,  # (N, P)
            "deepstack_visual_embeds": deep,  # levels x (image tokens, D)
        }
        return inputs

    def prompt_masks(self, batch: PromptBatch, place: Tensor, real: Tensor, padded: bool) -> Masks:
        mask = self.layer_masks(place, real)["full_attention"]
        assert mask is not None
        return mask

    def continuation_mask(self) -> Masks:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool)


def add_at_images(hidden: Tensor, image: Tensor, features: Tensor) -> Tensor:
    """Hidden states (N, P, D) with features (image tokens, D) added where `image` (N, P) is True.

    In place of transformers' own, which asks the device where that is.
    """
    return hidden + torch.zeros_like(hidden).masked_scatter(image.unsqueeze(-1), features.to(hidden.dtype))
