"""Before and after training, on the same studies, decoded by the same code: the table that `mrg-grpo train` ends with.

Intervals are 95% percentile bootstraps over studies, the difference resampled in pairs. A gain alone proves nothing,
so it is looked at from two more sides: only the studies where both reports kept to the form (the gain is not the
format's), and, on phantom data, judged by the generator's own label reader (the gain is not the labeler's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrg_grpo.evaluation.clinical import (
    QUANTITIES,
    TITLES,
    clinical_statistics,
    conditions_from_sums,
    metrics_from_sums,
)
from mrg_grpo.evaluation.decode import Judged
from mrg_grpo.evaluation.intervals import bootstrap, bootstrap_difference
from mrg_grpo.evaluation.table import Number, format_table, of
from mrg_grpo.labels import CONDITIONS

PRIMARY = ("f1_micro_13_uncertain_positive", "clinical_cosine")


@dataclass
class Side:
    """One comparison: metric -> (before, after, difference)."""

    title: str
    studies: int
    rows: dict[str, tuple[Number, Number, Number]]

    def table(self) -> str:
        lines = [(TITLES[name], *numbers) for name, numbers in self.rows.items()]
        return format_table(
            ("metric", "before [95% interval]", "after", "difference"), lines, f"{self.title}, {self.studies} studies"
        )

    def to_json(self) -> dict[str, Any]:
        names = ("before", "after", "difference")
        rows = {name: {k: n.to_json() for k, n in zip(names, numbers)} for name, numbers in self.rows.items()}
        return {"studies": self.studies, "metrics": rows}


@dataclass
class BeforeAfter:
    sides: list[Side]
    conditions: dict[str, dict[str, float | None]]  # F1 (uncertain as positive) of each, None where no reference
    # states it

    def table(self) -> str:
        return "\n\n".join(side.table() for side in self.sides)

    def to_json(self) -> dict[str, Any]:
        return {"sides": {side.title: side.to_json() for side in self.sides}, "conditions": self.conditions}


def before_after(before: Judged, after: Judged, split: str) -> BeforeAfter:
    """Two judged sets of predictions of the same studies -> all sides."""
    sides = [_side(f"{split} split", before.statistics, after.statistics, tuple(TITLES))]
    both = before.compliant & after.compliant
    if both.any():
        sides.append(_side("both reports keep to the form", before.statistics[both], after.statistics[both], PRIMARY))
    studies = before.predictions.studies
    if all(image.startswith("phantom:") for study in studies for image in study.images):
        from mrg_grpo.data.phantom.reader import read_labels

        truth = torch.tensor([study.labels for study in studies])  # what the generator wrote
        one, two = (clinical_statistics(read_labels(judged.predictions.reports), truth) for judged in (before, after))
        sides.append(_side("judged by the generator's own reader", one, two, PRIMARY))
    tables = [conditions_from_sums(judged.statistics.sum(0)) for judged in (before, after)]
    stated = tables[0]["reference_uncertain_positive"].tolist()
    f1 = [table["f1_uncertain_positive"].tolist() for table in tables]
    conditions = {
        name: {"before": a if n else None, "after": b if n else None} for name, n, a, b in zip(CONDITIONS, stated, *f1)
    }
    return BeforeAfter(sides, conditions)


def _side(title: str, before: Tensor, after: Tensor, names: tuple[str, ...]) -> Side:
    def metric(sums: Tensor) -> dict[str, Tensor]:
        every = metrics_from_sums(sums)
        return {name: every[name] for name in names}

    a, b = bootstrap(before, metric), bootstrap(after, metric)
    d = bootstrap_difference(before, after, metric)
    number = lambda i: Number(i.value.item(), i.low.item(), i.high.item())  # noqa: E731
    rows = {}
    for name in names:
        one, two = (scored_things(side, name) for side in (before, after))
        rows[name] = (of(number(a[name]), one), of(number(b[name]), two), of(number(d[name]), min(one, two)))
    return Side(title, len(before), rows)


def scored_things(statistics: Tensor, name: str) -> float:
    """How many findings a precision, or a recall or F1, is of; 1 of any other metric, which is NaN where it is of none.
    A convention counts 0 where there are none, and a table would say that nothing was found."""
    quantity = name.split("_")[0]
    if quantity not in QUANTITIES:
        return 1.0
    table = conditions_from_sums(statistics.sum(0))
    side = "generated" if quantity == "precision" else "reference"
    return float(table[f"{side}_uncertain_positive"][:13].sum())
