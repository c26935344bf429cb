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
from ablation import PAGE, Arm, Bench, Claim
from ablation_record import MARGIN, unpacked
from torch import Tensor

from mrg_grpo.data.phantom_case import SEED, case_labels, sample_case
from mrg_grpo.metrics.clinical import clinical_statistics, metrics_from_sums
from mrg_grpo.metrics.intervals import Interval, bootstrap, bootstrap_difference, randomisation_test

F1, COSINE = "f1_micro_13_uncertain_positive", "clinical_cosine"
Column = tuple[str, str, str]
"""Judge, metric and name."""
SHOWN: tuple[Column, ...] = (
    ("labeler", F1, "micro F1, 13 conditions"),
    ("reader", F1, "micro F1 by the generator's reader"),
    ("labeler", COSINE, "clinical cosine"),
)
"""Of the bars."""
TESTED = {F1: "micro F1, 13", "f1_macro_13_uncertain_positive": "macro F1, 13", COSINE: "clinical cosine"}
DESCRIBED = {
    "mccs": f"MCCS at {MARGIN}", "polarity_accuracy": "polarity accuracy", "omission_rate": "omission",
    "hallucination_rate": "hallucination", "uncertainty_agreement": "uncertainty agreement",
    "format_compliance": "compliance", "report_length": "words",
}  # fmt: skip
SPOKEN = {"bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr"}
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
NEAR = 0.05
"""Of a run's way: how far apart the k-th points of two seeds may lie to be one point of their mean."""


SEEDS_NEEDED = 3
"""Of both arms, before a claim is said to hold: with two, chance alone parts them in one case of six."""


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
    """The arms that have records of the settings they have now, in the experiment's order."""
    found = []
    for arm in bench.experiment.arms:
        records = {record["seed"]: record for record in records_of(bench, arm)}
        if records and arm.shown:
            found.append(Result(arm, records))
    return found


