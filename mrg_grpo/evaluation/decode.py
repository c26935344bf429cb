"""Decode a split greedily, label both sides, score: the same code for a base, a warm start and a trained policy.

S studies, those that can be shown: one of which a picture cannot be read is left out, and is in `Decoded.unread`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.load import require_images
from mrg_grpo.data.records import first_names
from mrg_grpo.data.study import Study
from mrg_grpo.errors import ImageError, UserError
from mrg_grpo.evaluation.clinical import clinical_statistics
from mrg_grpo.files import read_text, write_whole
from mrg_grpo.model.encoder import load_prompts
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import decode, require_finite
from mrg_grpo.model.sampler import Sampler
from mrg_grpo.prompt import Completion, parse_completion, without_form
from mrg_grpo.terminal import time_left

PLAIN_SECONDS = 60.0
"""Between two lines of a decoding that is logged to a file."""


@dataclass
class Decoded:
    """Greedy completions of S studies."""

    studies: list[Study]
    generated: list[str]
    parsed: list[Completion]
    unread: dict[str, ImageError] = field(default_factory=dict)
    """Studies that were to be decoded and could not be shown: id -> why."""

    @property
    def reports(self) -> list[str]:
        return [completion.report for completion in self.parsed]


@dataclass
class Judged:
    """Decoded with the labels of both sides, and per-study statistics that every metric is a function of."""

    predictions: Decoded
    labels: Tensor  # (S, 14) of the generated reports
    reference_labels: Tensor  # (S, 14)
    compliant: Tensor  # (S,) bool
    statistics: Tensor  # (S, K), see mrg_grpo.evaluation.clinical

    def only(self, ids: set[str]) -> Judged:
        """Of these studies alone."""
        whole = self.predictions
        rows = [i for i, study in enumerate(whole.studies) if study.id in ids]
        if len(rows) == len(whole.studies):
            return self
        studies, generated = [whole.studies[i] for i in rows], [whole.generated[i] for i in rows]
        few = Decoded(studies, generated, [whole.parsed[i] for i in rows], whole.unread)
        tensors = (self.labels, self.reference_labels, self.compliant, self.statistics)
        return Judged(few, *(tensor[rows] for tensor in tensors))


@torch.no_grad()
def predict(policy: Policy, studies: list[Study], config: Config, progress: str = "") -> Decoded:
    """One greedy completion for each study that can be shown, shared among the ranks; a study that lists no image is
    refused."""
    require_images(studies)
    size = config.run.decode_batch * distributed.world_size()
    groups = [studies[i : i + size] for i in range(0, len(studies), size)]
    own: list[list[tuple[str, int]]] = []  # of each group this rank's texts, with their special tokens
    unread: dict[str, ImageError] = {}
    hidden = None if progress and distributed.is_first() else True
    sampler, done = Sampler(policy), 0
    log = PlainLog(progress, len(studies)) if progress and distributed.is_first() else lambda done: None
    with tqdm(total=len(studies), desc=progress, disable=hidden, leave=False) as bar:
        for group, loaded in zip(groups, load_prompts(policy.encoder, groups, config.data.workers, 3)):
            unread |= loaded.unread
            own.append([])
            if loaded.prompts:
                prefix = policy.prefill(loaded.prompts.to(policy.device))
                rollout = decode(sampler, prefix, config.sampling.max_tokens)
                require_finite(policy, rollout)
                counted = len(rollout.texts) - loaded.prompts.filler
                own[-1] = list(zip(rollout.texts, rollout.special_counts()))[:counted]
            bar.update(len(group))
            done += len(group)
            log(done)
    pairs = [pair for parts in zip(*distributed.all_gather(own)) for part in parts for pair in part]
    parsed = [parse_completion(text, config.prompt.think) for text, _ in pairs]
    parsed = [without_form(one) if count else one for one, (_, count) in zip(parsed, pairs)]
    shown = [study for study in studies if study.id not in unread]
    return Decoded(shown, [text for text, _ in pairs], parsed, unread)


def require_shown(decoded: Decoded) -> None:
    """UserError where no study could be shown, so that there is nothing to judge."""
    if decoded.unread and not decoded.studies:
        first = next(iter(decoded.unread.values()))
        count = len(decoded.unread)
        raise first if count == 1 else UserError(f"none of {count} studies can be shown: {first}")


@distributed.first_only
def tell_unread(decoded: Decoded) -> None:
    """One line on what was left out, where anything was."""
    if decoded.unread:
        count, names = len(decoded.unread), first_names(list(decoded.unread))
        first = next(iter(decoded.unread.values())).what
        print(
            f"left out {count:,} of {count + len(decoded.studies):,} studies, whose pictures cannot be read: {names} "
            f"({first})",
            file=sys.stderr,
        )


class PlainLog:
    """Now and then a line on standard error of how far it is, where that is no terminal and so has no bar."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.began = name, total, time.monotonic()
        self.said = self.began

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self.said >= PLAIN_SECONDS and done < self.total and not sys.stderr.isatty():
            self.said = now
            print(f"{self.name}: {done}/{self.total}  {time_left(now - self.began, done, self.total)}", file=sys.stderr)


