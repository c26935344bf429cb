"""The kept records of an experiment as results: an arm's statistics over studies and seeds, and its curves.

Deliberate choices
* An arm's number is that of all its seeds together: statistics of a study are summed over seeds, studies are resampled.
  The interval speaks of studies, not of seeds; the smallest and largest seed stand beside it.
* Two judges: the labeler that rewarded, and the phantom generator's own reader, which no reward has seen. It knows no
  other reports: other data have the labeler alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from experiments.ablations import ablation_file
from experiments.ablations.ablation import Arm, Bench
from experiments.ablations.ablation_origin import same
from experiments.ablations.ablation_record import MARGIN, unpacked
from mrg_grpo.data.phantom.case import SEED, case_labels, sample_case
from mrg_grpo.evaluation.clinical import clinical_statistics, metrics_from_sums
from mrg_grpo.evaluation.intervals import Interval, MetricFunction, bootstrap, bootstrap_difference

F1, COSINE = "f1_micro_13_uncertain_positive", "clinical_cosine"
Column = tuple[str, str, str]
"""Judge, metric and name."""
NEAR = 0.05
"""Of a run's way: how far apart the k-th points of two seeds may lie to be one point of their mean."""


@dataclass
class Result:
    """All finished seeds of one arm."""

    arm: Arm
    records: dict[int, dict[str, Any]]  # by seed
    known: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # statistics by judge and seed

    def statistics(self, judge: str, seeds: Sequence[int]) -> Tensor:
        """(S, K) of all the seeds together. judge: "labeler" or "reader"."""
        for seed in seeds:
            if (judge, seed) not in self.known:
                self.known[judge, seed] = study_statistics(self.records[seed], judge)
        return torch.stack([self.known[judge, seed] for seed in seeds]).sum(dim=0)


def study_statistics(record: dict[str, Any], judge: str) -> Tensor:
    """A record -> clinical statistics of each test study (S, K), as the judge sees it."""
    if judge == "reader":
        return clinical_statistics(unpacked(record["reader_labels"]), generator_labels(tuple(record["studies"])))
    return clinical_statistics(
        unpacked(record["labels"]),
        unpacked(record["reference_labels"]),
        margin=MARGIN,
        compliant=torch.tensor([mark == "1" for mark in record["compliant"]]),
        words=torch.tensor([float(count) for count in record["words"]]),
    )


@cache
def generator_labels(studies: tuple[str, ...]) -> Tensor:
    """Phantom ids ("test-00012") -> what the generator wrote (S, 14)."""
    places = [study.rsplit("-", 1) for study in studies]
    return torch.tensor([case_labels(sample_case(split, int(index), SEED)) for split, index in places])


def results_of(bench: Bench) -> list[Result]:
    """The arms that have records of the settings they have now, in the experiment's order."""
    found = []
    for arm in bench.experiment.arms:
        records = {record["seed"]: record for record in records_of(bench, arm)}
        if records and arm.shown:
            found.append(Result(replace(arm, title=bench.title(arm)), records))
    return found


def records_of(bench: Bench, arm: Arm, of_now: bool = True) -> list[dict[str, Any]]:
    """Its kept records of the settings and weights that the arm has now, or those of others."""
    kept = [record for record in ablation_file.read(bench.file)["records"].values() if record["arm"] == arm.name]
    return [record for record in kept if same(record, bench.origin(arm, record["seed"])) == of_now]


def left_out(bench: Bench) -> list[str]:
    """Arms and seeds whose records are of other settings or weights than the arm has now."""
    arms = bench.experiment.arms
    return [f"{arm.name} seed {record['seed']}" for arm in arms for record in records_of(bench, arm, of_now=False)]


def judges(results: Sequence[Result]) -> list[str]:
    """The reader knows phantom reports alone."""
    known = all("reader_labels" in record for result in results for record in result.records.values())
    return ["labeler", "reader"] if known else ["labeler"]


def shared_seeds(one: Result, two: Result) -> list[int]:
    return sorted(set(one.records) & set(two.records))


def control_of(bench: Bench, results: Sequence[Result]) -> Result | None:
    return next((result for result in results if result.arm.name == bench.experiment.control), None)


def beside(control: Result | None, results: Sequence[Result]) -> list[tuple[Result, list[int]]]:
    """Every other arm that has seeds of the control, and those."""
    if control is None:
        return []
    pairs = [(result, shared_seeds(control, result)) for result in results if result is not control]
    return [(result, seeds) for result, seeds in pairs if seeds]


def differences(
    before: Result, after: Result, seeds: Sequence[int], columns: Sequence[Column], studies: Tensor | None = None
) -> list[Interval]:
    """After minus before in each of the columns, paired over studies; studies (S,): of those that are True."""
    kept = slice(None) if studies is None else studies
    of_judge = {
        judge: bootstrap_difference(*(arm.statistics(judge, seeds)[kept] for arm in (before, after)), only(names))
        for judge, names in by_judge(columns).items()
    }
    return [of_judge[judge][name] for judge, name, _ in columns]


def scores(result: Result, columns: Sequence[Column]) -> list[Interval]:
    """The arm in each of the columns, all its seeds together."""
    of_judge = {
        judge: bootstrap(result.statistics(judge, sorted(result.records)), only(names))
        for judge, names in by_judge(columns).items()
    }
    return [of_judge[judge][name] for judge, name, _ in columns]


def by_judge(columns: Sequence[Column]) -> dict[str, list[str]]:
    """The metrics that each judge gives."""
    return {judge: [name for one, name, _ in columns if one == judge] for judge, _, _ in columns}


def only(names: Iterable[str]) -> MetricFunction:
    """These of the clinical metrics: quantiles of all of them take longer than the resamples."""
    return lambda sums: {name: value for name, value in metrics_from_sums(sums).items() if name in names}


def with_interval(number: Interval, sign: str = "") -> str:
    """sign: "+" for a difference."""
    value, low, high = (f"{float(x):{sign}.3f}" for x in (number.value, number.low, number.high))
    return f"{value} [{low}, {high}]"


def seed_value(result: Result, judge: str, seed: int, name: str) -> float:
    """A metric of one seed."""
    return float(metrics_from_sums(result.statistics(judge, [seed]).sum(dim=0))[name])


def curves_of(result: Result, name: str) -> list[list[tuple[float, float]]]:
    """One for each seed that has it."""
    return [points for record in result.records.values() if (points := record["behaviour"].get(name))]


def curve(result: Result, name: str) -> list[tuple[float, float]]:
    """Mean over seeds, point by point, as far as every seed that has this curve has a point at about that place.

    Seeds that train for the same time differ a little in their steps, and so in the places of their points.
    """
    curves = curves_of(result, name)
    mean = []
    for points in zip(*curves):
        places, values = zip(*points)
        if max(places) - min(places) > NEAR:
            break
        mean.append((sum(places) / len(places), sum(values) / len(values)))
    return mean
