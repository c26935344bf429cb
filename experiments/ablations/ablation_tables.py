"""Tables of docs/results/ablations.md, but for the claims: what arms reach, how they write, what they learn from.

Tests against the control: paired approximate randomisation over studies (10,000 swaps, two-sided), all seeds of a study
swapped together, on the seeds that both arms have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.ablations import ablation_origin
from experiments.ablations.ablation_claims import compared
from experiments.ablations.ablation_record import MARGIN, unpacked
from experiments.ablations.ablation_results import (
    COSINE,
    F1,
    Result,
    curve,
    differences,
    judges,
    only,
    shared_seeds,
    with_interval,
)
from mrg_grpo.config import Config
from mrg_grpo.evaluation.clinical import clinical_statistics
from mrg_grpo.evaluation.intervals import bootstrap, randomisation_test
from mrg_grpo.labels import BLANK, POSITIVE, UNCERTAIN
from mrg_grpo.toml import changed_keys

TESTED = {F1: "micro F1, 13", "f1_macro_13_uncertain_positive": "macro F1, 13", COSINE: "clinical cosine"}
MENTIONED = ("conditions mentioned", "positive", "uncertain")
DESCRIBED = {
    "mccs": f"MCCS at {MARGIN}", "polarity_accuracy": "polarity accuracy", "omission_rate": "omission",
    "hallucination_rate": "hallucination", "uncertainty_agreement": "uncertainty agreement",
    "format_compliance": "compliance", "report_length": "words",
}  # fmt: skip
OWN_COLUMNS = ("run.seed", "reward.weights", "reward.mccs.margin")
UNREAD = ("run.seed", "reward.")
"""How settings begin that say nothing of an arm without a reward."""
"""Settings that other columns show, or that mean nothing where nothing is rewarded."""
SPOKEN = {"bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr"}


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
            numbers = bootstrap(result.statistics(judge, seeds), only(columns[judge]))
            tests = p_values(result, control, judge) if control else {}
            for name in columns[judge]:
                cells.append(with_interval(numbers[name]))
                cells += [f"{tests[name]:.4f}" if tests else "-"] if control else []
        ones = [record["metrics"][F1][0] for record in result.records.values()]
        cells.append(f"{min(ones):.3f} to {max(ones):.3f}" if len(ones) > 1 else "one")
        lines.append(f"| {result.arm.title} | {len(seeds)} | {' | '.join(cells)} |")
    return lines


def p_values(result: Result, control: Result, judge: str) -> dict[str, float]:
    """Metric -> p of arm against control on the seeds that both have; {} for the control itself."""
    seeds = shared_seeds(result, control)
    if result is control or not seeds:
        return {}
    tests = randomisation_test(
        control.statistics(judge, seeds), result.statistics(judge, seeds), only(TESTED)
    )  # fmt: skip
    return {name: float(p) for name, p in tests.items()}


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
        numbers = bootstrap(torch.stack(parts).sum(dim=0), only((F1, COSINE)))
        cells = [with_interval(numbers[name]) for name in (F1, COSINE)]
        lines.append(f"| {result.arm.title} | {len(kept)} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def setting_table(results: Sequence[Result], control: Result | None) -> list[str]:
    """What each arm is paid for, and every other setting in which its runs differ from the control's."""
    if control is None:
        return []
    base = ablation_origin.compared(next(iter(control.records.values())))
    lines = ["| arm | reward weights | margin | other settings that differ |", "|---|---|---|---|"]
    for result in results:
        record = next(iter(result.records.values()))
        config, trained = ablation_origin.compared(record), record["kind"] == "train"
        weighed = sorted(config.reward.weights.items(), key=lambda pair: -pair[1])
        weights = " + ".join(f"{weight:g} {name}" for name, weight in weighed) if trained else "-"
        margin = f"{config.reward.mccs.margin:g}" if trained and "mccs" in config.reward.weights else "-"
        names = [name for name in changed_keys(base, config) if not name.startswith(OWN_COLUMNS if trained else UNREAD)]
        others = [f"{name} = {setting(config, name)}" for name in names]
        command = {"train": [], "sft": ["token-level"], "none": ["no training"]}[record["kind"]]
        lines.append(f"| {result.arm.title} | {weights} | {margin} | {'; '.join([*command, *others]) or '-'} |")
    return lines


def setting(config: Config, name: str) -> object:
    """`grpo.group_size` -> its value."""
    for part in name.split("."):
        config = getattr(config, part)
    return config
