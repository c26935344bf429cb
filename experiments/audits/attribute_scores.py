"""Score the labeler's sides and sizes on reports it has never seen.

    python -m experiments.audits.attribute_scores [--labeler FOLDER] [--shared FOLDER] [--out FILE] [--docs PAGE]

(a) 1,000 phantom test reports in phrases held out of training, against what they state;
(b) 1,000 new reports of the grammar it learned from: new reports, but no new phrases;
(c) the findings and impression of IU X-Ray against the sides and sizes of the MeSH terms that people gave them
    (mesh_attributes.toml, written before any score was seen). The 590 test ids are left out.

(a) and (b) count every condition that a report states or doubts, so one that the labeler overlooks is an error, and
"none" is an answer. (c) counts where people and the labeler both name one: people leave a side out that a report names.
"""

import argparse
import itertools
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from experiments.audits import attribute_page
from experiments.audits.labeler_scores import MESH_MAP, mesh_match, mesh_rows, rounded
from experiments.embedded.train_attributes import stream
from mrg_grpo.attributes import LEFT, NOTHING, RIGHT, SIDES, SIZES, Attributes
from mrg_grpo.data.phantom.case import sample_case
from mrg_grpo.data.phantom.text import report_attributes, write_report
from mrg_grpo.evaluation.intervals import bootstrap
from mrg_grpo.labelers import CheXbert, embedded_labeler
from mrg_grpo.labels import CONDITIONS, POSITIVE, UNCERTAIN

ATTRIBUTE_MAP = Path(__file__).with_name("mesh_attributes.toml")
NEW_SEED = 20_001
"""Of the grammar's reports in (b); training begins at another."""
RESAMPLES = 1000
NO_SIDE_OF = {"Enlarged Cardiomediastinum", "Cardiomegaly"}


def accuracy(read: Tensor, truth: Tensor, counted: Tensor) -> dict:
    """Ids (R, C) twice, and which to count (R, C) bool -> accuracy with its interval over reports, and its number."""
    right = ((read == truth) & counted).sum(dim=1)
    rows = torch.stack([right, counted.sum(dim=1)], dim=1).double()  # (R, 2)
    interval = bootstrap(rows, lambda sums: {"accuracy": sums[..., 0] / sums[..., 1]}, RESAMPLES)["accuracy"]
    return {
        "n": int(counted.sum()), "accuracy": interval.value.item(), "low": interval.low.item(),
        "high": interval.high.item(),
    }  # fmt: skip


def confusion(read: Tensor, truth: Tensor, counted: Tensor) -> list[list[int]]:
    """Rows: what is true, columns: what was read, ids 0 to 3."""
    return (truth[counted] * 4 + read[counted]).bincount(minlength=16).reshape(4, 4).tolist()


def against_written(labeler: CheXbert, reports: list[str], truth: Attributes, stated: Tensor) -> dict:
    """(a), (b): all conditions that the reports state or doubt (R, 13), and those of them that have one."""
    read = labeler.attributes(reports)
    scores: dict = {"reports": len(reports)}
    for kind in ("side", "size"):
        own, true = getattr(read, kind), getattr(truth, kind)
        scores[kind] = accuracy(own, true, stated)
        scores[kind]["where_one_is_said"] = accuracy(own, true, stated & (true > 0))
        scores[kind]["confusion"] = confusion(own, true, stated)
    devices = truth.malposition > 0
    if devices.any():
        scores["malposition"] = accuracy(read.malposition[:, None], truth.malposition[:, None], devices[:, None])
    return scores


def phantom_scores(labeler: CheXbert, templates: str = "heldout", count: int = 1000) -> dict:
    """(a)"""
    cases = [sample_case("test", index) for index in range(count)]
    truth = Attributes.of([report_attributes(case, templates) for case in cases])
    mentions = torch.tensor([case.mentions for case in cases])  # (R, 13)
    reports = [write_report(case, templates) for case in cases]
    return against_written(labeler, reports, truth, (mentions == POSITIVE) | (mentions == UNCERTAIN))


def grammar_scores(labeler: CheXbert, count: int = 1000) -> dict:
    """(b)"""
    lessons = list(itertools.islice(stream(NEW_SEED, 0.0), count))
    labels = torch.tensor([lesson.labels for lesson in lessons])[:, :13]
    reports = ["".join(lesson.sentences) for lesson in lessons]
    truth = Attributes.of([lesson.said for lesson in lessons])
    return against_written(labeler, reports, truth, (labels == POSITIVE) | (labels == UNCERTAIN))


def mesh_said(terms: Iterable[str], entries: dict, values: dict[str, dict[str, list[str]]]) -> tuple:
    """MeSH terms of one report -> the 13 sides and 13 sizes that they name."""
    side, size = list(NOTHING[0]), list(NOTHING[1])
    for term in terms:
        words = term.split("/")[1:]
        for index, name in enumerate(CONDITIONS[:13]):
            if not any(mesh_match(term, entry) for entry in entries.get(name, ())):
                continue
            for value, names in enumerate(SIDES[1:], start=1):
                if name not in NO_SIDE_OF and any(word in values["side"][names] for word in words):
                    side[index] |= value
            for value, names in enumerate(SIZES[1:], start=1):
                if any(word in values["size"][names] for word in words):
                    size[index] = max(size[index], value)
    return tuple(side), tuple(size), 0


def mesh_scores(labeler: CheXbert, shared: Path) -> dict:
    """(c): accuracy where both name one, how often the labeler names one where people do, confusions, by condition."""
    rows = mesh_rows(shared)
    entries, values = tomllib.loads(MESH_MAP.read_text()), tomllib.loads(ATTRIBUTE_MAP.read_text())
    truth = Attributes.of([mesh_said(terms, entries, values) for _, terms in rows])
    labels, read = labeler.labels_and_attributes([report for report, _ in rows])
    claimed = (labels[:, :13] == POSITIVE) | (labels[:, :13] == UNCERTAIN)  # (R, 13)
    scores: dict = {"reports": len(rows)}
    for kind in ("side", "size"):
        own, true = getattr(read, kind), getattr(truth, kind)
        both = (own > 0) & (true > 0)
        scores[kind] = accuracy(own, true, both)
        scores[kind]["people_name_one"] = int((true > 0).sum())
        scores[kind]["of_these_the_condition_is_read"] = int(((true > 0) & claimed).sum())
        scores[kind]["confusion"] = confusion(own, true, (true > 0) & claimed)
        scores[kind]["by_condition"] = {
            name: {"n": int(both[:, i].sum()), "right": int(((own == true) & both)[:, i].sum())}
            for i, name in enumerate(CONDITIONS[:13])
            if both[:, i].any()
        }
    one = ((truth.side == LEFT) | (truth.side == RIGHT)) & ((read.side == LEFT) | (read.side == RIGHT))
    scores["left_or_right"] = accuracy(read.side, truth.side, one)
    return scores


def main() -> None:
    """Print the scores and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labeler", type=Path, default=None, help="folder; default the embedded one")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--docs", action="store_true", help="redraw the page from what was written")
    arguments = parser.parse_args()
    labeler = embedded_labeler() if arguments.labeler is None else CheXbert.load(arguments.labeler)
    scores = rounded(
        {
            "command": attribute_page.COMMAND,
            "phantom_heldout": phantom_scores(labeler),
            "grammar": grammar_scores(labeler),
            "mesh": mesh_scores(labeler, arguments.shared),
        }
    )
    print(attribute_page.markdown(scores))
    if arguments.out:
        arguments.out.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    if arguments.docs:
        attribute_page.redraw()


if __name__ == "__main__":
    main()
