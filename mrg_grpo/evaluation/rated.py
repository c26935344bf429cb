"""A file of people's ratings beside a prediction file: `mrg-grpo score PREDICTIONS --ratings FILE`.

csv, tsv, json, jsonl or xlsx; a report a row. Its id is that of the prediction file. `rating`, or several columns whose
names begin with it, or a list `ratings`, holds numbers, higher better: their mean counts. `case` says which reports are
of one study, where several systems wrote one each; without it no two reports are compared with each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrg_grpo.data.records import first_names
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.columns import IDS, folded
from mrg_grpo.evaluation.ratings import Ranking, rankings
from mrg_grpo.evaluation.record_files import read_records
from mrg_grpo.evaluation.table import Number, format_table
from mrg_grpo.rewards.ce_f1 import ce_f1
from mrg_grpo.rewards.clinical import clinical
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, unsigned_cosine
from mrg_grpo.rewards.nlg import bleu, rouge_l

NAMES = frozenset(("rating", "ratings", "case"))
HELP = 'a row has an id, "rating" (or rating_1, rating_2, ...), and, where several reports are of one study, "case"'


@dataclass(frozen=True)
class Rated:
    """Mean ratings and cases by report id."""

    ratings: dict[str, float]
    cases: dict[str, str]


def read_ratings(path: Path) -> Rated:
    """UserError, one line with file and row, for a file that is none of these."""
    ratings, cases = dict[str, float](), dict[str, str]()
    for number, record in enumerate(read_records(path, NAMES).records, start=1):
        where = f"{path}, row {number}"
        names = {folded(name): name for name in record}
        known = [names[folded(alias)] for alias in IDS if folded(alias) in names]
        if not known or record[known[0]] in (None, ""):
            raise UserError(f"{where} has no id; {HELP}")
        key = str(record[known[0]])
        if key in ratings:
            raise UserError(f"{where} rates {key!r} again; give each report one row")
        found = [x for name in record if folded(name).startswith("rating") for x in _numbers(record[name], where)]
        if not found:
            raise UserError(f"{where} has no rating; {HELP}")
        ratings[key] = sum(found) / len(found)
        cases[key] = str(record[names["case"]]) if "case" in names else key
    return Rated(ratings, cases)


def _numbers(value: Any, where: str) -> list[float]:
    """The numbers of a cell, none of an empty one."""
    if value is None or value == "":
        return []
    items = value if isinstance(value, list) else [value]
    try:
        numbers = [float(item) for item in items if not isinstance(item, bool)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) < len(items) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{where} has the rating {value!r}; write a number")
    return numbers


def label_scores(labels: Tensor, reference_labels: Tensor, margin: float) -> dict[str, Tensor]:
    """Rewards of labels: class ids (S, 14) x (S, 14) -> name -> (S,)."""
    return {
        "mccs": mccs(labels, reference_labels, margin),
        "ccs": clinical_cosine(labels, reference_labels),
        "unsigned_cosine": unsigned_cosine(labels, reference_labels),
        "clinical": clinical(labels, reference_labels),
        "ce_f1": ce_f1(labels, reference_labels),
    }


def text_scores(reports: list[str], references: list[str]) -> dict[str, Tensor]:
    """Rewards of words, (S,)."""
    return {"bleu": bleu(reports, references), "rouge_l": rouge_l(reports, references)}


def against_ratings(
    scores: Mapping[str, Tensor], ids: Sequence[str], rated: Rated, draws: int
) -> tuple[dict[str, Ranking], list[str]]:
    """name -> scores (S,) of the reports `ids` against their ratings; and notes. UserError where none is rated.

    A score that has no value for some rated report is left out, named.
    """
    rows = [row for row, key in enumerate(ids) if key in rated.ratings]
    if not rows:
        raise UserError(
            f"--ratings: none of the {len(ids):,} reports is rated; the ids there look like "
            f"{first_names(list(rated.ratings), 2)}, those of the predictions like {first_names(list(ids), 2)}"
        )
    keys = [ids[row] for row in rows]
    ratings = torch.tensor([rated.ratings[key] for key in keys], dtype=torch.float64)
    own = {name: values.double().cpu()[rows] for name, values in scores.items()}
    whole = {name: values for name, values in own.items() if not values.isnan().any()}
    cases = [rated.cases[key] for key in keys]
    found, _ = rankings(whole, ratings, cases, draws)
    notes = [f"ratings of {len(rows):,} of {len(ids):,} reports, {len(set(cases)):,} cases"]
    notes += [f"{name} has no value for some of them and is left out" for name in own.keys() - whole.keys()]
    unknown = sorted(rated.ratings.keys() - set(ids))
    if unknown:
        notes.append(f"{len(unknown):,} rated reports are not in the prediction file: {first_names(unknown)}")
    return found, notes


def ratings_table(found: Mapping[str, Ranking], notes: Sequence[str]) -> str:
    """The rankings, best tau-b first."""
    ordered = sorted(found.items(), key=lambda pair: (math.isnan(pair[1].tau_b.value), -pair[1].tau_b.value))
    rows = [(name, one.tau_b, one.spearman, one.pairs, Number(one.ties)) for name, one in ordered]
    head = ("against people's ratings", "tau-b", "Spearman", "pairs of a case right", "of them tied")
    return "\n".join([format_table(head, rows), *notes])
