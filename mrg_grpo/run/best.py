"""The best adapter by validation: which step that is, where it is kept, and when to stop early.

    RUN_DIR/checkpoints/best-000075/   an adapter that was the best when it was validated, after step 75
    RUN_DIR/best_adapter/              the best of the whole run, written at its end

A run that goes on from a checkpoint must find the best adapter as of that checkpoint, whatever came after it. So an
adapter that has been surpassed stays as long as it is the best as of a checkpoint that is kept.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrg_grpo import distributed
from mrg_grpo.model import adapters
from mrg_grpo.model.policy import Policy
from mrg_grpo.run.checkpoint import load_adapter, save_adapter, saved_steps, step_number

BEST = "best_adapter"
"""Folder of the best adapter in that of a run."""


@dataclass(frozen=True)
class Best:
    """The best of some validations."""

    step: int
    value: float
    waited: int
    """Validations after it."""


@dataclass(frozen=True)
class Goal:
    """What makes an adapter the best."""

    metric: str
    """By its name in validation.jsonl; "" keeps none."""
    lower: bool = False
    """Whether a lower value is better."""


def best_of(validations: Iterable[dict[str, Any]], goal: Goal) -> Best | None:
    """The best of these lines of validation.jsonl, in their order; None where the metric is defined in none of them.
    Of equal ones the first, which has moved least from the start."""
    best = None
    for line in validations:
        value = line.get(goal.metric)
        if value is not None and (best is None or (value < best.value if goal.lower else value > best.value)):
            best = Best(line["step"], value, 0)
        elif best is not None:
            best = Best(best.step, best.value, best.waited + 1)
    return best


class BestAdapter:
    """What one run knows of its validations, and the adapters that it keeps for it. All ranks call the same methods;
    the first writes."""

    def __init__(self, folder: Path, goal: Goal, patience: int = 0) -> None:
        self.folder, self.goal, self.patience = folder, goal, patience
        self.validations: list[dict[str, Any]] = []

    def go_on(self) -> None:
        """Take up the validations of a resumed run, when its logs have been cut."""
        path = self.folder / "validation.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if distributed.is_first() and path.is_file() else []
        self.validations = distributed.broadcast([json.loads(line) for line in lines])

    @property
    def best(self) -> Best | None:
        return best_of(self.validations, self.goal)

    @property
    def exhausted(self) -> bool:
        """Whether no validation of the last `run.patience` was better."""
        return bool(self.patience and self.best and self.best.waited >= self.patience)

    def note(self, step: int, values: dict[str, float], policy: Policy) -> None:
        """A validation after `step`; keeps the adapter where it is the best so far."""
        finite = {name: None if math.isnan(value) else value for name, value in values.items()}
        self.validations.append({"step": step, **finite})
        if self.best and self.best.step == step:
            save_adapter(candidate(self.folder, step), policy)
            self.tidy()

    @distributed.first_only
    def tidy(self) -> None:
        """Remove the adapters that no checkpoint needs; called when a checkpoint has been written too."""
        kept = [step_number(path) for path in saved_steps(self.folder)]
        needed = steps_needed(self.validations, self.goal, kept)
        for path in (self.folder / "checkpoints").glob("best-*"):
            if path.name not in {candidate(self.folder, step).name for step in needed}:
                shutil.rmtree(path)

    def load(self, policy: Policy) -> bool:
        """Put the best adapter into the policy and RUN_DIR/best_adapter. False where it was not kept, since another
        metric chose then, or none."""
        assert self.best
        path = candidate(self.folder, self.best.step)
        if not distributed.broadcast(distributed.is_first() and path.is_dir()):
            return False
        if distributed.is_first():
            load_adapter(policy, path)
        adapters.broadcast(policy.model)
        save_adapter(self.folder / BEST, policy)
        return True


def candidate(run_dir: Path, step: int) -> Path:
    """Where the adapter that was the best after `step` lies."""
    return run_dir / "checkpoints" / f"best-{step:06d}"


def steps_needed(validations: Sequence[dict[str, Any]], goal: Goal, checkpoints: Iterable[int]) -> set[int]:
    """Steps that are the best as of one of these checkpoints, or of the run so far."""
    ends = [*checkpoints, math.inf]
    found = [best_of([line for line in validations if line["step"] <= end], goal) for end in ends]
    return {best.step for best in found if best}
