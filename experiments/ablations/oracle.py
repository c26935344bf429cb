"""A reward that pays what moves the bench's own metric: how far a policy comes that is paid for nothing else.

Micro F1 is best where every finding counts that is right with a probability above half of that F1. So a right finding
pays 1 - F / 2 and an invented one -F / 2, with F the ceiling of the data set (experiments/checks/ceiling.py). Unlike
CE-F1 it weighs a finding alike in every report, as micro F1 does.
"""

import json

from experiments.checks.ceiling import RESULTS
from mrg_grpo.labels import POSITIVE, UNCERTAIN

CEILING: float = json.loads(RESULTS.read_text(encoding="utf-8"))["forms"]["phantom_room"]["f1"]


def oracle(
    completions: list[str], labels: list[list[int]], reference_labels: list[list[int]], **columns: object
) -> list[float]:
    """B completions -> B rewards; class ids (B, 14) of the reports and of their references."""
    return [_paid(*pair) for pair in zip(labels, reference_labels, strict=True)]


def _paid(labels: list[int], reference: list[int]) -> float:
    found = [a in (POSITIVE, UNCERTAIN) for a in labels[:13]]
    right = sum(own and b in (POSITIVE, UNCERTAIN) for own, b in zip(found, reference[:13]))
    return right - 0.5 * CEILING * sum(found)
