"""Score a labeler on reports it has never seen: real ones against CheXbert and people, and held-out phantom ones.

    python experiments/audits/labeler_scores.py [--labeler FOLDER] [--shared FOLDER] [--out FILE]

(a) the 2,365 real IU X-Ray training and validation reports against CheXbert's own labels of them;
(b) the findings and impression of IU X-Ray against the MeSH terms that people gave them (mesh_to_chexpert.toml);
(c) the four sample reports of CheXbert's repository;
(d) 1,000 phantom test reports written with phrase templates held out of the labeler's training;
(e) real denials turned around: "No effusion" -> "Effusion" must be a finding, "Possible effusion" a doubt.
The 590 test ids of annotation.json are left out of (a) and (b). F1 of positives in (a) counts uncertain as positive.
"""

import argparse
import csv
import json
import re
import time
import tomllib
from pathlib import Path

import torch
from torch import Tensor

from experiments.audits import attacks
from mrg_grpo.data.phantom.case import case_labels, sample_case
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.data.phantom.text import write_report
from mrg_grpo.labelers import CheXbert, embedded_labeler, read_label_csv
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN
from mrg_grpo.rewards.mccs import clinical_cosine

CLASS_OF_VALUE = {None: BLANK, 1: POSITIVE, 0: NEGATIVE, -1: UNCERTAIN}
MESH_MAP = Path(__file__).with_name("mesh_to_chexpert.toml")


def f1(predicted: Tensor, truth: Tensor) -> float:
    """F1 of two boolean tensors of one shape, over all their entries; 0 where nothing is predicted nor true."""
    hits = (predicted & truth).sum().item()
    return 2 * hits / max(predicted.sum().item() + truth.sum().item(), 1)


def claimed(labels: Tensor) -> Tensor:
    """Class ids -> positive or uncertain."""
    return (labels == POSITIVE) | (labels == UNCERTAIN)


def compare(predicted: Tensor, truth: Tensor) -> dict:
    """Class ids (R, 14) twice -> micro F1 over 13 conditions, mean cosine, and F1 and counts by condition."""
    a, b = predicted[:, :13], truth[:, :13]
    by_condition = {
        name: {
            "positive_f1": f1(claimed(predicted[:, i]), claimed(truth[:, i])),
            "positive_n": int(claimed(truth[:, i]).sum()),
            "negative_f1": f1(predicted[:, i] == NEGATIVE, truth[:, i] == NEGATIVE),
            "negative_n": int((truth[:, i] == NEGATIVE).sum()),
        }
        for i, name in enumerate(CONDITIONS)
    }
    return {
        "reports": len(truth),
        "positive_micro_f1": f1(claimed(a), claimed(b)),
        "negative_micro_f1": f1(a == NEGATIVE, b == NEGATIVE),
        "mean_cosine": clinical_cosine(predicted, truth).mean().item(),
        "by_condition": by_condition,
    }


def iu_records(shared: Path) -> tuple[list[str], dict[str, Tensor]]:
    """Reports of IU's training and validation splits, and the labels (R, 14) of CheXbert and of the rule labeler."""
    folder = shared / "data" / "iu_xray"
    annotation = json.loads((folder / "annotation.json").read_text())
    text = {row["id"]: row["report"] for split in ("train", "val") for row in annotation[split]}
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["id"] in text]
    unread = dict.fromkeys(CONDITIONS)  # the rule labeler left some reports without labels
    labels = {
        kind: torch.tensor([[CLASS_OF_VALUE[(row[kind] or unread)[name]] for name in CONDITIONS] for row in rows])
        for kind in ("chexbert", "chexpert_labeler")
    }
    return [text[row["id"]] for row in rows], labels


def mesh_match(term: str, entry: str) -> bool:
    """Whether a MeSH term such as "Opacity/lung/base/left" falls under an entry of the mapping file."""
    return f"{term}/".startswith(f"{entry}/")