def judge(predictions: Decoded, labeler, config: Config) -> Judged:
    """Label both sides and count. The think block is labelled too: its agreement with the report is a metric.

    UserError where no study could be shown.
    """
    require_shown(predictions)
    labels = distributed.map_shares(labeler.label, predictions.reports)
    reference = distributed.map_shares(labeler.label, [study.report for study in predictions.studies])
    thoughts = [completion.think for completion in predictions.parsed]
    compliant = torch.tensor([completion.compliant for completion in predictions.parsed])
    statistics = clinical_statistics(
        labels,
        reference,
        margin=config.reward.mccs.margin,
        think=distributed.map_shares(labeler.label, thoughts),
        has_think=torch.tensor([bool(thought) for thought in thoughts]),
        compliant=compliant,
        words=torch.tensor([len(report.split()) for report in predictions.reports]),
    )
    return Judged(predictions, labels, reference, compliant, statistics)


@distributed.first_only
def write_decoded(judged: Judged, path: Path, config: Config) -> None:
    """predictions.jsonl: one line per study, readable by `mrg-grpo score`."""
    records = (prediction_record(judged, i, config) for i in range(len(judged.labels)))
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_decoded(
    path: Path, studies: list[Study], think: bool, failure: Callable[[Study], ImageError | None]
) -> Decoded | None:
    """What `write_decoded` wrote of these very studies, but for those that cannot be shown; None if that is not there,
    or was written without texts. failure: why a study cannot be shown."""
    if not path.exists():
        return None
    try:
        records = [json.loads(line) for line in read_text(path).split("\n")[:-1]]
        texts = [record.get("generated") for record in records]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and --resume decodes these studies again") from error
    ids = [str(record.get("study_id")) for record in records]
    known, unread = set(ids), dict[str, ImageError]()
    shown = [study for study in studies if study.id in known]
    if not shown or ids != [study.id for study in shown] or None in texts:
        return None
    for study in studies:
        if study.id not in known:
            why = failure(study)
            if why is None:
                return None
            unread[study.id] = why
    parsed = [parse_completion(text, think) for text in texts]
    hidden = [record.get("compliant") is False for record in records]  # special tokens, which the text does not show
    parsed = [without_form(one) if odd else one for one, odd in zip(parsed, hidden)]
    return Decoded(shown, texts, parsed, unread)


def prediction_record(judged: Judged, i: int, config: Config) -> dict[str, Any]:
    """Study i as a line of predictions.jsonl."""
    study, completion = judged.predictions.studies[i], judged.predictions.parsed[i]
    texts = {
        "reference": study.report,
        "prediction": completion.report,
        "generated": judged.predictions.generated[i],
        "think": completion.think,
        "images": list(study.images),
        **study.known(config.prompt.context),
    }
    return {
        "study_id": study.id,
        **banner(config),
        **(texts if config.run.keep_text else {}),
        "compliant": completion.compliant,
        "labels": judged.labels[i].tolist(),
        "reference_labels": judged.reference_labels[i].tolist(),
    }
