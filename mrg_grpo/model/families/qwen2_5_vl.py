"""Qwen2.5-VL: the family of HuatuoGPT-Vision-7B-Qwen2.5VL.

Images of any size become a grid of 14-pixel patches, merged 2 x 2 into one token each. Positions are three-dimensional
(time, height, width) inside an image, so a prompt's last position is not its length: `rope_deltas` is the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mrg_grpo.model.families.base import Family, PromptInputs

if TYPE_CHECKING:
    from mrg_grpo.model.batch import PromptBatch


class Qwen25VL(Family):
    """Qwen2.5-VL, dense."""

    image_token = placeholder = "<|image_pad|>"
    vision_tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
    vision_targets: tuple[str, ...] = (
        "attn.qkv",
        "attn.proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )

    def image_processor(self, path: str, max_pixels: int | None, revision: str = "main") -> Qwen2VLImageProcessorPil:
        processor = Qwen2VLImageProcessorPil.from_pretrained(path, revision=revision)
        size = processor.size
        low, high = size["shortest_edge"], size["longest_edge"]
        if max_pixels is not None:
            high = max_pixels
        processor.size = {"shortest_edge": min(low, high), "longest_edge": high}
        return processor

    def expand_images(self, text: str, processed: dict[str, Tensor]) -> str:
        merge = self.config.vision_config.spatial_merge_size
        pieces = text.split(self.image_token)
        counts = [int(grid.prod()) // merge**2 for grid in processed["image_grid_thw"]] if len(pieces) > 1 else []
        return pieces[0] + "".join(self.image_token * n + piece for n, piece in zip(counts, pieces[1:], strict=True))

    def vision_features(self, model: Any, batch: PromptBatch) -> Tensor:
        output = model.model.get_image_features(batch.pixels["pixel_values"], batch.pixels["image_grid_thw"])
        return torch.cat(list(output.pooler_output))

    def prompt_inputs(self, model: Any, batch: PromptBatch, features: Tensor | None) -> PromptInputs:
        ids = batch.input_ids
        embeds = model.get_input_embeddings()(ids)
        image = ids == self.config.image_token_id
        if features is not None:
            embeds = embeds.masked_scatter(image.unsqueeze(-1), features.to(embeds.dtype))
        positions, deltas = model.model.get_rope_index(
            ids, image.int(), image_grid_thw=batch.pixels.get("image_grid_thw"), attention_mask=batch.attention_mask
        )
        return PromptInputs(embeds, positions, deltas.view(-1), {})

    def continuation_positions(self, positions: Tensor) -> Tensor:
        return positions.unsqueeze(0).expand(3, -1, -1)
