"""Train the embedded labeler: a small CheXbert on radiology language that the project writes itself.

    python -m experiments.embedded.train_labeler --out mrg_grpo/embedded/labeler

Deliberate choices:
1. No real report and no model's label takes part: every report is written by `language` (a share of them by the
   phantom's training templates) together with its labels. The stream never repeats.
2. Besides [CLS], every token is trained to predict the labels of its own sentence, by the same heads. A report gives
   one [CLS] loss and some fifty token losses, so a small model learns in minutes what [CLS] alone teaches in hours.
3. Positions are shifted at random in part of the batches, so that late positions are trained by short reports.
4. bfloat16 autocast in training, fp16 in the file, fp32 in use. Measured on one core with AVX512-BF16, in tokens per
   second of CPU time: autocast with eager attention 9,100, with torch's fused attention 5,500 (slow backwards), fp32
   5,300 with either. Writing, tokenising and packing the reports takes 9% of the time: not worth a second process.
   Batches of 1,024 tokens run at 7,300 and learn more all the same: a report loss of 0.39 after 2.0 minutes of CPU,
   where batches of 2,048 stand at 0.43 after 2.3.
5. The schedule counts steps, not minutes: a busy machine takes longer and ends with the same network.
"""

import argparse
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedTokenizerFast

from experiments.embedded.language.compose import Report, compose
from mrg_grpo.data.phantom.case import case_labels, sample_case
from mrg_grpo.data.phantom.text import write_report
from mrg_grpo.labelers.chexbert import CheXbert, CheXbertNet

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, CLS, SEP = 0, 2, 3
IGNORE = -100
POSITIONS = 512


@dataclass(frozen=True)
class Schedule:
    """Schedule of one training."""

    seed: int = 0
    steps: int = 8500
    tokens: int = 1024
    """Tokens of one batch, padding included."""
    learning_rate: float = 1e-3
    warm_up: int = 250
    """Steps of linear warm-up; a cosine to zero follows."""
    token_weight: float = 1.0
    """Weight of the mean token loss beside the mean [CLS] loss."""
    phantom_share: float = 0.15
    """Share of reports written by the phantom data set's training templates."""
    first_loss: float = 1.0
    """Where the printed average of the report loss begins."""


@dataclass(frozen=True)
class Recipe(Schedule):
    """Sizes and schedule of the labeler's training."""

    hidden: int = 192
    layers: int = 4
    heads: int = 6
    vocabulary: int = 4000


@dataclass(frozen=True)
class Batch:
    """Token ids, mask and positions (B, T); labels of reports (B, 14); labels of each token's sentence (B, T, 13)."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor
    token_labels: Tensor


def stream(seed: int, phantom_share: float) -> Iterator[Report]:
    """Reports without end; the same seed gives the same reports."""
    rng = random.Random(seed)
    phantoms = phantom_reports(rng.randrange(2**31)) if phantom_share > 0 else None
    while True:
        if phantoms is not None and rng.random() < phantom_share:
            yield next(phantoms)
        else:
            yield compose(rng)


def phantom_reports(seed: int) -> Iterator[Report]:
    """Phantom reports by their training templates, of a split of their own; which sentence says what is not known."""
    for index in itertools.count():
        case = sample_case("labeler", index, seed)
        yield Report((write_report(case, templates="train"),), (), case_labels(case))


def make_tokenizer(size: int, seed: int, phantom_share: float) -> PreTrainedTokenizerFast:
    """A lower-case WordPiece vocabulary of the written language; letters and digits are always in it."""
    reports = itertools.islice(stream(seed + 1, phantom_share), 60_000)
    core = Tokenizer(WordPiece(unk_token="[UNK]"))
    core.normalizer = BertNormalizer(lowercase=True)
    core.pre_tokenizer = BertPreTokenizer()
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789.,;:-/()%'\"?!&+<>=#*")
    trainer = WordPieceTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, min_frequency=3, show_progress=False
    )
    core.train_from_iterator(("".join(report.sentences) for report in reports), trainer)
    vocabulary = core.get_vocab()
    for letter in alphabet:  # the trainer adds continuation letters only where it met them
        if f"##{letter}" not in vocabulary:
            vocabulary[f"##{letter}"] = len(vocabulary)
    core = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = BertNormalizer(lowercase=True)
    core.pre_tokenizer = BertPreTokenizer()
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=POSITIONS,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def batches(
    reports: Iterator[Report], tokenizer: PreTrainedTokenizerFast, tokens: int, rng: random.Random
) -> Iterator[Batch]:
    """Batches of similar length within a budget of tokens, from pools of 1,024 reports."""
    while True:
        pool = list(itertools.islice(reports, 1024))
        sentences = [sentence for report in pool for sentence in report.sentences]
        ids = iter(tokenizer(sentences, add_special_tokens=False)["input_ids"])
        rows = [encode(report, [next(ids) for _ in report.sentences]) for report in pool]
        yield from (collate(chunk, rng) for chunk in by_length(rows, tokens, rng))


def by_length(rows: list, tokens: int, rng: random.Random) -> list[list]:
    """Rows that begin with token ids -> chunks of similar length within a budget of tokens, shuffled."""
    rows.sort(key=lambda row: len(row[0]))
    chunks: list[list] = [[]]
    for row in rows:
        if chunks[-1] and (len(chunks[-1]) + 1) * len(row[0]) > tokens:
            chunks.append([])
        chunks[-1].append(row)
    rng.shuffle(chunks)
    return chunks


def encode(report: Report, ids: list[list[int]]) -> tuple[list[int], tuple[int, ...], list[tuple[int, ...] | None]]:
    """A report and the token ids of its sentences -> ids, report labels, and the labels of each token's sentence."""
    flat = [CLS]
    owners: list[tuple[int, ...] | None] = [None]
    for index, sentence in enumerate(ids):
        flat += sentence
        owners += [report.sentence_labels[index] if report.sentence_labels else None] * len(sentence)
    flat, owners = flat[: POSITIONS - 1], owners[: POSITIONS - 1]
    return [*flat, SEP], report.labels, [*owners, None]


