"""Decode a split greedily, label both sides, score: the same code for a base, a warm start and a trained policy.

S studies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.load import require_images
from mrg_grpo.data.prefetch import prefetch
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.clinical import clinical_statistics
from mrg_grpo.files import read_text, write_whole
from mrg_grpo.model.decoder import Sampler
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import decode, require_finite
from mrg_grpo.prompt import Completion, parse_completion, without_form


@dataclass
class Decoded:
    """Greedy completions of S studies."""

    studies: list[Study]
    generated: list[str]
    parsed: list[Completion]

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


@torch.no_grad()
def predict(policy: Policy, studies: list[Study], config: Config, progress: str = "") -> Decoded:
    """One greedy completion per study, each rank its share of them; a study without an image is refused."""
    require_images(studies)
    size, own = config.run.decode_batch, distributed.share(studies)
    batches = [own.items[i : i + size] for i in range(0, len(own.items), size)]
    texts: list[str] = []
    special: list[int] = []
    hidden = None if progress and distributed.is_first() else True
    encoded = prefetch(batches, policy.encoder.encode, workers=2, ahead=3)
    sampler = Sampler(policy)
    with tqdm(total=len(own.items), desc=progress, disable=hidden, leave=False) as bar:
        for prompts in encoded:
            prefix = policy.prefill(prompts.to(policy.device))
            rollout = decode(sampler, prefix, config.sampling.max_tokens)
            require_finite(policy, rollout)
            texts += rollout.texts
            special += rollout.special_counts()
            bar.update(len(prompts.studies))
    pairs = list(zip(texts, special))[: len(texts) - own.filler]
    pairs = [pair for part in distributed.all_gather(pairs) for pair in part]
    parsed = [parse_completion(text, config.prompt.think) for text, _ in pairs]
    parsed = [without_form(one) if count else one for one, (_, count) in zip(parsed, pairs)]
    return Decoded(studies, [text for text, _ in pairs], parsed)


def judge(predictions: Decoded, labeler, config: Config) -> Judged:
    """Label both sides and count. The think block is labelled too: its agreement with the report is a metric."""
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


def read_decoded(path: Path, studies: list[Study], think: bool) -> Decoded | None:
    """What `write_decoded` wrote of these very studies; None if that is not there, or was written without texts."""
    if not path.exists():
        return None
    try:
        records = [json.loads(line) for line in read_text(path).split("\n")[:-1]]
        texts = [record.get("generated") for record in records]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and --resume decodes these studies again") from error
    if [record.get("study_id") for record in records] != [study.id for study in studies] or None in texts:
        return None
    parsed = [parse_completion(text, think) for text in texts]
    hidden = [record.get("compliant") is False for record in records]  # special tokens, which the text does not show
    return Decoded(studies, texts, [without_form(one) if odd else one for one, odd in zip(parsed, hidden)])


def prediction_record(judged: Judged, i: int, config: Config) -> dict[str, Any]:
    """Study i as a line of predictions.jsonl."""
    study, completion = judged.predictions.studies[i], judged.predictions.parsed[i]
    texts = {
        "reference": study.report,
        "prediction": completion.report,
        "generated": judged.predictions.generated[i],
        "think": completion.think,
        "images": list(study.images),
    }
    return {
        "study_id": study.id,
        **banner(config),
        **(texts if config.run.keep_text else {}),
        "compliant": completion.compliant,
        "labels": judged.labels[i].tolist(),
        "reference_labels": judged.reference_labels[i].tolist(),
    }
