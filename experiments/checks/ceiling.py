"""What a perfect writer could say of what the embedded tower sees: the ceiling of micro F1 on a data set.

    python -m experiments.checks.ceiling      # about ten minutes

A linear probe of the frozen tower learns from the training references which of the 13 conditions a report states
(positive or uncertain). Its thresholds, one for each condition, are those of the best micro F1 on the validation split.
The ceiling is the micro F1 on the test split of reports that state what the probe finds, read without an error.

S studies, T image tokens of width D.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.docs.sections import markdown_table, rewrite
from mrg_grpo.config import load_config
from mrg_grpo.data.phantom import dataset as phantom
from mrg_grpo.data.study import Study
from mrg_grpo.files import write_whole
from mrg_grpo.labels import CONDITIONS, POSITIVE, UNCERTAIN
from mrg_grpo.model.policy import Policy

CONFIG, FORMS = "experiments/phantom.toml", ("phantom", "phantom_rare", "phantom_room")
RESULTS, PAGE = Path(__file__).parents[1] / "results/ceiling.json", Path("docs/results/built-in.md")
EPOCHS, BATCH, RATE, DECAY = 40, 256, 3e-3, 0.01


class Probe(nn.Module):
    """Image tokens (S, T, D) -> logits (S, 13): evidence of single tokens (a soft maximum) and of their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local, self.mean = nn.Linear(width, 13), nn.Linear(width, 13)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.logsumexp(self.local(tokens), dim=1) - math.log(tokens.shape[1]) + self.mean(tokens.mean(dim=1))


def findings(studies: list[Study]) -> Tensor:
    """(S, 13) bool: what the references state."""
    labels = torch.tensor([study.labels for study in studies])[:, :13]
    return (labels == POSITIVE) | (labels == UNCERTAIN)


@torch.no_grad()
def tower_tokens(policy, studies: list[Study], batch: int = 50) -> Tensor:
    """(S, T, D): all pictures of a phantom have one size."""
    parts = []
    for first in range(0, len(studies), batch):
        prompts = policy.encoder.encode(studies[first : first + batch])
        features = policy.family.vision_features(policy.base, prompts)
        parts.append(features.view(len(prompts.studies), -1, features.shape[-1]))
    return torch.cat(parts)


def fit(tokens: Tensor, targets: Tensor) -> Probe:
    """The probe of tokens (S, T, D), each dimension scaled to unit variance, and targets (S, 13)."""
    torch.manual_seed(0)
    probe = Probe(tokens.shape[-1])
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * math.ceil(len(tokens) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(tokens)).split(BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(probe(tokens[rows]), targets[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return probe


def f1(predicted: Tensor, stated: Tensor) -> float:
    """Micro F1 of (S, 13) bool x (S, 13) bool."""
    return float(2 * (predicted & stated).sum() / (predicted.sum() + stated.sum()).clamp(min=1))


def best_thresholds(scores: Tensor, stated: Tensor, rounds: int = 3) -> Tensor:
    """(13,) thresholds of scores (S, 13) with the best micro F1: one condition after the other, all others held."""
    thresholds = torch.zeros(13)
    for _ in range(rounds):
        for i in range(13):
            tried = [*scores[:, i].quantile(torch.linspace(0.5, 1.0, 101)).tolist(), float("inf")]
            values = []
            for one in tried:
                own = thresholds.clone()
                own[i] = one
                values.append(f1(scores > own, stated))
            thresholds[i] = tried[max(range(len(tried)), key=values.__getitem__)]
    return thresholds


def ceiling(form: str, sizes: dict[str, int] | None = None) -> dict:
    """{"f1": micro F1, "by_condition": {name: F1}} on the test split."""
    config = load_config(CONFIG, [f"data.form={form}"])
    policy = Policy.load(config, trainable=False)
    splits = phantom.load(sizes=sizes, form=form)
    tokens = {split: tower_tokens(policy, studies) for split, studies in splits.items()}
    middle, spread = tokens["train"].mean(dim=(0, 1)), tokens["train"].std(dim=(0, 1)).clamp(min=1e-6)
    tokens = {split: (x - middle) / spread for split, x in tokens.items()}
    probe = fit(tokens["train"], findings(splits["train"]))
    with torch.no_grad():
        scores = {split: probe(tokens[split]) for split in ("val", "test")}
    stated = findings(splits["test"])
    predicted = scores["test"] > best_thresholds(scores["val"], findings(splits["val"]))
    by_condition = {name: round(f1(predicted[:, i], stated[:, i]), 3) for i, name in enumerate(CONDITIONS[:13])}
    return {"f1": round(f1(predicted, stated), 3), "by_condition": by_condition}


def markdown(found: dict) -> str:
    """Micro F1 and the F1 of each condition, a column for each data set."""
    kept = found["forms"]
    rows = [("all, micro F1", *(f"{kept[form]['f1']:.3f}" for form in kept))]
    rows += [(name, *(f"{kept[form]['by_condition'][name]:.2f}" for form in kept)) for name in CONDITIONS[:13]]
    return markdown_table(("condition", *(f"`{form}`" for form in kept)), rows)


def redraw() -> None:
    """The table of the page, from the record."""
    rewrite(PAGE, {"ceiling": markdown(json.loads(RESULTS.read_text(encoding="utf-8")))})


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    found = {"command": "python -m experiments.checks.ceiling", "forms": {form: ceiling(form) for form in FORMS}}
    write_whole(RESULTS, json.dumps(found, indent=1) + "\n")
    redraw()


if __name__ == "__main__":
    main()
