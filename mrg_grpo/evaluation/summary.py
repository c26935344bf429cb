"""What is known of one system's reports, as JSON and as a page of the console; and of several, side by side."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from mrg_grpo.evaluation.clinical import AVERAGES, LABEL_SETS, PRESETS, QUANTITIES, RATES, READINGS, preset_metrics
from mrg_grpo.evaluation.distinct import Variety
from mrg_grpo.evaluation.table import UNDEFINED, Number, format_table, of
from mrg_grpo.labels import CONDITIONS
from mrg_grpo.rewards.external import is_path
from mrg_grpo.step_metrics import Metric
from mrg_grpo.terminal import columns, wrap

RESAMPLES = 10_000
"""Of every bootstrap and randomisation test that is printed."""

HEADLINE = (
    "f1_micro_14_uncertain_positive",
    "f1_micro_14_uncertain_negative",
    "f1_micro_13_uncertain_positive",
    "f1_macro_14_uncertain_positive",
    "f1_example_14_uncertain_negative",
    "f1_micro_5_uncertain_positive",
)
"""The F1 that stand beside the baselines in the console table; the JSON has all."""

IN_GRID = tuple(average for average in AVERAGES if average != "weighted")
"""Averages of the console's grid: papers compare these, and a grid of twelve columns fits no terminal."""

LANGUAGE_METRICS = {
    **{f"bleu_{n}": f"corpus BLEU-{n}" for n in (1, 2, 3, 4)},
    "meteor": "METEOR 1.5, which needs Java",
    "rouge_l": "mean ROUGE-L",
    "cider": "mean CIDEr, with document frequencies from the references that are scored",
}
"""By pycocoevalcap, the extra `eval`."""

METRICS = (
    Metric(
        tuple(f"{quantity}_<average>_<labels>_<reading>" for quantity in QUANTITIES),
        "precision, recall and F1 of the positive labels; 0 where the denominator is 0",
    ),
    Metric(("exact_match_<labels>_<reading>",), "share of studies with every label right"),
    Metric(("accuracy_<labels>_<reading>",), "share of labels that are right"),
    *(Metric((name,), rate.meaning) for name, rate in RATES.items()),
    *(Metric((name,), meaning) for name, meaning in LANGUAGE_METRICS.items()),
)
"""What each number of evaluation.json means; the table in docs/reference/metrics.md is made from it."""


@dataclass
class Comparison:
    """Second minus first on the same studies: difference with its interval, and p of the randomisation test."""

    names: tuple[str, str]
    difference: dict[str, Number]
    p_value: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            name: {**number.to_json(), "p": None if math.isnan(self.p_value[name]) else self.p_value[name]}
            for name, number in self.difference.items()
        }

    def table(self, undefined: Collection[str] = ()) -> str:
        """undefined: metrics that are of nothing in these studies, and left out."""
        shown = {*HEADLINE, *RATES, *LANGUAGE_METRICS} - set(undefined)
        rows = [
            (name, number, "-" if math.isnan(p := self.p_value[name]) else f"{p:.4f}")
            for name, number in self.difference.items()
            if (name in shown or is_path(name)) and not math.isnan(number.value)
        ]
        title = f"{self.names[1]} minus {self.names[0]}, paired"
        return format_table(("metric", "difference [95% interval]", "p"), rows, title)


