"""Studies -> PromptBatch: chat text around image tokens, and the pictures as the image processor makes them.

N studies, P prompt tokens. A prompt with images is never truncated: cutting image tokens is the classic "image features
and image tokens do not match".

A study of which a picture cannot be shown is left out of the group that it stands in, a step's or a batch's, and
`load_prompts` says which and why. The ranks agree on it before they share out what is left, so a group is the same on
any number of them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.data.images import open_image
from mrg_grpo.data.prefetch import prefetch
from mrg_grpo.data.study import Study
from mrg_grpo.errors import ImageError, UserError
from mrg_grpo.model.batch import PromptBatch, stream_keys
from mrg_grpo.model.families.base import Family
from mrg_grpo.prompt import context_line, question


class StudyError(ImageError):
    """A study that cannot be shown."""

    def __init__(self, study: Study, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.study = study


@dataclass
class Loaded:
    """A group of studies as prompts."""

    prompts: PromptBatch | None
    """This rank's share; None where no study of the group can be shown."""
    unread: dict[str, ImageError]
    """Of the whole group: study id -> why it was left out."""


class PromptEncoder:
    """Studies -> PromptBatch, on the CPU; made for worker threads ahead of the step."""

    def __init__(
        self,
        tokenizer,
        image_processor,
        family: Family,
        text: str = "",
        think: bool = True,
        context: Collection[str] = (),
    ) -> None:
        """text, think, context: as in [prompt]."""
        self.tokenizer, self.image_processor, self.family = tokenizer, image_processor, family
        self.question, self.context = question(text, think), frozenset(context)
        marks = {getattr(family, "placeholder", ""), *getattr(family, "vision_tokens", ())}
        self.special = sorted(token for token in {*marks, *special_tokens(tokenizer).values()} if token.strip())
        found = [token for token in self.special if token in self.question]
        if found:
            raise UserError(f"prompt.text: must not hold {found[0]}; the chat template writes images and turns")

    def encode(self, studies: list[Study], filler: int = 0, keys: list[str] | None = None) -> PromptBatch:
        """keys: of the studies' random streams, where they are a share of a step. Raises StudyError for the first study
        that cannot be shown."""
        texts, parts = [], []
        for study in studies:
            try:
                processed = self.process([open_image(path) for path in self.images(study)])
            except ImageError as error:
                raise StudyError(study, error.what, error.remedy) from error
            except ValueError as error:  # such as an image a hundred times as high as wide
                what = f"study {study.id}: {', '.join(study.images)}: the image processor refuses it ({error})"
                raise StudyError(study, what, "crop it, or leave the study out") from error
            texts.append(self.family.expand_images(self.chat(len(self.images(study)), self.ask(study)), processed))
            parts.append(processed)
        ids = [self.ids(text) for text in texts]
        width = max(len(row) for row in ids)
        pad = self.tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
        attention_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        names = sorted({name for part in parts for name in part})
        pixels = {name: torch.cat([part[name] for part in parts if name in part]) for name in names}
        rows = {name: [len(part[name]) if name in part else 0 for part in parts] for name in names}
        rows["features"] = [row.count(self.family.config.image_token_id) for row in ids]
        prompts = PromptBatch(studies, input_ids, attention_mask, pixels, filler=filler, keys=keys or [], rows=rows)
        self.family.locate(prompts)
        return prompts

    def failure(self, study: Study) -> StudyError | None:
        """Why a study cannot be shown."""
        try:
            self.encode([study])
        except StudyError as error:
            return error
        return None

    def process(self, images: list) -> dict[str, Tensor]:
        return dict(self.image_processor(images, return_tensors="pt")) if images else {}

    def ids(self, text: str) -> list[int]:
        """Tokens of chat text. Where the template does not write the beginning of sequence, as LLaVA's, the tokenizer
        puts its own in front, if it has one; transformers' processors do the same."""
        begins = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        return self.tokenizer(text, add_special_tokens=not begins)["input_ids"]

    def images(self, study: Study) -> tuple[str, ...]:
        """What the policy is shown: the study's images, then those of the study before it where they are asked for."""
        return study.images + (study.context.prior_images if "prior_images" in self.context else ())

    def ask(self, study: Study) -> str:
        """The user's turn for this study: what is known of it, and the question.

        What the data set says is text: a special token in it is taken apart, and opens no turn and no image.
        """
        known = context_line(vars(study.context), self.context, len(study.images))
        for token in self.special if known else ():
            known = known.replace(token, f"{token[0]} {token[1:]}")
        return known + self.question

    def chat(self, images: int, ask: str = "") -> str:
        content = [{"type": "image"}] * images + [{"type": "text", "text": ask or self.question}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )


def load_prompts(
    encoder: PromptEncoder, groups: Iterable[list[Study]], workers: int = 2, ahead: int = 4
) -> Iterator[Loaded]:
    """Each group's studies that can be shown, shared among the ranks; threads work `ahead` groups early.

    Every rank must come to each group: in front of it they tell each other which studies have failed.
    """

    def attempt(studies: list[Study]) -> tuple[list[Study], PromptBatch | StudyError]:
        own, keys = distributed.share(studies), distributed.share(stream_keys([study.id for study in studies]))
        try:
            return studies, encoder.encode(own.items, own.filler, keys.items)
        except StudyError as error:
            return studies, error

    for studies, found in prefetch(groups, attempt, workers, ahead):
        unread: dict[str, ImageError] = {}
        while failed := _failed_anywhere(found):
            unread |= failed
            studies = [study for study in studies if study.id not in unread]
            if not studies:
                break
            _, found = attempt(studies)
        yield Loaded(None if isinstance(found, StudyError) else found, unread)


def load_own(encoder: PromptEncoder, studies: list[Study]) -> Loaded:
    """Those of this rank's own studies that can be shown; no other rank is asked."""
    unread: dict[str, ImageError] = {}
    while studies := [study for study in studies if study.id not in unread]:
        try:
            return Loaded(encoder.encode(studies), unread)
        except StudyError as error:
            unread[error.study.id] = error
    return Loaded(None, unread)


def _failed_anywhere(found: PromptBatch | StudyError) -> dict[str, ImageError]:
    """Studies, by id, at which a rank's share has failed."""
    return unread_anywhere({found.study.id: found} if isinstance(found, StudyError) else {})


def unread_anywhere(own: Mapping[str, ImageError]) -> dict[str, ImageError]:
    """What each rank could not show, on every rank: study id -> why."""
    parts = distributed.all_gather({study: (error.what, error.remedy) for study, error in own.items()})
    return {study: ImageError(*why) for part in parts for study, why in part.items()}


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """All tokens that are control and not text, by id: those that the tokenizer names, and those that it only marks, as
    Gemma's marks the turns."""
    marked = getattr(tokenizer, "added_tokens_decoder", {}).items()
    named = zip(getattr(tokenizer, "all_special_ids", ()), getattr(tokenizer, "all_special_tokens", ()))
    return {**dict(named), **{i: token.content for i, token in marked if token.special}}
