"""Pictures of docs/results/ablations.md: results with intervals, differences from the control, curves over training."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.ablations.ablation import Bench, Experiment
from experiments.ablations.ablation_results import (
    COSINE,
    F1,
    Column,
    Result,
    beside,
    control_of,
    curve,
    curves_of,
    differences,
    judges,
    scores,
    seed_value,
)
from experiments.docs import charts
from mrg_grpo.evaluation.intervals import Interval

SHOWN: tuple[Column, ...] = (
    ("labeler", F1, "micro F1, 13 conditions"),
    ("reader", F1, "micro F1 by the generator's reader"),
    ("labeler", COSINE, "clinical cosine"),
)
"""Of the bars."""
PICTURED = {
    "training": ("how the reports change", {
        "report_length": "words,\nvalidation", "mentioned": "conditions\nmentioned, sampled",
        "uncertain_share": "mentions that are\nuncertain, sampled",
        "polarity_accuracy": "polarity accuracy,\nvalidation",
    }),
    "learning": ("what is learned, and from how much", {
        F1: "micro F1,\nvalidation", COSINE: "clinical cosine,\nvalidation",
        "sampled_cosine": "clinical cosine,\nsampled", "zero_reward": "reports paid 0 by\nthe task term",
        "groups_without_spread": "groups without\nspread",
    }),
}  # fmt: skip
"""Over the run: picture -> what it shows, curve -> its heading."""
FARTHEST = 0.1
"""A difference that is drawn: with those of arms that learned nothing the small ones would not be seen."""


def overview(experiment: Experiment, results: Sequence[Result]) -> str:
    """Micro F1 and clinical cosine of the experiment's arms that answer most, with intervals and seeds."""
    shown = {title: r for name, title in experiment.overview.items() for r in results if r.arm.name == name}
    columns = [column for column in SHOWN if column[0] == "labeler"]
    numbers = {title: scores(result, columns) for title, result in shown.items()}
    panels = {head: {title: bar(numbers[title][i]) for title in shown} for i, (_, _, head) in enumerate(columns)}
    seeds = {head: {title: [seed_value(r, judge, seed, name) for seed in r.records] for title, r in shown.items()}
             for judge, name, head in columns}  # fmt: skip
    note = "test split; dots: all seeds together, with 95% intervals over studies; open circles: single seeds"
    return charts.dots(f"{experiment.question}: scores of the trained policies", panels, note, seeds)


def pictures(bench: Bench, results: Sequence[Result]) -> dict[str, str]:
    """File name -> SVG: the results with intervals, differences from the control, and the behaviour over training."""
    shown = [(judge, name, title) for judge, name, title in SHOWN if judge in judges(results)]
    series = [title for _, _, title in shown]
    studies = len(next(iter(results[0].records.values()))["studies"])
    counts = sorted({len(result.records) for result in results})
    counted = f"{counts[0]} to {counts[-1]} seeds an arm" if len(counts) > 1 else f"seeds an arm: {counts[0]}"
    note = f"{studies:,} test studies, 95% intervals over studies; {counted}, taken together"
    question = bench.experiment.question
    groups = {result.arm.title: [bar(number) for number in scores(result, shown)] for result in results}
    over = (
        "blue: this arm, its mean and its seeds; grey: the others; across: share of the run's steps; -: no such number"
    )
    files = {
        f"ablation_{bench.name}.svg": charts.bars(question, groups, series, note=note),
    }
    for picture, (what, heads) in PICTURED.items():
        columns = {head: {r.arm.title: curve(r, name) for r in results} for name, head in heads.items()}
        strands = {head: {r.arm.title: curves_of(r, name) for r in results} for name, head in heads.items()}
        files[f"ablation_{bench.name}_{picture}.svg"] = charts.small_multiples(
            f"{question}: {what}", columns, over, (0, 1), strands
        )
    if bench.experiment.overview.keys() <= {result.arm.name for result in results} and bench.experiment.overview:
        files[f"ablation_{bench.name}_overview.svg"] = overview(bench.experiment, results)
    control = control_of(bench, results)
    others = beside(control, results)
    if control and others:
        bars = {arm.arm.title: [bar(i) for i in differences(control, arm, seeds, shown)] for arm, seeds in others}
        edge = min(FARTHEST, max(abs(end) for cells in bars.values() for cell in cells for end in cell))
        edge = charts.ticks([-edge, edge])[-1]
        files[f"ablation_{bench.name}_differences.svg"] = charts.bars(
            f"{question}: minus {control.arm.title}", bars, series, -edge, edge,
            note=note.replace("taken together", "on those both have") + f"; bars end at {edge:g}", digits=3,
        )  # fmt: skip
    return files


def bar(interval: Interval) -> tuple[float, float, float]:
    return float(interval.value), float(interval.low), float(interval.high)