@dataclass
class Evaluation:
    """Everything that is known of one system's reports."""

    studies: int
    metrics: dict[str, Number]
    conditions: dict[str, dict[str, Number]]
    baselines: dict[str, dict[str, Number]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    """With each other system, of which this one is the first."""
    resamples: int = RESAMPLES
    labeler: str = ""
    """Whose labels were counted, see `mrg_grpo.labelers.labeler_name`; "" where that is not known."""
    margin: float | None = None
    """m of the MCCS."""
    variety: Variety | None = None
    """How many different reports there are."""

    def preset(self, name: str) -> dict[str, Number]:
        """The numbers that one code prints, under its own names."""
        return preset_metrics(self.metrics, name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: every metric as value, low, high (null where undefined)."""
        return {
            "studies": self.studies,
            "labeler": self.labeler,
            "mccs_margin": self.margin,
            "interval": f"95% percentile bootstrap over studies, {self.resamples} resamples",
            **({"distinct": self.variety.to_json()} if self.variety else {}),
            "metrics": _as_json(self.metrics),
            "conditions": {name: _as_json(numbers) for name, numbers in self.conditions.items()},
            "presets": {name: _as_json(self.preset(name)) for name in PRESETS},
            "baselines": {name: _as_json(numbers) for name, numbers in self.baselines.items()},
            **self._compared(),
            "notes": self.notes,
        }

    def table(self, preset: str | None = None) -> str:
        """The console page: notes, the CE grid, headline metrics beside the baselines, and the conditions."""
        blocks = ["\n".join(wrap(note, columns(), rest="  ") for note in self.notes)] if self.notes else []
        blocks += [self._grid(), self._headline(), self._condition_table()]
        if preset:
            blocks.append(format_table((f"as {preset} prints", ""), list(self.preset(preset).items())))
        undefined = [name for name in HEADLINE if self._of_nothing(name)]
        blocks += [comparison.table(undefined) for comparison in self.comparisons]
        return "\n\n".join(blocks)

    def _compared(self) -> dict[str, Any]:
        """ "comparison" of one other system; "comparisons" by name of several."""
        if len(self.comparisons) == 1:
            return {"comparison": self.comparisons[0].to_json()}
        by_name = {comparison.names[1]: comparison.to_json() for comparison in self.comparisons}
        return {"comparisons": by_name} if by_name else {}

    def _grid(self) -> str:
        keys = [(average, quantity) for average in IN_GRID for quantity in QUANTITIES]
        rows = [
            (
                f"{labels} labels, {reading.replace('_', ' ')}",
                *(self._defined(f"{q}_{average}_{labels}_{reading}") for average, q in keys),
            )
            for labels in LABEL_SETS
            for reading in READINGS
        ]
        short = {"precision": "P", "recall": "R", "f1": "F1"}
        return format_table(("clinical efficacy", *(f"{average} {short[q]}" for average, q in keys)), rows)

    def _of_nothing(self, name: str) -> bool:
        """Whether a precision is of no stated condition, or a recall or F1 of none in the references: a convention
        counts 0 there, which says nothing of the reports. name: as "f1_micro_13_uncertain_positive"."""
        quantity, _, labels, reading = name.split("_", 3)
        column = f"{'generated' if quantity == 'precision' else 'reference'}_{reading}"
        names = [CONDITIONS[i] for i in LABEL_SETS[labels]]
        return not any(self.conditions[name][column].value for name in names)

    def _defined(self, name: str) -> Number:
        return UNDEFINED if self._of_nothing(name) else Number(self.metrics[name].value)

    def _headline(self) -> str:
        """Metrics beside the baselines, those of others last; above them a warning of reports that are all one."""
        external = [name for name in self.metrics if is_path(name)]
        rows = [
            (
                name,
                self.metrics[name],
                *(Number(numbers[name].value) if name in numbers else "-" for numbers in self.baselines.values()),
            )
            for name in (*HEADLINE, *RATES, *LANGUAGE_METRICS, *external)
            if name in self.metrics and not math.isnan(self.metrics[name].value)
            if name not in HEADLINE or not self._of_nothing(name)
        ]
        warning = self.variety.warning() if self.variety else ""
        return format_table(("metric", "system [95% interval]", *self.baselines), rows, warning)

    def _condition_table(self) -> str:
        columns = ("reference", "generated", "precision", "recall", "f1")
        rows = []
        for name, numbers in self.conditions.items():
            reference, generated, precision, recall, f1 = (numbers[f"{c}_uncertain_positive"] for c in columns)
            alone = [of(Number(n.value), count.value) for n, count in ((precision, generated), (recall, reference))]
            counts = [f"{count.value:.0f}" for count in (reference, generated)]
            negated = of(numbers["f1_negated"], numbers["reference_negated"].value)
            rows.append((name, *counts, *alone, of(f1, reference.value), negated))
        head = ("condition (uncertain positive)", *columns[:4], "F1 [95% interval]", "F1 of negated")
        return format_table(head, rows)


def _as_json(numbers: dict[str, Number]) -> dict[str, dict[str, float | None]]:
    return {name: number.to_json() for name, number in numbers.items()}
