"""How like real reports the phantom's are: how often they name, deny, and say what no label stands for.

    python experiments/audits/rareness.py ../shared/data/iu_xray   # half a minute; a table of docs/results/built-in.md

Needs R2Gen's annotation.json and labels.jsonl (CheXbert's labels, by study id) of the real reports; of these train and
val alone are counted. A sentence is without a label if `phantom_reader` finds none: on real reports an estimate.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch

from experiments.audits import iu_baselines
from experiments.audits.attacks import sentences
from mrg_grpo import embedded
from mrg_grpo.data import load_studies
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.evaluation.clinical import clinical_statistics, metrics_from_sums
from mrg_grpo.labelers import load_labeler
from mrg_grpo.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

F1 = "f1_micro_13_uncertain_positive"


def described(reports: Sequence[str], labels: Sequence[Sequence[int]]) -> dict[str, float]:
    """Reports and their class ids (14 each) -> the column of the table."""
    parts = [sentence for report in reports for sentence in sentences(report)]
    bare = (read_labels(parts)[:, :13] == BLANK).all(1).tolist()
    counts = Counter(parts)
    return {
        "conditions positive or uncertain, of 13, per report": mean(
            sum(label in (POSITIVE, UNCERTAIN) for label in row[:13]) for row in labels
        ),
        "conditions denied, per report": mean(sum(label == NEGATIVE for label in row[:13]) for row in labels),
        "studies with one besides devices, %": 100
        * mean(any(label in (POSITIVE, UNCERTAIN) for label in row[:12]) for row in labels),
        "words in sentences without a label, %": 100
        * sum(len(part.split()) for part, none in zip(parts, bare) if none)
        / sum(len(part.split()) for part in parts),
        "words of a report": mean(len(report.split()) for report in reports),
        "sentences that occur once, %": 100 * sum(counts[part] == 1 for part in parts) / len(parts),
    }


def real(folder: Path) -> dict[str, float]:
    splits = iu_baselines.load(folder).values()
    reports = [report for texts, _ in splits for report in texts]
    return described(reports, [row for _, labels in splits for row in labels.tolist()])


def agreement(form: str) -> float:
    """Micro F1 of the embedded labeler against the generator's labels, test split."""
    studies = load_studies(form, "")["test"]
    labels = load_labeler(embedded.labeler_path()).label([study.report for study in studies])
    truth = torch.tensor([study.labels for study in studies])
    return float(metrics_from_sums(clinical_statistics(labels, truth).sum(0))[F1])


def main() -> None:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "labels.jsonl").is_file():
        sys.exit("usage: python experiments/audits/rareness.py FOLDER, which holds annotation.json and labels.jsonl")
    columns = {"IU X-Ray": real(Path(sys.argv[1]))}
    for form in ("phantom", "phantom_rare", "phantom_room"):
        studies = load_studies(form, "")["train"]
        columns[form] = described([study.report for study in studies], [study.labels for study in studies])
    print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name in columns["phantom"]:
        print(f"| {name} | " + " | ".join(f"{column[name]:.2f}" for column in columns.values()) + " |")
    print(
        "\nembedded labeler against the generator:",
        {form: round(agreement(form), 3) for form in columns if form != "IU X-Ray"},
    )


if __name__ == "__main__":
    main()
