"""What is kept of a finished run of an ablation: every metric, every study's labels, and how it behaved on the way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrg_grpo.config import Config
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.evaluation.intervals import bootstrap
from mrg_grpo.evaluation.prediction_files import read_predictions
from mrg_grpo.evaluation.score import score_predictions
from mrg_grpo.labelers import config_labeler
from mrg_grpo.rewards.mccs import clinical_cosine

MARGIN = 0.2
"""Of the MCCS that every arm is judged by, whatever it was rewarded with."""
RESAMPLES = 10_000
POINTS = 20
"""Points of a curve over training."""
FEWER_POINTS = 10
"""Of what the few sampled groups that a run keeps say."""
VALIDATED = ("polarity_accuracy", "report_length", "clinical_cosine", "f1_micro_13_uncertain_positive")


def record_of(folder: Path, command: str, config: Config) -> dict[str, Any]:
    """A finished run folder -> the record, but for its name. command: "train", "sft" or "none"."""
    predictions = read_predictions([str(folder / "predictions.jsonl")])
    if config.run.test_studies:
        predictions.rows[config.run.test_studies :] = []  # `evaluate` decodes the whole split
    rows = predictions.rows
    labeler = config_labeler(config)
    scored, reference = score_predictions(predictions, labeler, margin=MARGIN)
    intervals = bootstrap(scored.statistics, scored.metric, RESAMPLES)
    steps = lines(folder / "metrics.jsonl")
    phantom = config.data.form.startswith("phantom")
    header = (folder / "config.toml").read_text(encoding="utf-8") if (folder / "config.toml").exists() else ""
    return {
        "commit": commit(),
        "versions": [line[2:] for line in header.splitlines() if line.startswith("# ")],
        "steps": len(steps),
        "seconds_in_steps": round(sum(step["seconds/step"] for step in steps), 1),
        "studies": [row.study_id for row in rows],
        "labels": packed(labeler.label([row.prediction for row in rows])),  # by the labeler of the references
        "reference_labels": packed(reference),
        **({"reader_labels": packed(read_labels([row.prediction for row in rows]))} if phantom else {}),
        "compliant": "".join(str(int(bool(row.compliant))) for row in rows),
        "words": [len(row.prediction.split()) for row in rows],
        "notes": scored.notes,
        "metrics": {
            name: [_finite(float(x)) for x in (i.value, i.low, i.high)] for name, i in sorted(intervals.items())
        },
        "behaviour": behaviour(folder, steps) if command != "none" else {},
    }


def commit() -> str:
    """Of this project's code, "-dirty" where files differ from it; "" where git does not know."""
    root = Path(__file__).resolve().parents[2]
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def validation_of(folder: Path, config: Config) -> dict[str, Any]:
    """What `evaluate --split val` wrote -> studies, and labels as `record_of` keeps them."""
    rows = read_predictions([str(folder / "predictions.jsonl")]).rows
    label = config_labeler(config).label
    return {
        "studies": [row.study_id for row in rows],
        "labels": packed(label([row.prediction for row in rows])),
        "reference_labels": packed(label([row.reference for row in rows])),
    }


def behaviour(folder: Path, steps: Sequence[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Curves over the run: name -> [[share of the run's steps, value], ...]. Sampled reports, then validation."""
    total = len(steps)
    curves: dict[str, list[list[float]]] = {}
    if total and "mentioned" in steps[0]:
        named = {
            "length": [step["length"] for step in steps],
            "mentioned": [step["mentioned"] for step in steps],
            "uncertain_share": [step["uncertain"] / max(step["mentioned"], 1e-9) for step in steps],
            "groups_without_spread": [step["groups_without_spread"] for step in steps],
        }
        curves = {name: thinned(values) for name, values in named.items()}
        sampled = lines(folder / "rollouts.jsonl")
        groups = {step: [r for r in sampled if r["step"] == step] for step in sorted({r["step"] for r in sampled})}
        curves["zero_reward"] = [[round(step / total, 4), round(zero_share(kept), 5)] for step, kept in groups.items()]
        curves["sampled_cosine"] = thinned([sampled_cosine(kept) for kept in groups.values()], FEWER_POINTS)
    for name in VALIDATED:
        curves[name] = [
            [round(line["step"] / total, 4), line[name]]
            for line in lines(folder / "validation.jsonl")
            if line.get(name) is not None
        ]
    return curves


def zero_share(groups: Sequence[dict[str, Any]]) -> float:
    """Share of sampled reports that every term but the format pays nothing."""
    samples = [sample["rewards"] for group in groups for sample in group["samples"]]
    nothing = [all(not value for name, value in rewards.items() if name != "format") for rewards in samples]
    return sum(nothing) / max(len(nothing), 1)


def sampled_cosine(groups: Sequence[dict[str, Any]]) -> float:
    """Mean clinical cosine of sampled reports, by the labels that the run recorded."""
    labels = [(sample["labels"], group["reference_labels"]) for group in groups for sample in group["samples"]]
    generated, reference = (torch.tensor(rows) for rows in zip(*labels))
    return float(clinical_cosine(generated, reference).mean())


def thinned(values: Sequence[float], most: int = POINTS) -> list[list[float]]:
    """Means of at most `most` equal stretches: [share of the way at the stretch's end, mean]."""
    count = min(most, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    return [
        [round(end / len(values), 4), round(sum(values[start:end]) / (end - start), 5)]
        for start, end in pairwise(edges)
    ]


def packed(labels: Tensor) -> str:
    """Class ids (S, 14) -> one word of 14 digits per study."""
    return " ".join("".join(map(str, row)) for row in labels.tolist())


def unpacked(text: str) -> Tensor:
    """The other way round, (S, 14)."""
    return torch.tensor([[int(digit) for digit in word] for word in text.split()]).reshape(-1, 14)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _finite(value: float) -> float | None:
    return round(value, 5) if value == value else None
