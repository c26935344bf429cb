"""What a CE-F1 on IU X-Ray means: four systems that never look at an image, on the real reports.

    python experiments/audits/iu_baselines.py ../shared/data/iu_xray --docs docs/results/baselines.md

Fit on the training split (2,069 reports), scored on the validation split (296), with CheXbert's own labels
(labels.jsonl) and with a labeler's (default: the embedded one). The test split is never read. Also: the constant label
set {No Finding} on both splits, whose micro F1 over 14 labels is the share of normal studies in disguise.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from experiments.docs import sections
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.baselines import NO_FINDING, baselines_from_labels
from mrg_grpo.evaluation.clinical import clinical_metrics, clinical_statistics
from mrg_grpo.evaluation.intervals import bootstrap
from mrg_grpo.evaluation.score import score_labels
from mrg_grpo.evaluation.summary import HEADLINE, RESAMPLES
from mrg_grpo.evaluation.table import Number, format_table
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN

CLASS_OF_VALUE = {None: BLANK, 1: POSITIVE, 0: NEGATIVE, -1: UNCERTAIN}
SECTION = "iu_baselines"
RESULTS = Path("experiments/results/iu_baselines.json")
PAGE = Path("docs/results/baselines.md")
Split = tuple[list[str], Tensor]
"""Reports and their class ids (S, 14)."""

SHOWN = (
    *HEADLINE,
    "clinical_cosine",
    "mccs",
    "bleu_4",
    "meteor",
    "rouge_l",
    "cider",
)


def load(folder: Path) -> dict[str, Split]:
    """Split -> its reports and CheXbert's labels (S, 14); train and val alone."""
    annotation = json.loads((folder / "annotation.json").read_text(encoding="utf-8"))
    lines = (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    labels = {record["id"]: record["chexbert"] for record in map(json.loads, lines)}
    splits = {}
    for split in ("train", "val"):
        studies = annotation[split]
        rows = [[CLASS_OF_VALUE[labels[study["id"]][name]] for name in CONDITIONS] for study in studies]
        splits[split] = ([study["report"] for study in studies], torch.tensor(rows))
    return splits


def score(
    train: tuple[list[str], Tensor], val: tuple[list[str], Tensor], language: str
) -> dict[str, dict[str, Number]]:
    """Each baseline, fitted on train, on val: every metric with its interval."""
    table = {}
    for name, baseline in baselines_from_labels(*train, val[1]).items():
        words = torch.tensor([float(len(report.split())) for report in baseline.reports])
        statistics = clinical_statistics(baseline.labels, val[1], words=words)
        scored = score_labels([], statistics, baseline.reports, val[0], language)
        intervals = bootstrap(scored.statistics, scored.metric, RESAMPLES)
        table[name] = {key: Number(i.value.item(), i.low.item(), i.high.item()) for key, i in intervals.items()}
    return table


def constant(reference: Tensor) -> dict[str, float]:
    """Micro F1 over 14 labels of {No Finding} for every study, and the share of studies that are labelled so."""
    labels = torch.zeros_like(reference)
    labels[:, NO_FINDING] = POSITIVE
    metrics = clinical_metrics(labels, reference)
    return {
        "uncertain_positive": metrics["f1_micro_14_uncertain_positive"],
        "uncertain_negative": metrics["f1_micro_14_uncertain_negative"],
        "no_finding": (reference[:, NO_FINDING] == POSITIVE).double().mean().item(),
    }


def markdown(results: dict) -> str:
    """The tables of docs/results/baselines.md."""
    lines = []
    for judge, result in results["labels"].items():
        names = list(result["baselines"])
        lines += [f"Labels: {judge}.", "", f"| validation | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for metric in SHOWN:
            cells = [result["baselines"][name].get(metric) for name in names]
            if None not in cells:
                text = " | ".join(f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in cells)
                lines.append(f"| `{metric}` | {text} |")
        constants = ", ".join(
            f"{split} {values['uncertain_positive']:.3f} and {values['uncertain_negative']:.3f}"
            for split, values in result["constant_no_finding"].items()
        )
        lines += [
            "",
            f"{{No Finding}} for every study, micro F1 over 14 (uncertain positive, negative): {constants}.",
            "",
        ]
    return "\n".join(lines)


def redraw() -> None:
    """The tables from the stored results."""
    sections.rewrite(PAGE, {SECTION: markdown(json.loads(RESULTS.read_text(encoding="utf-8")))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="annotation.json (R2Gen form) and labels.jsonl")
    parser.add_argument("--labeler", default="", help="chexbert.pth or a folder; default is the embedded labeler")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--no-labeler", action="store_true", help="CheXbert's own labels alone")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, help="write the tables into this page, between its two markers")
    arguments = parser.parse_args()
    splits = load(arguments.folder)
    judges = {"chexbert": splits}
    if not arguments.no_labeler:
        from mrg_grpo.labelers import load_labeler

        labeler = load_labeler(arguments.labeler, arguments.tokenizer, torch.device("cpu"))
        name = "embedded" if not arguments.labeler else Path(arguments.labeler).name
        judges[name] = {split: (texts, labeler.label(texts).cpu()) for split, (texts, _) in splits.items()}
    results: dict = {
        "command": "python experiments/audits/iu_baselines.py ../shared/data/iu_xray --docs docs/results/baselines.md",
        "labels": {},
    }
    for name, judged in judges.items():
        language = "r2gen" if name == "chexbert" else "none"  # texts chosen by other labels, but one table is enough
        table = score(judged["train"], judged["val"], language)
        constants = {split: constant(labels) for split, (_, labels) in judged.items()}
        results["labels"][name] = {
            "constant_no_finding": constants,
            "baselines": {
                key: {metric: number.to_json() for metric, number in row.items()} for key, row in table.items()
            },
        }
        shown = [metric for metric in SHOWN if metric in next(iter(table.values()))]
        rows = [(metric, *(row[metric] for row in table.values())) for metric in shown]
        print(format_table(("validation, 296 studies", *table), rows, f"labels: {name}"))
        for split, values in constants.items():
            print(f"{{No Finding}} on {split}: " + ", ".join(f"{k} {v:.3f}" for k, v in values.items()))
        print()
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.docs:
        sections.rewrite(arguments.docs, {SECTION: markdown(results)})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"{error}") from None
