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
from mrg_grpo.data import Studies, describe_splits, load_studies
from mrg_grpo.data.credentialed import banner, mark
from mrg_grpo.data.images import prefetch
from mrg_grpo.data.records import first_names
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.clinical import clinical_statistics
from mrg_grpo.files import write_whole, writing
from mrg_grpo.labelers import labeler_name, load_labeler
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import decode
from mrg_grpo.prompt import Completion, parse_completion


@dataclass
class Predictions:
    """Greedy completions of S studies."""

    studies: list[Study]
    generated: list[str]
    parsed: list[Completion]

    @property
    def reports(self) -> list[str]:
        return [completion.report for completion in self.parsed]


@dataclass
class Judged:
    """Predictions with the labels of both sides, and per-study statistics that every metric is a function of."""

    predictions: Predictions
    labels: Tensor  # (S, 14) of the generated reports
    reference_labels: Tensor  # (S, 14)
    compliant: Tensor  # (S,) bool
    statistics: Tensor  # (S, K), see mrg_grpo.evaluation.clinical


@torch.no_grad()
def predict(policy: Policy, studies: list[Study], config: Config, progress: str = "") -> Predictions:
    """One greedy completion per study, each rank its share of them; a study without an image is refused."""
    require_images(studies)
    size, own = config.run.decode_batch, distributed.share(studies)
    batches = [own.items[i : i + size] for i in range(0, len(own.items), size)]
    texts: list[str] = []
    hidden = None if progress and distributed.is_first() else True
    encoded = prefetch(batches, policy.encoder.encode, workers=2, ahead=3)
    with (
        policy.merged(),
        tqdm(total=len(own.items), desc=progress, disable=hidden, leave=False) as bar,
    ):
        for prompts in encoded:
            prefix = policy.prefill(prompts.to(policy.device))
            texts += decode(policy, prefix, config.sampling.max_tokens).texts
            bar.update(len(prompts.studies))
    texts = [text for part in distributed.all_gather(texts[: len(texts) - own.spare]) for text in part]
    return Predictions(studies, texts, [parse_completion(text, config.prompt.think) for text in texts])


def judge(predictions: Predictions, labeler, config: Config) -> Judged:
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
def write_predictions(judged: Judged, path: Path, config: Config) -> None:
    """predictions.jsonl: one line per study, readable by `mrg-grpo score`."""
    records = (prediction_record(judged, i, config) for i in range(len(judged.labels)))
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_predictions(path: Path, studies: list[Study], think: bool) -> Predictions | None:
    """What `write_predictions` wrote of these very studies; None if that is not there, or was written without texts."""
    if not path.exists():
        return None
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        texts = [record.get("generated") for record in records]
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and --resume decodes these studies again") from error
    if [record.get("study_id") for record in records] != [study.id for study in studies] or None in texts:
        return None
    return Predictions(studies, texts, [parse_completion(text, think) for text in texts])


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


def require_images(studies: list[Study]) -> None:
    bare = [study.id for study in studies if not study.images]
    if bare:
        raise UserError(
            f"{len(bare)} of {len(studies)} studies have no image ({', '.join(bare[:10])}); "
            "add the images, or set data.allow_missing = true to leave such studies out; score needs no images"
        )


def load_splits(config: Config) -> Studies:
    """The configured studies by split name; prints the sizes beside the published ones, and the loader's notes."""
    studies = read_splits(config)
    print("\n".join(describe_splits(studies, config.data.form)))
    return studies


def read_splits(config: Config) -> Studies:
    """The configured studies by split name. With data.allow_missing those without an image file are left out, named:
    all who call this decode or train."""
    data = config.data
    views = int(data.views) if data.views.isdigit() else (None if data.views == "all" else data.views)
    studies = load_studies(
        data.form,
        data.root,
        sections=tuple(data.sections),
        views=views,
        allow_missing=data.allow_missing,
        split_file=data.split_file or None,
        keep_xxxx=data.keep_xxxx,
        incomplete=data.incomplete,
    )
    return with_images(studies, data.root) if data.allow_missing else studies