def records_of(bench: Bench, arm: Arm, of_now: bool = True) -> list[dict[str, Any]]:
    """Its kept records of the settings and weights that the arm has now, or those of others."""
    paths = sorted((bench.results / bench.name).glob(f"{arm.name}-seed*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [r for r in records if (r["fingerprint"] == bench.fingerprint(arm, r["seed"])) == of_now]


def left_out(bench: Bench) -> list[str]:
    """Arms and seeds whose records are of other settings or weights than the arm has now."""
    arms = bench.experiment.arms
    return [f"{arm.name} seed {record['seed']}" for arm in arms for record in records_of(bench, arm, of_now=False)]


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


def with_interval(number: Interval, sign: str = "") -> str:
    """sign: "+" for a difference."""
    value, low, high = (f"{float(x):{sign}.3f}" for x in (number.value, number.low, number.high))
    return f"{value} [{low}, {high}]"


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


def differences(
    before: Result, after: Result, seeds: Sequence[int], columns: Sequence[Column], studies: Tensor | None = None
) -> list[Interval]:
    """After minus before in each of the columns, paired over studies; studies (S,): of those that are True."""
    kept = slice(None) if studies is None else studies
    of_judge = {
        judge: bootstrap_difference(*(arm.statistics(judge, seeds)[kept] for arm in (before, after)), metrics_from_sums)
        for judge in {judge for judge, _, _ in columns}
    }
    return [of_judge[judge][name] for judge, name, _ in columns]


def claim_table(bench: Bench, results: Sequence[Result]) -> list[str]:
    """Each claim with its difference, over studies and seed by seed."""
    rows = [row for claim in bench.experiment.claims if (row := claim_row(claim, results))]
    return [*claim_head("claim", results), *rows] if rows else []


def claim_head(first: str, results: Sequence[Result]) -> list[str]:
    """The two lines above the rows of `claim_row`."""
    heads = [first, *(head for _, _, head in compared(results)), "micro F1, seed by seed", "seen here"]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]


def compared(results: Sequence[Result]) -> list[Column]:
    """A claim's columns."""
    columns = [("labeler", F1, "micro F1"), ("labeler", COSINE, "clinical cosine"), ("reader", F1, "micro F1, reader")]
    return [column for column in columns if column[0] in judges(results)]


def claim_row(claim: Claim, results: Sequence[Result]) -> str:
    """A claim's line, "" where one of its arms has no record on a seed of the other.

    It holds where, for each judge's micro F1, the interval lies above 0 and the worst seed of the one arm is above the
    best of the other: intervals over studies know nothing of the luck of a seed.
    """
    by_name = {result.arm.name: result for result in results}
    if claim.better not in by_name or claim.than not in by_name:
        return ""
    better, than = by_name[claim.better], by_name[claim.than]
    seeds, cells, signs, by_seed = shared_seeds(better, than), [], [], ""
    if not seeds:
        return ""
    columns = compared(results)
    for (judge, name, _), i in zip(columns, differences(than, better, seeds, columns)):
        cells.append(with_interval(i, "+"))
        if name == F1:
            ones, others = ([seed_value(arm, judge, seed) for seed in seeds] for arm in (better, than))
            above = float(i.low) > 0 and min(ones) > max(others)
            below = float(i.high) < 0 and max(ones) < min(others)
            signs.append(above - below)
            by_seed = by_seed or ", ".join(f"{a - b:+.3f}" for a, b in zip(ones, others))
    verdict = {1: "holds", -1: "the opposite"}.get(signs[0] if len(set(signs)) == 1 else 0, "not shown")
    if len(seeds) < SEEDS_NEEDED:
        verdict = f"no verdict ({len(seeds)} of {SEEDS_NEEDED} seeds)"
    return " | ".join([f"| {claim.text} ({better.arm.title} minus {than.arm.title})", *cells, by_seed, f"{verdict} |"])


def seed_spread(results: Sequence[Result]) -> tuple[float, float, int]:
    """Pooled standard deviations between the seeds of an arm, of micro F1 and of the cosine; degrees of freedom."""
    several = [result for result in results if len(result.records) > 1 and result.arm.command != "none"]
    freedom = sum(len(result.records) - 1 for result in several)
    squares = dict.fromkeys((F1, COSINE), 0.0)
    for name in squares:
        for result in several:
            values = [record["metrics"][name][0] for record in result.records.values()]
            squares[name] += sum((value - sum(values) / len(values)) ** 2 for value in values)
    f1, cosine = ((square / max(freedom, 1)) ** 0.5 for square in squares.values())
    return f1, cosine, freedom


def luck(results: Sequence[Result]) -> list[str]:
    """How far two arms that are equally good come apart, by what the seeds of an arm differ."""
    f1, cosine, freedom = seed_spread(results)
    if freedom < 4:
        return []
    far = t_quantile(freedom)
    one, three = ([f"{far * sd * (2 / n) ** 0.5:.3f}" for sd in (f1, cosine)] for n in (1, SEEDS_NEEDED))
    return [
        f"Between the seeds of an arm the standard deviation of micro F1 is {f1:.3f} and that of the clinical cosine "
        f"{cosine:.3f} ({freedom} degrees of freedom). So in 95 of 100 cases two arms that are equally good come apart "
        f"by up to about {one[0]} and {one[1]} with one seed each, by up to {three[0]} and {three[1]} with three.",
        "",
    ]


def t_quantile(freedom: int) -> float:
    """97.5% of Student's t lie below, to 0.3% from 4 degrees of freedom on: Abramowitz and Stegun, 26.7.5."""
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def seed_value(result: Result, judge: str, seed: int) -> float:
    """Micro F1 of one seed."""
    return float(metrics_from_sums(result.statistics(judge, [seed]).sum(dim=0))[F1])


def form_table(results: Sequence[Result]) -> list[str]:
    """Differences from the start on the test studies in which its own report kept to the form, where only some did.

    Whoever learns the form alone gains on the others.
    """
    start = next((result for result in results if result.arm.command == "none"), None)
    if start is None:
        return []
    record = next(iter(start.records.values()))
    kept = torch.tensor([mark == "1" for mark in record["compliant"]])
    if kept.all() or not kept.any():
        return []
    columns = compared(results)
    lines = [f"On the {int(kept.sum())} test studies in which {start.arm.title} kept to the form:", "",
             f"| arm minus {start.arm.title} | seeds | {' | '.join(head for _, _, head in columns)} |",
             "|---" * (2 + len(columns)) + "|"]  # fmt: skip
    for result in results:
        if result is start:
            continue
        seeds = sorted(result.records)
        before = Result(start.arm, dict.fromkeys(seeds, record))  # greedy: the same at every seed
        cells = [with_interval(i, "+") for i in differences(before, result, seeds, columns, kept)]
        lines.append(f"| {result.arm.title} | {len(seeds)} | {' | '.join(cells)} |")
    return [*lines, ""]


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
    """Mean over seeds, point by point, as far as every seed that has this curve has a point at about that place.

    Seeds that train for the same time differ a little in their steps, and so in the places of their points.
    """
    curves = [points for record in result.records.values() if (points := record["behaviour"].get(name))]
    mean = []
    for points in zip(*curves):
        places, values = zip(*points)
        if max(places) - min(places) > NEAR:
            break
        mean.append((sum(places) / len(places), sum(values) / len(values)))
    return mean


def pictures(bench: Bench, results: Sequence[Result]) -> dict[str, str]:
    """File name -> SVG: the results with intervals, differences from the control, and the behaviour over training."""
    shown = [(judge, name, title) for judge, name, title in SHOWN if judge in judges(results)]
    series = [title for _, _, title in shown]
    studies = len(next(iter(results[0].records.values()))["studies"])
    counts = sorted({len(result.records) for result in results})
    counted = f"{counts[0]} to {counts[-1]} seeds an arm" if len(counts) > 1 else f"seeds an arm: {counts[0]}"
    note = f"{studies:,} test studies, 95% intervals over studies; {counted}, taken together"
    question = bench.experiment.question
    groups = {r.arm.title: [bar(bootstrap(r.statistics(judge, sorted(r.records)), metrics_from_sums)[name])
                            for judge, name, _ in shown] for r in results}  # fmt: skip
    over = "blue: this arm, mean of its seeds; grey: the others; across: share of the run's steps"
    files = {
        f"ablation_{bench.name}.svg": charts.bars(question, groups, series, note=note),
    }
    for picture, (what, heads) in PICTURED.items():
        columns = {head: {r.arm.title: curve(r, name) for r in results} for name, head in heads.items()}
        files[f"ablation_{bench.name}_{picture}.svg"] = charts.small_multiples(
            f"{question}: {what}", columns, over, x_range=(0, 1)
        )
    control = control_of(bench, results)
    others = beside(control, results)
    if control and others:
        bars = {arm.arm.title: [bar(i) for i in differences(control, arm, seeds, shown)] for arm, seeds in others}
        edge = max(abs(end) for cells in bars.values() for cell in cells for end in cell)
        edge = charts.ticks([-edge, edge])[-1]
        files[f"ablation_{bench.name}_differences.svg"] = charts.bars(
            f"{question}: minus {control.arm.title}", bars, series, -edge, edge,
            note=note.replace("taken together", "on those both have"), digits=3,
        )  # fmt: skip
    return files


def bar(interval: Interval) -> tuple[float, float, float]:
    return float(interval.value), float(interval.low), float(interval.high)


def beside(control: Result | None, results: Sequence[Result]) -> list[tuple[Result, list[int]]]:
    """Every other arm that has seeds of the control, and those."""
    if control is None:
        return []
    pairs = [(result, shared_seeds(control, result)) for result in results if result is not control]
    return [(result, seeds) for result, seeds in pairs if seeds]


def control_of(bench: Bench, results: Sequence[Result]) -> Result | None:
    return next((result for result in results if result.arm.name == bench.experiment.control), None)


def section(bench: Bench, results: Sequence[Result]) -> str:
    """What stands between an experiment's markers."""
    control = control_of(bench, results)
    script = f"experiments/ablate_{bench.experiment.name}.py"
    script += f" --config {bench.config}" if bench.page != PAGE else ""
    claims, old = claim_table(bench, results), left_out(bench)
    records = [record for result in results for record in result.records.values()]
    lines = [f"## {bench.experiment.question}{' (quick)' if bench.label else ''}", ""]
    lines += [f"`python {script}{' --quick' if bench.label else ''}`, {len(records)} runs.", ""]
    lines += [f"Left out, since their settings are no longer the arm's: {', '.join(old)}.", ""] if old else []
    lines += [f"![results](images/ablation_{bench.name}.svg)", ""]
    if control and beside(control, results):
        lines += [f"![differences from {control.arm.name}](images/ablation_{bench.name}_differences.svg)", ""]
    lines += [*efficacy_table(results, control), "", *luck(results)]
    lines += [*claims, ""] if claims else []
    lines += form_table(results)
    lines += [*description_table(results), "", *signal_table(results), ""]
    choice = choice_table(results) if bench.experiment.choosing else []  # records of shared arms have it too
    lines += [*choice, ""] if choice else []
    for picture, (what, _) in PICTURED.items():
        lines += [f"![{what}](images/ablation_{bench.name}_{picture}.svg)", ""]
    return "\n".join(lines)


def paper_section(bench: Bench, results: Sequence[Result]) -> str:
    """The paper's sentences, with what this experiment has seen of each."""
    rows = [row for claim in bench.experiment.claims if claim.of_paper and (row := claim_row(claim, results))]
    return "\n".join([f"**{bench.experiment.question}**", "", *claim_head("sentence", results), *rows, ""])


def write_page(bench: Bench) -> None:
    """Put the experiment's section and pictures in place; nothing where no arm is finished."""
    results, page = results_of(bench), bench.page
    if not results:
        print(f"{bench.name}: no records yet, {page} stays as it is")
        return
    for name, svg in pictures(bench, results).items():
        charts.write(page.parent / "images" / name, svg)
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Ablations of {bench.config}\n"
    text = placed(text, bench.name, section(bench, results))
    if marker(f"paper {bench.name}") in text:
        text = placed(text, f"paper {bench.name}", paper_section(bench, results))
    page.write_text(text, encoding="utf-8")
    print(f"{page}: {bench.name}")


def marker(name: str) -> str:
    return f"<!-- ablation {name} -->"


def placed(text: str, name: str, section: str) -> str:
    """The page with the section between its two markers, or at the end where it has none yet."""
    if text.count(marker(name)) != 2:
        text = f"{text.rstrip()}\n\n{marker(name)}\n{marker(name)}\n"
    before, _, after = text.split(marker(name))
    return marker(name).join((before, f"\n\n{section}\n", after))
