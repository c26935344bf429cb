"""docs/ablations.md out of the kept records: one section per experiment, rewritten between its two markers.

Records of another configuration make a page of the same kind in their own folder.

Deliberate choices
* An arm's number is that of all its seeds together: statistics of a study are summed over seeds, studies are resampled.
  The interval speaks of studies, not of seeds; the smallest and largest seed stand beside it.
* Tests against the control: paired approximate randomisation over studies (10,000 swaps, two-sided), all seeds of a
  study swapped together, on the seeds that both arms have.
* Two judges: the labeler that rewarded, and the phantom generator's own reader, which no reward has seen. It knows no
  other reports: other data have the labeler alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import charts
import torch
from ablation import PAGE, Arm, Bench
from ablation_record import MARGIN, unpacked
from torch import Tensor

from mrg_grpo.data.phantom import SEED, case_labels, sample_case
from mrg_grpo.metrics.clinical import clinical_statistics, metrics_from_sums
from mrg_grpo.metrics.intervals import Interval, bootstrap, bootstrap_difference, randomisation_test

F1, COSINE = "f1_micro_13_uncertain_positive", "clinical_cosine"
SHOWN = (
    ("labeler", F1, "micro F1, 13 conditions"),
    ("reader", F1, "micro F1 by the generator's reader"),
    ("labeler", COSINE, "clinical cosine"),
)
"""Judge, metric and name of the bars."""
TESTED = {F1: "micro F1, 13", "f1_macro_13_uncertain_positive": "macro F1, 13", COSINE: "clinical cosine"}
DESCRIBED = {
    "mccs": "MCCS", "polarity_accuracy": "polarity accuracy", "omission_rate": "omission",
    "hallucination_rate": "hallucination", "uncertainty_agreement": "uncertainty agreement",
    "format_compliance": "compliance", "report_length": "words",
}  # fmt: skip
SPOKEN = {"bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr"}
CURVES = {
    "report_length": "words of a report, validation", "mentioned": "conditions mentioned, sampled reports",
    "uncertain_share": "share of mentions that are uncertain", "polarity_accuracy": "polarity accuracy, validation",
    "clinical_cosine": "clinical cosine, validation", "zero_reward": "share of reports paid 0 by the task term",
    "groups_without_spread": "share of groups without spread",
}  # fmt: skip


@dataclass
class Result:
    """All finished seeds of one arm."""

    arm: Arm
    records: dict[int, dict[str, Any]]  # by seed

    def statistics(self, judge: str, seeds: Sequence[int]) -> Tensor:
        """(S, K) of all the seeds together. judge: "labeler" or "reader"."""
        return torch.stack([study_statistics(self.records[seed], judge) for seed in seeds]).sum(dim=0)


def study_statistics(record: dict[str, Any], judge: str) -> Tensor:
    """A record -> clinical statistics of each test study (S, K), as the judge sees it."""
    if judge == "reader":
        return clinical_statistics(unpacked(record["reader_labels"]), generator_labels(record["studies"]))
    return clinical_statistics(
        unpacked(record["labels"]),
        unpacked(record["reference_labels"]),
        margin=MARGIN,
        compliant=torch.tensor([mark == "1" for mark in record["compliant"]]),
        words=torch.tensor([float(count) for count in record["words"]]),
    )


def generator_labels(studies: Sequence[str]) -> Tensor:
    """Phantom ids ("test-00012") -> what the generator wrote (S, 14)."""
    places = [study.rsplit("-", 1) for study in studies]
    return torch.tensor([case_labels(sample_case(split, int(index), SEED)) for split, index in places])


def results_of(bench: Bench) -> list[Result]:
    """The arms that have records, in the experiment's order."""
    found = []
    for arm in bench.experiment.arms:
        records = {}
        for path in sorted((bench.results / bench.name).glob(f"{arm.name}-seed*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            records[record["seed"]] = record
        if records and arm.shown:
            found.append(Result(arm, records))
    return found


def judges(results: Sequence[Result]) -> list[str]:
    """The reader knows phantom reports alone."""
    known = all("reader_labels" in record for result in results for record in result.records.values())
    return ["labeler", "reader"] if known else ["labeler"]


def efficacy_table(results: Sequence[Result], control: Result | None) -> list[str]:
    """Each arm's main numbers by both judges, with p against the control."""
    columns = {"labeler": TESTED, "reader": {F1: "micro F1 by the generator's reader"}}
    heads = [head for judge in judges(results) for head in columns[judge].values()]
    tested = f" | p against {control.arm.name}" if control else ""
    lines = [
        f"| arm | seeds | {' | '.join(f'{head}{tested}' for head in heads)} | micro F1, seeds |",
        "|---" * (3 + len(heads) * (2 if control else 1)) + "|",
    ]
    for result in results:
        seeds = sorted(result.records)
        cells: list[str] = []
        for judge in judges(results):
            numbers = bootstrap(result.statistics(judge, seeds), metrics_from_sums)
            tests = p_values(result, control, judge) if control else {}
            for name in columns[judge]:
                cells.append(with_interval(numbers[name]))
                cells += [f"{tests[name]:.4f}" if tests else "-"] if control else []
        ones = [record["metrics"][F1][0] for record in result.records.values()]
        cells.append(f"{min(ones):.3f} to {max(ones):.3f}" if len(ones) > 1 else "one")
        lines.append(f"| {result.arm.title} | {len(seeds)} | {' | '.join(cells)} |")
    return lines


def with_interval(number: Interval) -> str:
    return f"{float(number.value):.3f} [{float(number.low):.3f}, {float(number.high):.3f}]"


def p_values(result: Result, control: Result, judge: str) -> dict[str, float]:
    """Metric -> p of arm against control on the seeds that both have; {} for the control itself."""
    seeds = shared_seeds(result, control)
    if result is control or not seeds:
        return {}
    tests = randomisation_test(
        control.statistics(judge, seeds), result.statistics(judge, seeds), metrics_from_sums
    )  # fmt: skip
    return {name: float(p) for name, p in tests.items()}


def shared_seeds(one: Result, two: Result) -> list[int]:
    return sorted(set(one.records) & set(two.records))


def description_table(results: Sequence[Result]) -> list[str]:
    """How each arm writes, and what it took: means over seeds."""
    heads = [*DESCRIBED.values(), *SPOKEN.values(), "steps", "seconds in steps"]
    lines = [f"| arm | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for result in results:
        records = list(result.records.values())
        cells = []
        for name in (*DESCRIBED, *SPOKEN):
            values = [r["metrics"][name][0] for r in records if r["metrics"].get(name, [None])[0] is not None]
            digits = 1 if name == "report_length" else 3
            cells.append(f"{sum(values) / len(values):.{digits}f}" if values else "-")
        cells += [f"{sum(r[name] for r in records) / len(records):.0f}" for name in ("steps", "seconds_in_steps")]
        lines.append(f"| {result.arm.title} | {' | '.join(cells)} |")
    return lines


def claim_table(bench: Bench, results: Sequence[Result]) -> list[str]:
    """Each claim with its difference.

    It holds where, for each judge's micro F1, the interval lies above 0 and the worst seed of the one arm is above the
    best of the other: intervals over studies know nothing of the luck of a seed.
    """
    by_name = {result.arm.name: result for result in results}
    columns = [("labeler", F1, "micro F1"), ("labeler", COSINE, "clinical cosine"), ("reader", F1, "micro F1, reader")]
    columns = [column for column in columns if column[0] in judges(results)]
    lines = [f"| claim | {' | '.join(head for _, _, head in columns)} | seen here |", "|---" * (2 + len(columns)) + "|"]
    for claim in bench.experiment.claims:
        if claim.better not in by_name or claim.than not in by_name:
            continue
        better, than = by_name[claim.better], by_name[claim.than]
        seeds, cells, signs = shared_seeds(better, than), [], []
        if not seeds:
            continue
        for judge, name, _ in columns:
            pair = (than.statistics(judge, seeds), better.statistics(judge, seeds))
            i = bootstrap_difference(*pair, metrics_from_sums)[name]
            cells.append(f"{float(i.value):+.3f} [{float(i.low):+.3f}, {float(i.high):+.3f}]")
            if name == F1:
                ones, others = ([seed_value(arm, judge, seed) for seed in seeds] for arm in (better, than))
                above = float(i.low) > 0 and min(ones) > max(others)
                below = float(i.high) < 0 and max(ones) < min(others)
                signs.append(above - below)
        verdict = {1: "holds", -1: "the opposite"}.get(signs[0] if len(set(signs)) == 1 else 0, "not shown")
        verdict += " (one seed)" if len(seeds) == 1 else ""
        lines.append(f"| {claim.text} ({better.arm.title} minus {than.arm.title}) | {' | '.join(cells)} | {verdict} |")
    return lines if len(lines) > 2 else []


def seed_value(result: Result, judge: str, seed: int) -> float:
    """Micro F1 of one seed."""
    return float(metrics_from_sums(result.statistics(judge, [seed]).sum(dim=0))[F1])


def signal_table(results: Sequence[Result]) -> list[str]:
    """What the reward left to learn from: first and last quarter of the run."""
    lines = ["| arm | reports paid 0 by the task term, first and last quarter | groups without spread | "
             "clinical cosine at the first validation |", "|---|---|---|---|"]  # fmt: skip
    for result in results:
        cells = []
        for name in ("zero_reward", "groups_without_spread"):
            quarters = [
                [y for x, y in curve(result, name) if start <= x <= stop] for start, stop in ((0, 0.25), (0.75, 1))
            ]
            cells.append(" and ".join(f"{sum(q) / len(q):.3f}" if q else "-" for q in quarters))
        first = curve(result, "clinical_cosine")[:1]
        cells.append(f"{first[0][1]:.3f}" if first else "-")
        lines.append(f"| {result.arm.title} | {' | '.join(cells)} |")
    return lines


def choice_table(results: Sequence[Result]) -> list[str]:
    """What a default is chosen by: the final adapters on the whole validation split, all seeds together."""
    lines = ["| arm | seeds | micro F1, 13, validation | clinical cosine, validation |", "|---|---|---|---|"]
    for result in results:
        kept = [record["validation"] for record in result.records.values() if "validation" in record]
        if not kept:
            continue
        parts = [clinical_statistics(unpacked(v["labels"]), unpacked(v["reference_labels"])) for v in kept]
        numbers = bootstrap(torch.stack(parts).sum(dim=0), metrics_from_sums)
        cells = [with_interval(numbers[name]) for name in (F1, COSINE)]
        lines.append(f"| {result.arm.title} | {len(kept)} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def curve(result: Result, name: str) -> list[tuple[float, float]]:
    """Mean over the seeds that have a value at the same place of the run."""
    points: dict[float, list[float]] = {}
    for record in result.records.values():
        for x, y in record["behaviour"].get(name, []):
            points.setdefault(x, []).append(y)
    return [(x, sum(ys) / len(ys)) for x, ys in sorted(points.items())]


def pictures(bench: Bench, results: Sequence[Result]) -> dict[str, str]:
    """File name -> SVG: the results with intervals, and the behaviour over training."""
    groups: dict[str, list[tuple[float, float, float] | None]] = {}
    shown = [(judge, name, title) for judge, name, title in SHOWN if judge in judges(results)]
    for result in results:
        cells: list[tuple[float, float, float] | None] = []
        for judge, name, _ in shown:
            i = bootstrap(result.statistics(judge, sorted(result.records)), metrics_from_sums)[name]
            cells.append((float(i.value), float(i.low), float(i.high)))
        groups[result.arm.title] = cells
    series = [title for _, _, title in shown]
    studies = len(next(iter(results[0].records.values()))["studies"])
    note = f"{studies:,} test studies, 95% intervals over studies, all seeds together"
    panels = {title: {r.arm.title: curve(r, name) for r in results} for name, title in CURVES.items()}
    return {
        f"ablation_{bench.name}.svg": charts.bars(bench.experiment.question, groups, series, note=note),
        f"ablation_{bench.name}_training.svg": charts.lines(
            f"{bench.experiment.question}: over training, mean of the seeds", panels, "share of the run's steps"
        ),
    }


def section(bench: Bench, results: Sequence[Result]) -> str:
    """What stands between an experiment's markers."""
    control = next((result for result in results if result.arm.name == bench.experiment.control), None)
    script = f"experiments/ablate_{bench.experiment.name}.py"
    script += f" --config {bench.config}" if bench.page != PAGE else ""
    claims = claim_table(bench, results)
    records = [record for result in results for record in result.records.values()]
    lines = [f"## {bench.experiment.question}{' (quick)' if bench.label else ''}", ""]
    lines += [f"`python {script}{' --quick' if bench.label else ''}`, {len(records)} runs.", ""]
    lines += [f"![results](images/ablation_{bench.name}.svg)", "", *efficacy_table(results, control), ""]
    lines += [*claims, ""] if claims else []
    lines += [*description_table(results), "", *signal_table(results), ""]
    choice = choice_table(results) if bench.experiment.choosing else []  # records of shared arms have it too
    lines += [*choice, ""] if choice else []
    lines += [f"![over training](images/ablation_{bench.name}_training.svg)", ""]
    return "\n".join(lines)


def write_page(bench: Bench) -> None:
    """Put the experiment's section and pictures in place; nothing where no arm is finished."""
    results, page = results_of(bench), bench.page
    if not results:
        print(f"{bench.name}: no records yet, {page} stays as it is")
        return
    for name, svg in pictures(bench, results).items():
        charts.write(page.parent / "images" / name, svg)
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Ablations of {bench.config}\n"
    page.write_text(placed(text, bench.name, section(bench, results)), encoding="utf-8")
    print(f"{page}: {bench.name}")


def placed(text: str, name: str, section: str) -> str:
    """The page with the section between its two markers, or at the end where it has none yet."""
    marker = f"<!-- ablation {name} -->"
    if text.count(marker) != 2:
        text = f"{text.rstrip()}\n\n{marker}\n{marker}\n"
    before, _, after = text.split(marker)
    return marker.join((before, f"\n\n{section}\n", after))
