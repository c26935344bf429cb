"""Train the embedded labeler's reader of attributes: sides, sizes and malpositions, from the project's own language.

    python -m experiments.embedded.train_attributes --labeler mrg_grpo/embedded/labeler

Deliberate choices:
1. The trunk and the 14 heads are frozen: the labels stay what they are, and one training takes a quarter of an hour.
2. No real report takes part. Every report is written by `language`, with the words that say its sides and sizes, or by
   the phantom's training templates, with the sides and sizes that they state. The stream never repeats.
3. Each token learns whether it says a side or a size, and of which condition; each report learns the largest of its
   tokens. The first teaches in minutes, the second is what is used.
4. bfloat16 autocast in training, fp16 in the file, fp32 in use. The schedule counts steps, not minutes.
"""

import argparse
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.embedded.language.compose import ALL_SLOTS, MAKERS, Makers, compose
from experiments.embedded.language.grammar import Mark
from experiments.embedded.language.placed import device, sided
from experiments.embedded.train_labeler import CLS, PAD, POSITIONS, SEP, Schedule, by_length, fit
from mrg_grpo.attributes import LEFT, RIGHT, Attributes, Said
from mrg_grpo.data.phantom.case import case_labels, sample_case
from mrg_grpo.data.phantom.text import report_attributes, write_report
from mrg_grpo.labelers import CheXbert
from mrg_grpo.labelers.attribute_reader import SIGNS, AttributeReader, ReaderSizes, over_tokens, save_reader, signs
from mrg_grpo.labels import POSITIVE

PLACED: Makers = (
    *MAKERS,
    (partial(sided, ALL_SLOTS), 0.0, 0.40),
    (partial(device, ALL_SLOTS), 0.0, 0.06),
)


@dataclass(frozen=True)
class Recipe(Schedule):
    """Schedule of the reader's training; token_weight is that of sums over the 67 signs."""

    steps: int = 2000
    learning_rate: float = 1.5e-3
    warm_up: int = 100
    token_weight: float = 10.0
    first_loss: float = 5.0


@dataclass(frozen=True)
class Lesson:
    """One report: its sentences, its 14 labels, its attributes, and the words that say them (None: not known)."""

    sentences: tuple[str, ...]
    labels: tuple[int, ...]
    said: Said
    marks: tuple[tuple[Mark, ...], ...] | None


@dataclass(frozen=True)
class Batch:
    """Token ids and mask (B, T); signs of reports (B, 67) and of tokens (B, T, 67); whose tokens are known (B,)."""

    ids: Tensor
    mask: Tensor
    signs: Tensor
    token_signs: Tensor
    known: Tensor


def stream(seed: int, phantom_share: float) -> Iterator[Lesson]:
    """Reports without end; the same seed gives the same reports."""
    rng = random.Random(seed)
    phantoms = phantom_lessons(rng.randrange(2**31))
    while True:
        if rng.random() < phantom_share:
            yield next(phantoms)
        else:
            report = compose(rng, PLACED if rng.random() < 0.7 else MAKERS)
            yield Lesson(report.sentences, report.labels, report.said, report.marks)


def phantom_lessons(seed: int) -> Iterator[Lesson]:
    """Phantom reports by their training templates, of a split of their own."""
    for index in itertools.count():
        case = sample_case("labeler", index, seed)
        yield Lesson((write_report(case, "train"),), case_labels(case), report_attributes(case, "train"), None)


def mark_signs(mark: Mark) -> list[int]:
    """The signs, of 67, that a mark stands for."""
    if mark.kind == "malposition":
        return [65 if mark.value == POSITIVE else 66]
    if mark.kind == "size":
        return [26 + 3 * index + mark.value - 1 for index in mark.conditions]
    bits = [bit for bit, side in enumerate((LEFT, RIGHT)) if mark.value & side]
    return [2 * index + bit for index in mark.conditions for bit in bits]


