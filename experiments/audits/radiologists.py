"""How rewards rank reports as radiologists do: docs/results/radiologists.md.

    python -m experiments.audits.radiologists RATINGS.jsonl [--rankings CASES.jsonl] [--labeler chexbert.pth]

RATINGS.jsonl: a study a line, with "id", "reference" and "candidates", each with "report" and "ratings", a number of
each radiologist, higher better. CASES.jsonl: "id", "category", "reference", "candidates" by name and "expected", such
as "C1 > C2" or "C1 = C2" or a list of these. The measures are defined in mrg_grpo/evaluation/ratings.py.

**What was expected**, written before any member of the family (mrg_grpo/rewards/clinical.py) was measured. `clinical`
should win on both measures: d = 0.3, c = 1, u = 1, two normal reports equal, with the gate. Radiologists count findings
that are missed and findings that are invented; a denial that is missing is no error to them, so denials must weigh
little: CE-F1, which leaves them out, leads over CCS in tau-b. They must weigh something, since they break the ties of
CE-F1 inside a study. To deny what is there is the error that hurts a patient, so it must cost more than silence. The
gate moves no rank: it is there for training. "Uncertain" is expected to matter little, since few reports say it.
Every member that was tried stands in MEMBERS.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.ratings import rankings, spearman, tau_b
from mrg_grpo.labelers import load_labeler
from mrg_grpo.rewards.ce_f1 import ce_f1
from mrg_grpo.rewards.clinical import agreement
from mrg_grpo.rewards.external import ExternalReward
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, unsigned_cosine
from mrg_grpo.rewards.nlg import bleu, rouge_l

Reward = Callable[[Tensor, Tensor], Tensor]
"""Class ids (..., 14) of the report and of the reference -> (...,)."""

REWARDS: dict[str, Reward] = {
    "mccs 0.6": lambda g, r: mccs(g, r, 0.6),
    "mccs 0.2": lambda g, r: mccs(g, r, 0.2),
    "ccs": clinical_cosine,
    "unsigned_cosine": unsigned_cosine,
    "ce_f1": ce_f1,
}


def member(**options: float | bool) -> Reward:
    return lambda g, r: agreement(g, r, **options)  # type: ignore[arg-type]


MEMBERS: dict[str, Reward] = {
    "denial 0": member(denial=0.0),
    "denial 0.1": member(denial=0.1),
    "denial 0.2": member(denial=0.2),
    "denial 0.3": member(denial=0.3),
    "denial 0.5": member(denial=0.5),
    "contradiction 1, denial 0.3": member(denial=0.3, contradiction=1.0),
    "contradiction 0.5, denial 0.3": member(denial=0.3, contradiction=0.5),
    "normal": member(normal=True),
    "uncertain 0.5": member(uncertain=0.5),
    "normal, denial 0.3": member(denial=0.3, normal=True),
    "clinical": member(denial=0.3, contradiction=1.0, normal=True),
}


@dataclass
class Rated:
    """S reports with their references, mean ratings (S,), ratings by radiologist (S, R), and their studies."""

    reports: list[str]
    references: list[str]
    ratings: Tensor
    by_rater: Tensor
    cases: list[str]


def read_rated(path: Path) -> Rated:
    """UserError for a file that is none of these."""
    try:
        studies = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [(study["id"], study["reference"], one) for study in studies for one in study["candidates"]]
        by_rater = torch.tensor([[float(x) for x in one["ratings"]] for _, _, one in rows], dtype=torch.float64)
        reports = [str(one["report"]) for _, _, one in rows]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: {error}; a study a line, with id, reference and candidates with ratings") from error
    cases = [str(case) for case, _, _ in rows]
    return Rated(reports, [reference for _, reference, _ in rows], by_rater.mean(dim=1), by_rater, cases)


def scored(rated: Rated, labeler, metrics: list[str]) -> dict[str, Tensor]:
    """name -> (S,) of every reward, member and metric."""
    generated, reference = labeler.label(rated.reports), labeler.label(rated.references)
    found = {name: reward(generated, reference).double() for name, reward in {**REWARDS, **MEMBERS}.items()}
    found |= {"bleu": bleu(rated.reports, rated.references), "rouge_l": rouge_l(rated.reports, rated.references)}
    for name in metrics:
        values, present = ExternalReward(name)(
            rated.reports, prompts=[""] * len(rated.reports), reports=rated.reports, reference=rated.references,
            study_id=rated.cases, labels=generated.tolist(), reference_labels=reference.tolist(),
        )  # fmt: skip
        found[name] = values.masked_fill(~present, 0.0)
    return {name: values.double().cpu() for name, values in found.items()}


def ceiling(rated: Rated) -> dict[str, float]:
    """Agreement of one radiologist with another: smallest and largest tau-b, and Spearman."""
    raters = rated.by_rater.unbind(dim=1)
    pairs = [(a, b) for i, a in enumerate(raters) for b in raters[i + 1 :]]
    taus, rhos = [tau_b(a, b) for a, b in pairs], [spearman(a, b) for a, b in pairs]
    return {"tau_b": min(taus), "tau_b to": max(taus), "spearman": min(rhos), "spearman to": max(rhos)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--rankings", type=Path)
    parser.add_argument("--labeler", default="")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--metric", action="append", default=[])
    given = parser.parse_args()
    rated = read_rated(given.ratings)
    labeler = load_labeler(given.labeler, given.tokenizer)
    found, _ = rankings(scored(rated, labeler, given.metric), rated.ratings, rated.cases)
    print(ceiling(rated))
    for name, ranking in found.items():
        print(f"{name:32s} {ranking.tau_b!s:24s} {ranking.spearman!s:24s} {ranking.pairs!s:24s} {ranking.ties:.2f}")


if __name__ == "__main__":
    main()