def mesh_rows(shared: Path) -> list[tuple[str, list[str]]]:
    """Findings and impression outside the test split, each with the MeSH terms that people gave it."""
    folder = shared / "data" / "iu_xray"
    annotation = json.loads((folder / "annotation.json").read_text())
    tests = {match.group(1) for row in annotation["test"] if (match := re.match(r"CXR(\d+)_", row["id"]))}
    rows = []
    with (folder / "indiana_reports.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            report = f"{row['findings']} {row['impression']}".strip()
            terms = [term.strip() for term in row["MeSH"].split(";")]
            if row["uid"] not in tests and report and "No Indexing" not in terms:
                rows.append((report, terms))
    return rows


def mesh_records(shared: Path) -> tuple[list[str], Tensor, list[int]]:
    """Findings and impression outside the test split, whether people tagged each condition (R, 12), and which 12."""
    rows, mapping = mesh_rows(shared), tomllib.loads(MESH_MAP.read_text())
    covered = [index for index, name in enumerate(CONDITIONS) if name in mapping]
    truth = [
        [any(mesh_match(term, entry) for term in terms for entry in mapping[CONDITIONS[i]]) for i in covered]
        for _, terms in rows
    ]
    return [report for report, _ in rows], torch.tensor(truth), covered


def mesh_scores(labeler: CheXbert, shared: Path) -> dict:
    """(b): micro F1 over the 12 conditions MeSH covers, with and without what the labeler finds uncertain.

    People index what they see: a "stable heart size" or "pneumonia cannot be excluded", uncertain to CheXbert, is not.
    """
    reports, truth, covered = mesh_records(shared)
    labels = labeler.label(reports)[:, covered]
    predicted = labels == POSITIVE
    return {
        "reports": len(reports),
        "micro_f1": f1(predicted, truth),
        "micro_f1_with_uncertain": f1(claimed(labels), truth),
        "by_condition": {
            CONDITIONS[c]: {"f1": f1(predicted[:, i], truth[:, i]), "n": int(truth[:, i].sum())}
            for i, c in enumerate(covered)
        },
    }


def phantom_scores(labeler: CheXbert, templates: str = "heldout", count: int = 1000) -> dict:
    """(d): F1 of every condition and class with ten or more cases, and their mean."""
    cases = [sample_case("test", index) for index in range(count)]
    predicted = labeler.label([write_report(case, templates=templates) for case in cases])
    truth = torch.tensor([case_labels(case) for case in cases])
    names = {POSITIVE: "positive", NEGATIVE: "negative", UNCERTAIN: "uncertain"}
    scores = {
        f"{condition} {name}": f1(predicted[:, i] == value, truth[:, i] == value)
        for i, condition in enumerate(CONDITIONS)
        for value, name in names.items()
        if (truth[:, i] == value).sum() >= 10
    }
    return {"reports": count, "mean_f1": sum(scores.values()) / len(scores), "by_class": scores}


def sample_scores(labeler: CheXbert, shared: Path) -> dict:
    """(c): how many of CheXbert's own four sample reports come out as CheXbert labelled them."""
    reports, truth = read_label_csv(shared / "data" / "chexbert" / "labeled_reports.csv")
    return {"reports": len(reports), "right": int((labeler.label(reports) == truth).all(dim=1).sum())}


def turned_scores(labeler: CheXbert, shared: Path) -> dict:
    """(e): denials of the reports of (a) with the negation taken out, and with "Possible" put in its place.

    Reports: the share of CheXbert's denials that are then read as findings (positive or uncertain), where the
    phantom's own reader sees the denial turn into a statement. Sentences: the same for every different sentence that
    labeler and reader find to deny, once turned into a statement and once into a doubt.
    """
    reports, labels = iu_records(shared)
    truth = labels["chexbert"][:, :13]
    turned = [attacks.without_negation(report) for report in reports]
    flipped = (truth == NEGATIVE) & turns(reports, turned, POSITIVE)
    found = claimed(labeler.label(turned)[:, :13])
    single = sorted({sentence for report in reports for sentence in attacks.sentences(report)})
    single = [sentence for sentence in single if attacks.without_negation(sentence) != sentence]
    denied = labeler.label(single)[:, :13] == NEGATIVE
    stated = [attacks.without_negation(sentence) for sentence in single]
    doubted = [hedged(sentence) for sentence in stated]
    states, doubts = turns(single, stated, POSITIVE) & denied, turns(single, doubted, UNCERTAIN) & denied
    return {
        "reports": {"denials": int(flipped.sum()), "read_as_findings": share(found, flipped)},
        "sentences": {
            "denials": int(states.sum()),
            "read_as_findings": share(claimed(labeler.label(stated)[:, :13]), states),
            "hedged": int(doubts.sum()),
            "read_as_uncertain": share(labeler.label(doubted)[:, :13] == UNCERTAIN, doubts),
        },
    }


def turns(before: list[str], after: list[str], value: int) -> Tensor:
    """(R, 13) bool: where the phantom's reader sees a denial become `value`."""
    return (read_labels(before)[:, :13] == NEGATIVE) & (read_labels(after)[:, :13] == value)


def hedged(sentence: str) -> str:
    """ "There is a pneumothorax." -> "Possible pneumothorax." """
    rest = re.sub(r"^there (?:is|are) (?:an? )?|^evidence of ", "", sentence, flags=re.IGNORECASE)
    return f"Possible {rest[:1].lower()}{rest[1:]}"


def share(hits: Tensor, of: Tensor) -> float:
    """The share of the true entries of `of` where `hits` is true."""
    return hits[of].double().mean().item()


def all_scores(labeler: CheXbert, shared: Path) -> dict:
    """Everything, with the rule labeler's agreement with CheXbert beside ours."""
    reports, labels = iu_records(shared)
    begin = time.perf_counter()
    predicted = labeler.label(reports)
    seconds = time.perf_counter() - begin
    return {
        "iu_against_chexbert": compare(predicted, labels["chexbert"]),
        "rule_labeler_against_chexbert": compare(labels["chexpert_labeler"], labels["chexbert"]),
        "iu_against_mesh": mesh_scores(labeler, shared),
        "chexbert_samples": sample_scores(labeler, shared),
        "phantom_heldout": phantom_scores(labeler),
        "turned_denials": turned_scores(labeler, shared),
        "reports_per_second": {"value": len(reports) / seconds, "threads": torch.get_num_threads()},
    }


def rounded(value):
    """Floats to four places, so that the recorded file differs only where a result does."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labeler", type=Path, default=None, help="folder or chexbert.pth; default the embedded one")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    labeler = embedded_labeler() if arguments.labeler is None else CheXbert.load(arguments.labeler)
    scores = rounded(all_scores(labeler, arguments.shared))
    iu, rule, mesh = scores["iu_against_chexbert"], scores["rule_labeler_against_chexbert"], scores["iu_against_mesh"]
    print(f"{'condition':28} {'CheXbert +':>14} {'CheXbert -':>14} {'MeSH':>14} {'rule +':>8} {'rule -':>8}")
    for name in CONDITIONS:
        own, other, human = iu["by_condition"][name], rule["by_condition"][name], mesh["by_condition"].get(name)
        print(
            f"{name:28} {own['positive_f1']:8.3f} {own['positive_n']:5d} "
            f"{own['negative_f1']:8.3f} {own['negative_n']:5d} "
            + (f"{human['f1']:8.3f} {human['n']:5d}" if human else " " * 14)
            + f" {other['positive_f1']:8.3f} {other['negative_f1']:8.3f}"
        )
    for title, part in (("ours", iu), ("rule labeler", rule)):
        print(
            f"(a) {title}: positive {part['positive_micro_f1']:.4f}, negative {part['negative_micro_f1']:.4f}, "
            f"cosine {part['mean_cosine']:.4f}"
        )
    print(
        f"(b) MeSH micro F1 {mesh['micro_f1']:.4f}, with uncertain as positive {mesh['micro_f1_with_uncertain']:.4f}, "
        f"on {mesh['reports']} reports"
    )
    print(f"(c) {scores['chexbert_samples']['right']} of {scores['chexbert_samples']['reports']} CheXbert samples")
    print(f"(d) phantom held-out mean F1 {scores['phantom_heldout']['mean_f1']:.4f}")
    weak = {name: value for name, value in scores["phantom_heldout"]["by_class"].items() if value < 0.97}
    print(f"    below 0.97: {weak}")
    turned, sentences = scores["turned_denials"]["reports"], scores["turned_denials"]["sentences"]
    print(
        f"(e) denials turned: findings in {turned['read_as_findings']:.4f} of {turned['denials']} in whole reports, "
        f"{sentences['read_as_findings']:.4f} of {sentences['denials']} in single sentences; "
        f'behind "possible" uncertain in {sentences["read_as_uncertain"]:.4f} of {sentences["hedged"]}'
    )
    if arguments.out:
        arguments.out.write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