def batches(lessons: Iterator[Lesson], tokenizer, tokens: int, rng: random.Random) -> Iterator[Batch]:
    """Batches of similar length within a budget of tokens, from pools of 1,024 reports."""
    while True:
        pool = list(itertools.islice(lessons, 1024))
        sentences = [sentence for lesson in pool for sentence in lesson.sentences]
        encoded = tokenizer(sentences, add_special_tokens=False, return_offsets_mapping=True)
        parts = iter(zip(encoded["input_ids"], encoded["offset_mapping"]))
        rows = [encode(lesson, [next(parts) for _ in lesson.sentences]) for lesson in pool]
        yield from (collate(chunk) for chunk in by_length(rows, tokens, rng))


def encode(lesson: Lesson, parts: list) -> tuple[list[int], list[tuple[int, int]], Lesson]:
    """A report, ids and offsets of its sentences -> ids, (token, sign) of each sign that a token says, the report."""
    ids, spoken = [CLS], []
    for sentence, (own, offsets) in enumerate(parts):
        for mark in lesson.marks[sentence] if lesson.marks else ():
            for place, (start, end) in enumerate(offsets):
                if start < mark.end and end > mark.start:
                    spoken += [(len(ids) + place, sign) for sign in mark_signs(mark)]
        ids += own
    ids = ids[: POSITIONS - 1]
    return [*ids, SEP], [(token, sign) for token, sign in spoken if token < len(ids)], lesson


def collate(rows: list) -> Batch:
    """Encoded reports -> one padded batch."""
    longest = max(len(ids) for ids, _, _ in rows)
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row, _, _ in rows])  # (B, T)
    token_signs = torch.zeros(*ids.shape, SIGNS)
    for index, (_, spoken, _) in enumerate(rows):
        if spoken:
            tokens, own = zip(*spoken)
            token_signs[index, list(tokens), list(own)] = 1.0
    said = Attributes.of([lesson.said for *_, lesson in rows])
    known = torch.tensor([lesson.marks is not None for *_, lesson in rows])
    return Batch(ids, (ids != PAD).long(), signs(said).float(), token_signs, known)


def batch_loss(labeler: CheXbert, reader: AttributeReader, batch: Batch, token_weight: float) -> tuple[Tensor, Tensor]:
    """(the loss, the part of it that whole reports make)"""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            states = labeler.net.states(batch.ids, batch.mask)  # (B, T, inputs)
        logits = reader(states, batch.mask).float()  # (B, T, 67)
    report = F.binary_cross_entropy_with_logits(over_tokens(logits, batch.mask), batch.signs, reduction="none")
    report = report.sum(-1).mean()
    own = batch.mask.bool() & batch.known[:, None]  # (B, T)
    if not own.any():
        return report, report.detach()
    tokens = F.binary_cross_entropy_with_logits(logits[own], batch.token_signs[own], reduction="none").sum(-1).mean()
    return report + token_weight * tokens, report.detach()


def train(labeler: CheXbert, recipe: Recipe, keep: Callable[[AttributeReader], None]) -> AttributeReader:
    """Train a reader on a labeler's states; prints a line every 250 steps and gives what there is to `keep`, for an
    early look. Seed and thread count fix the result."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    reader = AttributeReader(ReaderSizes(inputs=2 * labeler.net.bert.config.hidden_size)).train()
    feed = batches(stream(recipe.seed + 2, recipe.phantom_share), labeler.tokenizer, recipe.tokens, rng)
    fit(
        reader, feed, lambda batch: batch_loss(labeler, reader, batch, recipe.token_weight), recipe,
        keep=lambda: keep(reader),
    )  # fmt: skip
    return reader.eval()


def main() -> None:
    """The command line of the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labeler", type=Path, required=True, help="folder with the trunk")
    parser.add_argument("--out", type=Path, default=None, help="folder to write the reader into; default the labeler's")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(seed=arguments.seed, steps=arguments.steps, learning_rate=arguments.learning_rate)
    out = arguments.out or arguments.labeler
    out.mkdir(parents=True, exist_ok=True)
    save_reader(train(CheXbert.load(arguments.labeler), recipe, lambda reader: save_reader(reader, out)), out)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"wrote {out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