def with_images(studies: Studies, root: str) -> Studies:
    """Without the studies that have no image, and with a note that counts and names them; UserError where all go."""
    bare = [study.id for part in studies.values() for study in part if not study.images]
    if not bare:
        return studies
    kept = {split: [study for study in part if study.images] for split, part in studies.items()}
    if not any(kept.values()):
        raise UserError(f"data.root {root}: none of its {len(bare):,} studies has an image file; put the images there")
    note = (
        f"warning: {len(bare):,} studies have no image file and are left out (data.allow_missing): {first_names(bare)}"
    )
    return Studies(kept, [*studies.notes, note], studies.read)


def studies_of(splits: dict[str, list[Study]], split: str) -> list[Study]:
    if not splits.get(split):
        raise UserError(
            f'split "{split}" is not in the data; it has {", ".join(f"{k} ({len(v)})" for k, v in splits.items())}'
        )
    return splits[split]


def validation_studies(splits: dict[str, list[Study]], config: Config) -> list[Study]:
    """What a run decodes on its way; none where the data have no validation split."""
    return splits.get("val", [])[: config.run.eval_studies]


def test_studies(splits: dict[str, list[Study]], config: Config) -> list[Study]:
    """What a run decodes at its end, before and after."""
    studies = studies_of(splits, "test")
    return studies[: config.run.test_studies or len(studies)]


def evaluate_split(config: Config, adapter: str | None, split: str, output: Path) -> None:
    """`mrg-grpo evaluate`: decode, score, write predictions.jsonl and evaluation.json, print the table.

    UserError before any work if the split is not in the data, or the folder holds another evaluation.
    """
    from mrg_grpo.evaluation.score import evaluation_of

    what = {"adapter": adapter or config.model.adapter, "split": split}
    if distributed.is_first():
        refuse_other(output, what)
    splits = load_splits(config)
    studies = studies_of(splits, split)
    if distributed.is_first():
        with writing(output, "name another folder with -o"):  # before hours of decoding, not after
            output.mkdir(parents=True, exist_ok=True)
            mark(output, config)
    policy, labeler = Policy.load(config, adapter=adapter, trainable=False), config_labeler(config)
    judged = judge(predict(policy, studies, config, f"decode {split}"), labeler, config)
    write_predictions(judged, output / "predictions.jsonl", config)
    everyone = distributed.SharedLabeler(labeler)  # the training references, for the baselines
    margin, name = config.reward.mccs.margin, labeler_name(config.labeler.path)
    evaluation = evaluation_of(judged, splits.get("train"), everyone, margin=margin, labeled_by=name)
    if distributed.is_first():
        record = {**banner(config), **what, **evaluation.to_json()}
        write_whole(output / "evaluation.json", json.dumps(record, indent=1))
    print(evaluation.table())


def refuse_other(output: Path, what: dict[str, str]) -> None:
    """UserError if the folder holds the evaluation of another adapter or split: hours of decoding, not written over."""
    try:
        before = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
        before = {name: before[name] for name in what}
    except (OSError, ValueError, KeyError, TypeError):  # none there, or none of ours
        return
    if {name: Path(value).resolve() for name, value in before.items()} != {
        name: Path(value).resolve() for name, value in what.items()
    }:  # one adapter may be named in two ways
        policy = f"adapter {before['adapter']}" if before["adapter"] else "the base"
        raise UserError(f"{output}: holds the evaluation of {policy} on {before['split']}; name another folder with -o")


def config_labeler(config: Config):
    return load_labeler(config.labeler.path, config.labeler.tokenizer, config.model.resolved_device())


def report_images(config: Config, adapter: str | None, groups: list[list[str]], as_json: bool) -> None:
    """`mrg-grpo report`: one report per group of images, to standard output."""
    policy = Policy.load(config, adapter=adapter, trainable=False)
    studies = [Study(Path(images[0]).stem, tuple(images), "", "own") for images in groups]
    predictions = predict(policy, studies, config)
    for study, text, completion in zip(studies, predictions.generated, predictions.parsed):
        if as_json:
            record = {"images": list(study.images), "report": completion.report, "think": completion.think,
                      "compliant": completion.compliant, "generated": text}  # fmt: skip
            print(json.dumps(record, ensure_ascii=False))
        else:
            head = f"{', '.join(study.images)}:\n" if len(groups) > 1 else ""
            print(f"{head}{completion.report}")
