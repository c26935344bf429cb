"""The files of a run, read while the run may still be writing them.

A last line without its newline is not there yet and is left for the next look. Any other broken line is named, and so
is one of another shape (shapes.py): a run that somebody hands over is data, and may hold anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrg_grpo.config import Config, load_config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.errors import UserError
from mrg_grpo.view import shapes
from mrg_grpo.view.shapes import Check

FILES = (
    "config.toml", "metrics.jsonl", "validation.jsonl", "rollouts.jsonl", "followed.jsonl", "predictions_before.jsonl",
    "predictions_best.jsonl", "predictions.jsonl", "evaluation.json", "left_out.jsonl",
)  # fmt: skip
"""What the page is made from."""

Record = dict[str, Any]


@dataclass
class Records:
    """One run as it stands."""

    path: Path
    config: Config
    metrics: list[Record] = field(default_factory=list)
    validation: list[Record] = field(default_factory=list)
    rollouts: list[Record] = field(default_factory=list)
    followed: list[Record] = field(default_factory=list)
    before: list[Record] = field(default_factory=list)
    after: list[Record] = field(default_factory=list)
    best: list[Record] = field(default_factory=list)  # of the best adapter on validation, where it is not the last
    left_out: list[Record] = field(default_factory=list)  # studies whose pictures could not be read
    evaluation: Record = field(default_factory=dict)  # {} where there is no before/after table
    evaluated: bool = False  # evaluation.json is there, and of the last step

    @property
    def textless(self) -> bool:
        """No text and no picture goes on the page: of data that only those may see who signed for it, or as asked."""
        return bool(banner(self.config)) or not self.config.run.keep_text

    @property
    def done(self) -> bool:
        """The last step is logged, of all or of a run that stopped early, and the evaluation after it is written."""
        early = bool(self.evaluation.get("stopped_early"))
        return self.evaluated and (early or self.metrics[-1]["step"] == self.config.run.steps)


def read_run(path: Path) -> Records:
    """RUN_DIR -> Records; files that are not there yet are empty."""
    if not (path / "config.toml").is_file():
        raise UserError(f"{path}: no config.toml in it, so it is no folder of a run; give the run.output_dir of one")
    metrics = read_lines(path / "metrics.jsonl", shapes.step_record)
    evaluation = _read_evaluation(path / "evaluation.json")
    return Records(
        path,
        load_config(path / "config.toml"),
        metrics=metrics,
        validation=read_lines(path / "validation.jsonl", shapes.step_record),
        rollouts=read_lines(path / "rollouts.jsonl", shapes.group_record),
        followed=read_lines(path / "followed.jsonl", shapes.followed_record),
        before=read_lines(path / "predictions_before.jsonl", shapes.prediction_record),
        after=read_lines(path / "predictions.jsonl", shapes.prediction_record),
        best=read_lines(path / "predictions_best.jsonl", shapes.prediction_record),
        left_out=read_lines(path / "left_out.jsonl", shapes.left_out_record),
        evaluation=evaluation if evaluation and "sides" in evaluation else {},
        evaluated=evaluation is not None and bool(metrics) and evaluation.get("step") in (None, metrics[-1]["step"]),
    )


def read_lines(path: Path, wrong: Check) -> list[Record]:
    """A .jsonl file -> records that `wrong` finds nothing in."""
    if not path.is_file():
        return []
    records = []
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # the last one may be cut, inside a character too
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:  # also bytes that are no text, numbers of thousands of digits
            raise UserError(f"{path} line {number}: not valid JSON ({error}); remove the line") from error
        if found := wrong(record):
            raise UserError(f"{path} line {number}: {found}; it is not of a run of this version")
        records.append(record)
    return records


def signature(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Changes whenever a file of the run does: (size, time of change) of each."""
    stats = [(path / name).stat() if (path / name).is_file() else None for name in FILES]
    return tuple((stat.st_size, stat.st_mtime_ns) if stat else None for stat in stats)


def _read_evaluation(path: Path) -> Record | None:
    """evaluation.json; None where there is none. That of `mrg-grpo evaluate` in its place has no sides."""
    if not path.is_file():
        return None
    remedy = "end the run with --resume to write it again"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    if found := shapes.evaluation(tree):
        raise UserError(f"{path}: {found}; {remedy}")
    return tree
