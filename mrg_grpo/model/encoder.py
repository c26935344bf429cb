"""Studies -> PromptBatch: chat text around image tokens, and the pictures as the image processor makes them.

N studies, P prompt tokens. A prompt with images is never truncated: cutting image tokens is the classic "image features
and image tokens do not match".
"""

from typing import Any

import torch
from torch import Tensor

from mrg_grpo.data.images import open_image
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.families.base import Family
from mrg_grpo.prompt import question


class PromptEncoder:
    """Studies -> PromptBatch, on the CPU; made for worker threads ahead of the step."""

    def __init__(self, tokenizer, image_processor, family: Family, text: str = "", think: bool = True) -> None:
        self.tokenizer, self.image_processor, self.family = tokenizer, image_processor, family
        self.question = question(text, think)
        special = {*getattr(family, "vision_tokens", ()), *special_tokens(tokenizer).values()}
        found = sorted(token for token in special if token in self.question)
        if found:
            raise UserError(f"prompt.text: must not hold {found[0]}; the chat template writes images and turns")

    def encode(self, studies: list[Study], filler: int = 0, keys: list[str] | None = None) -> PromptBatch:
        """keys: of the studies' random streams, where they are a share of a step."""
        texts, parts = [], []
        for study in studies:
            images = [open_image(path) for path in study.images]
            try:
                processed = self.process(images)
            except ValueError as error:  # such as an image a hundred times as high as wide
                raise UserError(
                    f"study {study.id}: {', '.join(study.images)}: the image processor refuses it ({error}); crop it, "
                    "or leave the study out"
                ) from error
            texts.append(self.family.expand_images(self.chat(len(study.images)), processed))
            parts.append(processed)
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        attention_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        names = {name for part in parts for name in part}
        pixels = {name: torch.cat([part[name] for part in parts if name in part]) for name in names}
        return PromptBatch(studies, input_ids, attention_mask, pixels, filler=filler, keys=keys or [])

    def process(self, images: list) -> dict[str, Tensor]:
        return dict(self.image_processor(images, return_tensors="pt")) if images else {}

    def chat(self, images: int) -> str:
        content = [{"type": "image"}] * images + [{"type": "text", "text": self.question}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """All tokens that are control and not text, by id: those that the tokenizer names, and those that it only marks, as
    Gemma's marks the turns."""
    marked = getattr(tokenizer, "added_tokens_decoder", {}).items()
    named = zip(getattr(tokenizer, "all_special_ids", ()), getattr(tokenizer, "all_special_tokens", ()))
    return {**dict(named), **{i: token.content for i, token in marked if token.special}}
