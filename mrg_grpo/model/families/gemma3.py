"""Gemma 3: the family of MedGemma-4B.

Every image is resized to one square size and becomes the same number of tokens (896 pixels, 256 tokens). Inside an
image tokens attend both ways; sliding layers do so within their window. transformers' own cache keeps window - 1 keys
of a sliding layer; ours keep the whole prompt and mask what lies outside, so the prefix can be shared by all layers.

Pan-and-scan (extra crops of long images, announced in the text) is off, as it is by default in transformers: an image
is one view, and two images of a study must stay two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from mrg_grpo.errors import UserError
from mrg_grpo.model.families.base import Masks, TowerAndProjector

if TYPE_CHECKING:
    from mrg_grpo.model.batch import PromptBatch


class Gemma3(TowerAndProjector):
    """Gemma 3 with its SigLIP vision tower."""

    image_token, placeholder = "<image_soft_token>", "<start_of_image>"
    vision_tokens = ("<image_soft_token>", "<start_of_image>", "<end_of_image>")
    vision_lora_pattern = r".*vision_tower.*\.layers\..*\.(?:{targets})"
    norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
    plain_norms = False  # by 1 + weight
    vision_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

    def image_processor(self, path: str, max_pixels: int | None, revision: str = "main") -> Gemma3ImageProcessorPil:
        processor = Gemma3ImageProcessorPil.from_pretrained(path, revision=revision, do_pan_and_scan=False)
        pixels = processor.size["height"] * processor.size["width"]
        if max_pixels is not None and max_pixels < pixels:
            raise UserError(f"data.max_pixels {max_pixels}: Gemma 3 sees every image at {pixels:,} pixels; set it to 0")
        return processor

    def expand_images(self, text: str, processed: dict[str, Tensor]) -> str:
        tokens = self.image_token * self.config.mm_tokens_per_image
        return text.replace(self.placeholder, f"\n\n<start_of_image>{tokens}<end_of_image>\n\n")

    def most_tokens(self, pixels: int) -> tuple[int, int]:
        vision: Any = self.config.vision_config
        return self.config.mm_tokens_per_image, (vision.image_size // vision.patch_size) ** 2

    def vision_features(self, model: Any, batch: PromptBatch) -> Tensor:
        pixels = batch.pixels["pixel_values"].to(model.dtype)
        return model.model.get_image_features(pixels).pooler_output.flatten(0, 1)

    def rotations(self, text: Any, hidden: Tensor, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        return {kind: text.rotary_emb(hidden, positions, kind) for kind in set(text.config.layer_types)}

    def prompt_masks(self, batch: PromptBatch, place: Tensor, real: Tensor, padded: bool) -> Masks:
        image = batch.input_ids == self.config.image_token_id
        first = image & ~nn.functional.pad(image, (1, 0))[:, :-1]  # an image's first token follows a token of text
        number = first.cumsum(1) * image  # (N, P): which image of the prompt, 0 for text
        together = (number.unsqueeze(2) == number.unsqueeze(1)) & image.unsqueeze(1)  # (N, P, P)
        return self.layer_masks(place, real, together)