def collate(rows: list, rng: random.Random) -> Batch:
    """Encoded reports -> one padded batch; a quarter of the batches sits at shifted positions."""
    longest = max(len(ids) for ids, _, _ in rows)
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row, _, _ in rows])  # (B, T)
    empty = (IGNORE,) * 13
    token_labels = torch.tensor(
        [
            [empty if owner is None else owner for owner in owners] + [empty] * (longest - len(owners))
            for *_, owners in rows
        ]
    )  # (B, T, 13)
    shift = rng.randint(0, POSITIONS - longest) if rng.random() < 0.25 else 0
    positions = torch.arange(longest) + shift
    positions[0] = 0  # [CLS] always sits at the front
    return Batch(
        ids, (ids != PAD).long(), positions.expand(len(rows), -1), torch.tensor([row[1] for row in rows]), token_labels
    )


def batch_loss(net: CheXbertNet, batch: Batch, token_weight: float) -> tuple[Tensor, Tensor]:
    """Mean cross entropy over the 14 heads at [CLS] plus token_weight times that over 13 heads at the tokens."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = net.bert(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions
        ).last_hidden_state  # (B, T, hidden)
    hidden = net.dropout(hidden.float())
    heads: list[Any] = list(net.linear_heads)
    report = torch.stack(
        [F.cross_entropy(head(hidden[:, 0]), batch.labels[:, index]) for index, head in enumerate(heads)]
    ).mean()
    own = batch.token_labels[..., 0] != IGNORE  # (B, T)
    if not own.any():
        return report, report.detach()
    weight = torch.cat([head.weight for head in heads[:13]])  # (52, hidden)
    bias = torch.cat([head.bias for head in heads[:13]])
    logits = F.linear(hidden[own], weight, bias).unflatten(-1, (13, 4))  # (tokens, 13, 4)
    tokens = F.cross_entropy(logits.flatten(0, 1), batch.token_labels[own].flatten())
    return report + token_weight * tokens, report.detach()


def rate_at(step: int, recipe: Schedule) -> float:
    """Learning rate of step 1, 2, ... recipe.steps: linear warm-up, then a cosine that ends at zero."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.learning_rate * min(step / recipe.warm_up, cosine)


def fit(
    net: nn.Module,
    feed: Iterator[Any],
    loss_of: Callable[[Any], tuple[Tensor, Tensor]],
    schedule: Schedule,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Train on batches; loss_of gives the loss and the part of it that whole reports make. Every 250 steps a line is
    printed and `keep` called."""
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=schedule.learning_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    begin, seen, average = time.monotonic(), 0, schedule.first_loss
    for step in range(1, schedule.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, schedule)
        batch = next(feed)
        loss, report_loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        seen += len(batch.ids)
        average = 0.99 * average + 0.01 * float(report_loss)
        if step % 250 == 0:
            minutes, cpu = (time.monotonic() - begin) / 60, time.process_time() / 60
            print(
                f"step {step} of {schedule.steps}  reports {seen}  report loss {average:.4f}  "
                f"{minutes:.1f} min, {cpu:.1f} min of CPU",
                flush=True,
            )
            keep()


def train(recipe: Recipe) -> CheXbert:
    """Train one labeler from nothing; prints a line every 250 steps. Seed and thread count fix the result."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    tokenizer = make_tokenizer(recipe.vocabulary, recipe.seed, recipe.phantom_share)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, intermediate_size=4 * recipe.hidden, max_position_embeddings=POSITIONS,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    net = CheXbertNet(config)
    net.bert.set_attn_implementation("eager")
    net.train()
    feed = batches(stream(recipe.seed + 2, recipe.phantom_share), tokenizer, recipe.tokens, rng)
    fit(net, feed, lambda batch: batch_loss(net, batch, recipe.token_weight), recipe)
    return CheXbert(net, tokenizer)


def main() -> None:
    """The command line of the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(seed=arguments.seed, steps=arguments.steps, learning_rate=arguments.learning_rate)
    train(recipe).save(arguments.out)
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"wrote {arguments.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
