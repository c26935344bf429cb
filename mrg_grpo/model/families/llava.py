"""LLaVA: the family of LLaVA-1.5 and, once converted to transformers' layout, of LLaVA-Med.

Features are those of an inner layer of CLIP, usually the last but one, so the layers behind it get no LoRA. Every image
becomes one square: resized to its shorter side and cut, or padded first where preprocessor_config.json has `do_pad`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mrg_grpo.errors import UserError
from mrg_grpo.model.families.projector_vl import ProjectorVL

if TYPE_CHECKING:
    from mrg_grpo.model.batch import PromptBatch


class Llava(ProjectorVL):
    """LLaVA with CLIP as its vision tower."""

    image_token = placeholder = "<image>"
    vision_tokens = ("<image>",)
    tower, tower_layers = "clip_vision_model", r".*vision_tower.*\.layers"
    vision_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

    def image_processor(self, path: str, max_pixels: int | None, revision: str = "main") -> LlavaImageProcessorPil:
        # also for checkpoints that name CLIP's, which does the same but for the padding
        processor = LlavaImageProcessorPil.from_pretrained(path, revision=revision)
        self.require_side(processor.crop_size if processor.do_center_crop else processor.size, path)
        pixels = self.sides[0] ** 2
        if max_pixels is not None and max_pixels < pixels:
            raise UserError(f"data.max_pixels {max_pixels}: LLaVA sees every image at {pixels:,} pixels; set it to 0")
        return processor

    def expand_images(self, text: str, processed: dict[str, Tensor]) -> str:
        return text.replace(self.placeholder, self.image_token * self.most_tokens(0)[0])

    def vision_features(self, model: Any, batch: PromptBatch) -> Tensor:
        # transformers' get_image_features finds no inner layers in a tower that FSDP has given a class of its own
        tower, found = self.vision_tower(model), dict[int, Tensor]()
        layers: Any = tower.get_submodule("encoder.layers")
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, place=place: found.update({place: args[0]}))
            for place, layer in enumerate(layers)
        ]
        try:
            found[len(layers)] = tower(batch.pixels["pixel_values"].to(model.dtype)).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        hidden = torch.cat([found[place] for place in self.places], dim=-1)  # (images, 1 + patches, widths)
        if self.config.vision_feature_select_strategy == "default":
            hidden = hidden[:, 1:]
        return model.model.multi_modal_projector(hidden).flatten(0, 1)

    def most_tokens(self, pixels: int) -> tuple[int, int]:
        side, patch = self.sides
        patches, whole = (side // patch) ** 2, 1  # CLIP has one more for the whole image
        full = self.config.vision_feature_select_strategy == "full"
        return patches + (whole if full else 0), patches + whole
