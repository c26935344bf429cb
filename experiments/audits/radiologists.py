"""How rewards rank reports as radiologists do: docs/results/radiologists.md.

    python -m experiments.audits.radiologists RATINGS.jsonl [--rankings CASES.jsonl] [--labeler chexbert.pth]
        [--metric radgraph] [--metric module:function]

RATINGS.jsonl: a study a line, with "id", "reference" and "candidates", each with "report" and "ratings", a number of
each radiologist, higher better. CASES.jsonl: "id", "category", "reference", "candidates" by name and "expected", such
as "C1 > C2" or "C1 = C2" or a list of these. The measures are defined in mrg_grpo/evaluation/ratings.py.

**What was expected**, written before any member of the family (mrg_grpo/rewards/clinical.py) was measured. `clinical`
should win on both measures: d = 0.3, c = 1, u = 1, two normal reports equal, with the gate. Radiologists count findings
that are missed and findings that are invented; a denial that is missing is no error to them, so denials must weigh
little: CE-F1, which leaves them out, leads over CCS in tau-b. They must weigh something, since they break the ties of
CE-F1 inside a study. To deny what is there is the error that hurts a patient, so it must cost more than silence. The
gate moves no rank: it is there for training. "Uncertain" is expected to matter little, since few reports say it.
Every member that was tried stands in experiments/audits/members.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.audits import iu_baselines
from experiments.audits.members import MAIN, TRIES, Member
from experiments.docs import charts
from experiments.docs.sections import markdown_table, rewrite
from mrg_grpo.errors import UserError, one_line
from mrg_grpo.evaluation.ratings import FIGURES, figures, pairs_of, pairs_tied, rankings, spearman, tau_b
from mrg_grpo.files import write_whole
from mrg_grpo.labelers import labeler_name, load_labeler
from mrg_grpo.rewards import field
from mrg_grpo.rewards.external import ExternalReward
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, rarity_weights

RESULTS = Path("experiments/results/radiologists.json")
PAGE, PICTURE = Path("docs/results/radiologists.md"), Path("docs/results/images/radiologists.svg")
COMMAND = (
    "python -m experiments.audits.radiologists RATINGS.jsonl --rankings CASES.jsonl --training ../shared/data/iu_xray "
    "--field --keep"
)


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


def scored(rated: Rated, labeler, members: Mapping[str, Member]) -> dict[str, Tensor]:
    """name -> (S,) of every member."""
    labels = labeler.label(rated.reports).cpu(), labeler.label(rated.references).cpu()
    return {name: one.scores(*labels, rated.reports, rated.references) for name, one in members.items()}


def by_rarity(rated: Rated, labeler, training: Path | None) -> dict[str, Tensor]:
    """name -> (S,) of the rewards with rarity weights, which need training references: a folder with annotation.json
    and labels.jsonl (iu_baselines.load). Empty without one."""
    if training is None:
        return {}
    weights = rarity_weights(iu_baselines.load(training)["train"][1])
    labels = labeler.label(rated.reports).cpu(), labeler.label(rated.references).cpu()
    return {
        "rarity ccs": clinical_cosine(*labels, weights).double(),
        "rarity mccs 0.2": mccs(*labels, 0.2, weights).double(),
    }


def measured(rated: Rated, labeler, metrics: list[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """name -> (S,) of every metric: a term of the field by its name, or module:function; and why some are not."""
    found, absent = dict[str, Tensor](), dict[str, str]()
    for name in metrics:
        try:
            found[name] = (of_field if name in field.FIELD else of_path)(name, rated, labeler).double()
        except (UserError, OSError) as error:
            absent[name] = one_line(error).replace(str(Path.home()), "~")
            print(f"{name} is not measured: {absent[name]}")
    return found, absent


def of_field(name: str, rated: Rated, labeler) -> Tensor:
    """(S,) of a term of RadEval; UserError, or OSError in loading it, where it cannot run."""
    field.require(name)
    values = field.scorer(name, labeler.device)(rated.reports, rated.references)
    return torch.tensor([0.0 if value is None else value for value in values])


def of_path(name: str, rated: Rated, labeler) -> Tensor:
    """(S,) of module:function, None as 0."""
    labels, truth = labeler.label(rated.reports), labeler.label(rated.references)
    values, present = ExternalReward(name)(
        rated.reports, prompts=[""] * len(rated.reports), reports=rated.reports, reference=rated.references,
        study_id=rated.cases, labels=labels.tolist(), reference_labels=truth.tolist(),
    )  # fmt: skip
    return values.masked_fill(~present, 0.0)


def ceiling(rated: Rated) -> dict[str, float]:
    """Agreement of one radiologist with another: smallest and largest tau-b, and Spearman."""
    raters = rated.by_rater.unbind(dim=1)
    pairs = [(a, b) for i, a in enumerate(raters) for b in raters[i + 1 :]]
    taus, rhos = [tau_b(a, b) for a, b in pairs], [spearman(a, b) for a, b in pairs]
    return {"tau_b": min(taus), "tau_b to": max(taus), "spearman": min(rhos), "spearman to": max(rhos)}


@dataclass
class Ranked:
    """A short case with the order that experts expect."""

    category: str
    reference: str
    candidates: dict[str, str]
    expected: list[str]


def read_ranked(path: Path) -> list[Ranked]:
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        Ranked(case["category"], case["reference"], case["candidates"],
               [case["expected"]] if isinstance(case["expected"], str) else case["expected"])
        for case in cases
    ]  # fmt: skip


def passed(cases: list[Ranked], labeler) -> dict[str, dict[str, list[int]]]:
    """name of a reward -> category -> [cases in the expected order, all cases]."""
    found: dict[str, dict[str, list[int]]] = {}
    for case in cases:
        names, reports = list(case.candidates), list(case.candidates.values())
        own = Rated(reports, [case.reference] * len(reports), torch.zeros(0), torch.zeros(0), names)
        for reward, values in scored(own, labeler, MAIN).items():
            score = dict(zip(names, values.tolist()))
            count = found.setdefault(reward, {}).setdefault(case.category, [0, 0])
            count[0] += all(holds(rule, score) for rule in case.expected)
            count[1] += 1
    return found


def holds(rule: str, score: dict[str, float]) -> bool:
    """Whether scores keep to "C1 > C2" or "C1 = C2"; equal is within EQUAL."""
    first, sign, second = rule.split()
    gap = score[first] - score[second]
    return gap > EQUAL if sign == ">" else abs(gap) <= EQUAL


EQUAL = 0.01
TRIED = (
    "Of the family and of mixes with words, on this half of the ratings. d is what a denial weighs, c what a "
    "contradiction costs (as d where it is not named), u what an uncertain finding weighs, and the word which reports "
    "are normal."
)
BASES = ("ce_f1", "ccs")
"""What the others are compared with."""


def measure(rated: Rated, cases: list[Ranked], labeler, metrics: list[str], training: Path | None = None) -> dict:
    """The record of the page."""
    theirs, absent = measured(rated, labeler, metrics)
    scores = scored(rated, labeler, MAIN) | by_rarity(rated, labeler, training) | theirs
    found, resampled = rankings(scores, rated.ratings, rated.cases)
    less = {
        name: {base: {figure: [getattr(found[name], figure).value - getattr(found[base], figure).value,
                               *resampled.interval(name, i, base)] for i, figure in enumerate(FIGURES)}
               for base in BASES}
        for name in found
    }  # fmt: skip
    return {
        "reports": len(rated.reports), "studies": len(set(rated.cases)), "ceiling": ceiling(rated),
        "rewards": {name: {**ranking.to_json(), "minus": less[name]} for name, ranking in found.items()},
        "rankings": passed(cases, labeler), "tries": tried(rated, labeler), "absent": absent,
    }  # fmt: skip


def tried(rated: Rated, labeler) -> dict[str, list[float]]:
    """name of every try -> tau-b, Spearman, pairs right, and how many of them are tied."""
    pairs = pairs_of(rated.ratings, rated.cases)
    return {
        name: [*figures(own, rated.ratings, pairs), pairs_tied(own, pairs)]
        for name, own in scored(rated, labeler, TRIES).items()
    }


def triple(numbers: list[float], sign: str = "") -> str:
    value, low, high = numbers
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def markdown(record: dict) -> str:
    """The tables."""
    rows, top = [], record["ceiling"]
    for name, own in sorted(record["rewards"].items(), key=lambda pair: -pair[1]["tau_b"]["value"]):
        numbers = [triple(list(own[figure].values())) for figure in ("tau_b", "spearman", "pairs")]
        minus = [triple(own["minus"]["ce_f1"][figure], "+") for figure in ("tau_b", "pairs")]
        rows.append((name, *numbers, f"{own['ties']:.0%}", *(minus if name != "ce_f1" else ("", ""))))
    between = f"{top['tau_b']:.2f} to {top['tau_b to']:.2f}", f"{top['spearman']:.2f} to {top['spearman to']:.2f}"
    rows.append(("one radiologist with another", *between, "", "", "", ""))
    head = ("reward", "tau-b", "Spearman", "pairs right", "of them tied", "tau-b less CE-F1's", "pairs less CE-F1's")
    lines = [
        f"{record['reports']} reports of {record['studies']} studies, labels of the {record['labeler']} labeler.", "",
        markdown_table(head, rows),
    ]  # fmt: skip
    if record["rankings"]:
        categories = list(next(iter(record["rankings"].values())))
        ranked = [
            (name, *(f"{own[c][0]} of {own[c][1]}" for c in categories), str(sum(x for x, _ in own.values())))
            for name, own in record["rankings"].items()
        ]
        lines += ["", "Short cases in the order that experts expect, by category:", "",
                  markdown_table(("reward", *categories, "all"), ranked)]  # fmt: skip
    if record["absent"]:
        lines += ["", f"Not measured, as their models have to be downloaded: {', '.join(record['absent'])}."]
    tries = sorted(record["tries"].items(), key=lambda pair: -pair[1][0])
    rows = [(name, *(f"{x:.3f}" for x in own[:3]), f"{own[3]:.0%}") for name, own in tries]
    lines += ["", f"## All {len(rows)} tries", "", TRIED, "",
              markdown_table(("reward", "tau-b", "Spearman", "pairs right", "of them tied"), rows)]  # fmt: skip
    return "\n".join(lines)


def picture(record: dict) -> str:
    def cells(figure: str) -> dict[str, tuple[float, float, float]]:
        ordered = sorted(record["rewards"].items(), key=lambda pair: -pair[1]["tau_b"]["value"])
        return {name: tuple(own[figure].values()) for name, own in ordered}

    top = record["ceiling"]
    note = (
        f"95% intervals over studies. One radiologist with another: tau-b {top['tau_b']:.2f} to {top['tau_b to']:.2f}"
    )
    panels = {"tau-b, all reports": cells("tau_b"), "pairs of one study right": cells("pairs")}
    return charts.dots("How rewards rank reports that radiologists have rated", panels, note)


def redraw() -> None:
    """Page and picture from the record."""
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    rewrite(PAGE, {"radiologists": markdown(record)})
    charts.write(PICTURE, picture(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--rankings", type=Path, help="short cases with the expected order")
    parser.add_argument("--labeler", default="", help="chexbert.pth; default is the embedded labeler")
    parser.add_argument("--tokenizer", default="", help="of chexbert.pth")
    parser.add_argument("--metric", action="append", default=[], help="a term of the field, or module:function")
    parser.add_argument("--training", type=Path, help="annotation.json and labels.jsonl, for rarity weights")
    parser.add_argument("--field", action="store_true", help="all terms of the field, by RadEval, that can run here")
    parser.add_argument("--keep", action="store_true", help="write the record, the page and the picture")
    given = parser.parse_args()
    cases = read_ranked(given.rankings) if given.rankings else []
    labeler = load_labeler(given.labeler, given.tokenizer)
    record = {
        "command": COMMAND, "labeler": labeler_name(given.labeler),
        **measure(read_rated(given.ratings), cases, labeler, [*(field.FIELD if given.field else ()), *given.metric],
                  given.training),
    }  # fmt: skip
    print(markdown(record))
    if given.keep:
        write_whole(RESULTS, json.dumps(record, indent=1) + "\n")
        redraw()


if __name__ == "__main__":
    main()
