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

from mrg_grpo.evaluation.clinical import TITLES, clinical_statistics, conditions_from_sums, metrics_from_sums
from mrg_grpo.evaluation.decode import Judged
from mrg_grpo.evaluation.intervals import bootstrap, bootstrap_difference
from mrg_grpo.evaluation.table import Number, format_table
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
    conditions: dict[str, dict[str, float]]  # F1 (uncertain as positive) of each condition, before and after

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
    f1 = [
        conditions_from_sums(judged.statistics.sum(0))["f1_uncertain_positive"].tolist() for judged in (before, after)
    ]
    conditions = {name: {"before": a, "after": b} for name, a, b in zip(CONDITIONS, *f1)}
    return BeforeAfter(sides, conditions)


def _side(title: str, before: Tensor, after: Tensor, names: tuple[str, ...]) -> Side:
    def metric(sums: Tensor) -> dict[str, Tensor]:
        every = metrics_from_sums(sums)
        return {name: every[name] for name in names}

    a, b = bootstrap(before, metric), bootstrap(after, metric)
    d = bootstrap_difference(before, after, metric)
    number = lambda i: Number(i.value.item(), i.low.item(), i.high.item())  # noqa: E731
    return Side(title, len(before), {name: (number(a[name]), number(b[name]), number(d[name])) for name in names})
