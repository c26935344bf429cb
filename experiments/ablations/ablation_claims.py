"""What became of the sentences that an experiment tests: each difference, by studies and by seeds, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from experiments.ablations.ablation import Bench, Claim
from experiments.ablations.ablation_results import (
    COSINE,
    F1,
    Column,
    Result,
    differences,
    judges,
    seed_value,
    shared_seeds,
    with_interval,
)

SEEDS_NEEDED = 3
"""Of both arms, before a claim is said to hold: with two, chance alone parts them in one case of six."""


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
    seen = ", ".join(
        {(1,): "holds", (-1,): "the opposite"}.get(tuple(found), "not significant") for found in signs.values()
    )
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
    far = stats.t.ppf(0.975, freedom) * (squares / freedom * 2 / count) ** 0.5
    middle = (sum(ones) - sum(others)) / count
    return f"{listed} [{middle - far:+.3f}, {middle + far:+.3f}]"
