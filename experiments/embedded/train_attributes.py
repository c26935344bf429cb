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
import math
import random
import time
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
from mrg_grpo.attributes import LEFT, RIGHT, Attributes, Said
from mrg_grpo.data.phantom.case import case_labels, sample_case
from mrg_grpo.data.phantom.text import report_attributes, write_report
from mrg_grpo.labelers import CheXbert
from mrg_grpo.labelers.attribute_reader import SIGNS, AttributeReader, ReaderSizes, over_tokens, save_reader, signs
from mrg_grpo.labels import POSITIVE

CLS, SEP, PAD, POSITIONS = 2, 3, 0, 512
PLACED: Makers = (
    *MAKERS,
    (partial(sided, ALL_SLOTS), 0.0, 0.40),
    (partial(device, ALL_SLOTS), 0.0, 0.06),
)


@dataclass(frozen=True)
class Recipe:
    """Schedule of one training."""

    seed: int = 0
    steps: int = 2000
    tokens: int = 1024
    """Tokens of one batch, padding included."""
    learning_rate: float = 1.5e-3
    warm_up: int = 100
    """Steps of linear warm-up; a cosine to zero follows."""
    token_weight: float = 10.0
    """Weight of a token's loss beside a report's; both are sums over the 67 signs."""
    phantom_share: float = 0.15
    """Share of reports written by the phantom data set's training templates."""


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
        rows.sort(key=lambda row: len(row[0]))
        chunks: list[list] = [[]]
        for row in rows:
            if chunks[-1] and (len(chunks[-1]) + 1) * len(row[0]) > tokens:
                chunks.append([])
            chunks[-1].append(row)
        rng.shuffle(chunks)
        yield from (collate(chunk) for chunk in chunks)


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


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate of step 1, 2, ... recipe.steps: linear warm-up, then a cosine that ends at zero."""
    return recipe.learning_rate * min(step / recipe.warm_up, 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))


def train(labeler: CheXbert, recipe: Recipe, keep: Callable[[AttributeReader], None]) -> AttributeReader:
    """Train a reader on a labeler's states; prints a line every 250 steps and gives what there is to `keep`, for an
    early look. Seed and thread count fix the result."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    reader = AttributeReader(ReaderSizes(inputs=2 * labeler.net.bert.config.hidden_size)).train()
    optimizer = torch.optim.AdamW(
        reader.parameters(), lr=recipe.learning_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    feed = batches(stream(recipe.seed + 2, recipe.phantom_share), labeler.tokenizer, recipe.tokens, rng)
    begin, seen, average = time.monotonic(), 0, 5.0
    for step in range(1, recipe.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        batch = next(feed)
        loss, report_loss = batch_loss(labeler, reader, batch, recipe.token_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        seen += len(batch.ids)
        average = 0.99 * average + 0.01 * float(report_loss)
        if step % 250 == 0:
            minutes, cpu = (time.monotonic() - begin) / 60, time.process_time() / 60
            print(
                f"step {step} of {recipe.steps}  reports {seen}  report loss {average:.4f}  "
                f"{minutes:.1f} min, {cpu:.1f} min of CPU",
                flush=True,
            )
            keep(reader)
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
