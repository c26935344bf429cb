"""InternVL: InternVL 2.5, 3 and 3.5 in transformers' own layout (the checkpoints whose names end in -hf).

An image becomes square tiles in the grid that is nearest to its shape, and, where these are several, the whole image
resized to one more. All tiles of an image stand between one <img> and </img>, so two images of a study stay two.
data.max_pixels limits the tiles of the grid; at one tile there is the resized image alone.
"""

from __future__ import annotations

from torch import Tensor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from mrg_grpo.errors import UserError
from mrg_grpo.model.families.projector_vl import ProjectorVL

MOST_TILES = 12
"""Of the grid, where preprocessor_config.json does not say it."""


class InternVL(ProjectorVL):
    """InternVL with InternViT as its vision tower, dense."""

    image_token = placeholder = "<IMG_CONTEXT>"
    vision_tokens = (
        "<IMG_CONTEXT>", "<img>", "</img>", "<video>",
        "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    )  # fmt: skip
    tower, tower_layers = "internvl_vision", r".*vision_tower.*\.layer"
    vision_targets = ("q_proj", "k_proj", "v_proj", "projection_layer", "fc1", "fc2")

    def image_processor(self, path: str, max_pixels: int | None, revision: str = "main") -> GotOcr2ImageProcessorPil:
        # transformers' processor asks for tiles, whatever preprocessor_config.json says
        processor = GotOcr2ImageProcessorPil.from_pretrained(path, revision=revision, crop_to_patches=True)
        self.require_side(processor.size, path)
        if max_pixels is not None:
            pixels = self.sides[0] ** 2
            if max_pixels < pixels:
                raise UserError(f"data.max_pixels {max_pixels}: a tile of InternVL has {pixels:,} pixels; set no less")
            processor.max_patches = min(processor.max_patches, max_pixels // pixels)
            processor.min_patches = min(processor.min_patches, processor.max_patches)
        return processor

    @property
    def tile_tokens(self) -> int:
        side, patch = self.sides
        return int(side // patch * self.config.downsample_ratio) ** 2

    def most_tokens(self, pixels: int) -> tuple[int, int]:
        side, patch = self.sides
        tiles = min(MOST_TILES, max(1, pixels // side**2))
        tiles += tiles > 1
        return tiles * self.tile_tokens, tiles * ((side // patch) ** 2 + 1)

    def expand_images(self, text: str, processed: dict[str, Tensor]) -> str:
        tile = self.image_token * self.tile_tokens
        first, *pieces = text.split(self.placeholder)
        tiles = processed["num_patches"].tolist() if pieces else []
        return first + "".join(f"<img>{tile * n}</img>{piece}" for n, piece in zip(tiles, pieces, strict=True))
