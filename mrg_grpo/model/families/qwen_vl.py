"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL have in common.

Images of any size become a grid of patches, merged 2 x 2 into one token each. Positions are three-dimensional
(time, height, width) inside an image, so a prompt's last position is not its length: `rope_deltas` is the difference.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

from mrg_grpo.model import vision_attention
from mrg_grpo.model.families.base import Family
from mrg_grpo.model.vision_attention import Segments, on

if TYPE_CHECKING:
    from mrg_grpo.model.batch import PromptBatch


class QwenVL(Family):
    """A dense Qwen-VL."""

    model_class: ClassVar[Any]
    """Transformers' class with this family's positions."""
    image_token = placeholder = "<|image_pad|>"
    vision_tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")

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

    def most_tokens(self, pixels: int) -> tuple[int, int]:
        vision: Any = self.config.vision_config
        tokens = pixels // (vision.patch_size * vision.spatial_merge_size) ** 2
        return tokens, tokens * vision.spatial_merge_size**2

    def prepare(self, model: Any) -> None:
        tower: Any = self.vision_tower(model)
        tower.config._attn_implementation = vision_attention.NAME

    def vision_features(self, model: Any, batch: PromptBatch) -> Tensor:
        return self.run_tower(model, batch).pooler_output

    def run_tower(self, model: Any, batch: PromptBatch) -> Any:
        """The vision tower on all images. All that follows from their sizes is computed on the CPU, where those are."""
        tower: Any = self.vision_tower(model)
        pixels, grid = batch.pixels["pixel_values"].type(tower.dtype), batch.pixels["image_grid_thw"]
        sizes = {name: on(pixels.device, value) for name, value in self.tower_inputs(tower, grid).items()}
        return tower(pixels, grid_thw=grid, **sizes)

    def tower_inputs(self, tower: Any, grid: Tensor) -> dict[str, Any]:
        """What the tower would compute of the images' grid (images, 3) itself: places of patches, and which of them see
        each other."""
        images = Segments.of(get_vision_cu_seqlens(grid))
        places = get_vision_position_ids(grid, tower.spatial_merge_size)
        return {"position_ids": places, "cu_seqlens": images, "max_seqlen": images.longest}

    def prompt_positions(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        # transformers' method reads the configuration alone; it stands on a class whose objects hold weights
        model: Any = SimpleNamespace(config=self.config)
        model.get_vision_position_ids = partial(self.model_class.get_vision_position_ids, model)
        ids, grid = batch.input_ids, batch.pixels.get("image_grid_thw")
        image = (ids == self.config.image_token_id).int()
        positions, deltas = self.model_class.get_rope_index(
            model, ids, image, image_grid_thw=grid, attention_mask=batch.attention_mask
        )
        return positions, deltas.view(-1)

    def continuation_positions(self, positions: Tensor) -> Tensor:
        return positions.unsqueeze(0).expand(3, -1, -1)
