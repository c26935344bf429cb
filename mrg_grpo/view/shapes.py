"""What a record of a run must look like before anything is made of it: well-formed JSON may be of any shape.

A check takes what JSON gave and returns what is wrong with it, "" where nothing is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[[Any], str]


def step_record(record: Any) -> str:
    """A line of metrics.jsonl or validation.jsonl: a step, and numbers by name."""
    if not isinstance(record, dict):
        return "no JSON object"
    others = (name for name in record if name != "step" and not is_number(record[name]))
    return not_step(record) or next((f"{name} is no number" for name in others), "")


def group_record(record: Any) -> str:
    """A line of rollouts.jsonl: one study and its sampled reports."""
    if not isinstance(record, dict):
        return "no JSON object"
    wrong = not_step(record) or not_study(record)
    if wrong:
        return wrong
    samples = record.get("samples")
    if not isinstance(samples, list) or not samples:
        return "samples is no list of reports"
    return next((f"sample {i}: {wrong}" for i, sample in enumerate(samples, 1) if (wrong := not_sample(sample))), "")


def prediction_record(record: Any) -> str:
    """A line of predictions.jsonl or followed.jsonl: one study and one report."""
    if not isinstance(record, dict):
        return "no JSON object"
    if not is_labels(record.get("labels")):
        return "labels are not 13 or 14 class ids from 0 to 3"
    if record.get("compliant") not in (True, False, None):
        return "compliant is not true, false or null"
    return not_study(record) or not_texts(record, ("prediction", "generated", "think"))


def followed_record(record: Any) -> str:
    """A line of followed.jsonl: a prediction and its step."""
    return prediction_record(record) or not_step(record)


def left_out_record(record: Any) -> str:
    """A line of left_out.jsonl: a study whose pictures could not be read."""
    if not isinstance(record, dict):
        return "no JSON object"
    named = all(isinstance(record.get(name), str) for name in ("split", "study_id"))
    return not_step(record) or ("" if named else "split and study_id are no texts")


def evaluation(tree: Any) -> str:
    """evaluation.json of a run: sides of metrics before and after, and F1 by condition."""
    if not isinstance(tree, dict):
        return "no JSON object"
    if "sides" not in tree:  # of `mrg-grpo evaluate`; the page does not show it
        return ""
    best = tree.get("best", {})
    if not isinstance(best, dict):
        return "best is no object"
    if best and not (
        isinstance(best.get("metric"), str) and "value" in best and is_number(best["value"]) and not not_step(best)
    ):
        return "best has no step, metric and value"
    return comparison(tree) or comparison(best)


def comparison(tree: dict[str, Any]) -> str:
    """One adapter beside the start policy: sides of metrics, and F1 by condition."""
    sides, conditions = tree.get("sides", {}), tree.get("conditions", {})
    if not isinstance(sides, dict) or not isinstance(conditions, dict):
        return "sides and conditions are no objects"
    for title, side in sides.items():
        metrics = side.get("metrics") if isinstance(side, dict) else None
        if not isinstance(metrics, dict) or not is_number(side.get("studies")):
            return f"side {title!r} has no metrics"
        for name, row in metrics.items():
            if not isinstance(row, dict) or not all(isinstance(cell, dict) for cell in row.values()):
                return f"{name} is no row of numbers with intervals"
            if not all(is_number(number) for cell in row.values() for number in cell.values()):
                return f"{name} holds what is no number"
    for name, row in conditions.items():
        if not isinstance(row, dict) or not all(key in row and is_number(row[key]) for key in ("before", "after")):
            return f"condition {name!r} has no numbers before and after"
    return ""


def not_step(record: dict[str, Any]) -> str:
    step = record.get("step")
    return "" if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else "step is no whole number"


def not_study(record: dict[str, Any]) -> str:
    """What is wrong with what every record of a study has."""
    if not isinstance(record.get("study_id"), str | int):
        return "study_id is no text"
    if not is_labels(record.get("reference_labels")):
        return "reference_labels are not 13 or 14 class ids from 0 to 3"
    return not_texts(record, ("reference",))


def not_sample(sample: Any) -> str:
    if not isinstance(sample, dict):
        return "no JSON object"
    if not is_labels(sample.get("labels")):
        return "labels are not 13 or 14 class ids from 0 to 3"
    rewards = sample.get("rewards")
    if not isinstance(rewards, dict) or not all(map(is_number, rewards.values())):
        return "rewards are no numbers by name"
    if not all(name in sample and is_number(sample[name]) for name in ("reward", "advantage")):
        return "reward and advantage are no numbers"
    return not_texts(sample, ("completion",))


def not_texts(record: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((f"{name} is no text" for name in names if not isinstance(record.get(name, ""), str | None)), "")


def is_labels(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (13, 14) and all(label in (0, 1, 2, 3) for label in value)


def is_number(value: Any) -> bool:
    """A number, or null where there is none."""
    return value is None or isinstance(value, int | float)
