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

import torch
from torch import Tensor

from experiments.ablations.ablation import PAGE, Arm, Bench, Claim
from experiments.ablations.ablation_record import MARGIN, unpacked
from experiments.docs import charts
from mrg_grpo.data.phantom.case import SEED, case_labels, sample_case
from mrg_grpo.evaluation.clinical import clinical_statistics, metrics_from_sums
from mrg_grpo.evaluation.intervals import Interval, bootstrap, bootstrap_difference, randomisation_test
from mrg_grpo.labels import BLANK, POSITIVE, UNCERTAIN

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
MENTIONED = ("conditions mentioned", "positive", "uncertain")
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
FARTHEST = 0.1
"""A difference that is drawn: with those of arms that learned nothing the small ones would not be seen."""
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
    heads = [*MENTIONED, *DESCRIBED.values(), *SPOKEN.values(), "steps"]
    lines = [f"| arm | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for result in results:
        records = list(result.records.values())
        labels = torch.cat([unpacked(record["labels"])[:, :13] for record in records])
        cells = [f"{count:.2f}" for count in mentions(labels)]
        for name in (*DESCRIBED, *SPOKEN):
            values = [r["metrics"][name][0] for r in records if r["metrics"].get(name, [None])[0] is not None]
            digits = 1 if name == "report_length" else 3
            cells.append(f"{sum(values) / len(values):.{digits}f}" if values else "-")
        cells.append(f"{sum(record['steps'] for record in records) / len(records):.0f}")
        lines.append(f"| {result.arm.title} | {' | '.join(cells)} |")
    return lines


def agreement(results: Sequence[Result]) -> list[str]:
    """How often the two judges read the same label where either reads one."""
    if len(judges(results)) < 2:
        return []
    shares = {}
    for result in results:
        for seed, record in result.records.items():
            one, other = (unpacked(record[name])[:, :13] for name in ("labels", "reader_labels"))
            stated = (one != BLANK) | (other != BLANK)
            shares[f"{result.arm.title}, seed {seed}"] = float((one == other)[stated].double().mean())
    worst = min(shares, key=lambda name: shares[name])
    middle = sum(shares.values()) / len(shares)
    return [f"Labeler and reader give the same label in {middle:.1%} of the cases in which either gives one, "
            f"in {shares[worst]:.1%} at worst ({worst}).", ""]  # fmt: skip


def mentions(labels: Tensor) -> list[float]:
    """Class ids (S, 13) of reports -> how many conditions one mentions, states, and is unsure of, on average."""
    kinds = (labels != BLANK, labels == POSITIVE, labels == UNCERTAIN)
    return [float(kind.sum()) / len(labels) for kind in kinds]


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
    heads = [first]
    for judge, _, head in compared(results):
        heads += [head, "by seed, interval over seeds"] if judge == "labeler" else [head]
    heads.append("seen here: F1, cosine")
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]


def compared(results: Sequence[Result]) -> list[Column]:
    """A claim's columns."""
    columns = [("labeler", F1, "micro F1"), ("labeler", COSINE, "clinical cosine"), ("reader", F1, "micro F1, reader")]
    return [column for column in columns if column[0] in judges(results)]


def claim_row(claim: Claim, results: Sequence[Result]) -> str:
    """A claim's line, "" where one of its arms has no record on a seed of the other.

    It holds, of F1 or of the cosine, where for each judge that gives it the interval over studies lies above 0 and the
    worst seed of the one arm is above the best of the other: intervals over studies know nothing of the luck of a seed.
    """
    by_name = {result.arm.name: result for result in results}
    if claim.better not in by_name or claim.than not in by_name:
        return ""
    better, than = by_name[claim.better], by_name[claim.than]
    seeds, cells = shared_seeds(better, than), []
    signs: dict[str, set[int]] = {F1: set(), COSINE: set()}
    if not seeds:
        return ""
    columns = compared(results)
    for (judge, name, _), i in zip(columns, differences(than, better, seeds, columns)):
        ones, others = ([seed_value(arm, judge, seed, name) for seed in seeds] for arm in (better, than))
        cells += [with_interval(i, "+"), over_seeds(ones, others)] if judge == "labeler" else [with_interval(i, "+")]
        above = float(i.low) > 0 and min(ones) > max(others)
        below = float(i.high) < 0 and max(ones) < min(others)
        signs[name].add(above - below)
    seen = ", ".join({(1,): "holds", (-1,): "the opposite"}.get(tuple(found), "not shown") for found in signs.values())
    if len(seeds) < SEEDS_NEEDED:
        seen = f"no verdict ({len(seeds)} of {SEEDS_NEEDED} seeds)"
    return " | ".join([f"| {claim.text} ({better.arm.title} minus {than.arm.title})", *cells, f"{seen} |"])


def over_seeds(ones: Sequence[float], others: Sequence[float]) -> str:
    """Differences seed by seed, and Student's 95% interval of their mean, by the spread of both arms' seeds."""
    listed = ", ".join(f"{a - b:+.3f}" for a, b in zip(ones, others))
    count = len(ones)
    if count < SEEDS_NEEDED:
        return listed
    squares = sum((x - sum(arm) / count) ** 2 for arm in (ones, others) for x in arm)
    freedom = 2 * (count - 1)
    far = t_quantile(freedom) * (squares / freedom * 2 / count) ** 0.5
    middle = (sum(ones) - sum(others)) / count
    return f"{listed} [{middle - far:+.3f}, {middle + far:+.3f}]"


def t_quantile(freedom: int) -> float:
    """97.5% of Student's t lie below, to 0.3% from 4 degrees of freedom on: Abramowitz and Stegun, 26.7.5."""
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def seed_value(result: Result, judge: str, seed: int, name: str) -> float:
    """A metric of one seed."""
    return float(metrics_from_sums(result.statistics(judge, [seed]).sum(dim=0))[name])


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
    lines += [*efficacy_table(results, control), "", *agreement(results)]
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
