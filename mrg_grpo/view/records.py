"""The files of a run, read while the run may still be writing them.

A last line without its newline is not there yet and is left for the next look. Any other broken line is named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrg_grpo.config import Config, load_config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.errors import UserError

FILES = (
    "config.toml", "metrics.jsonl", "validation.jsonl", "rollouts.jsonl", "followed.jsonl", "predictions_before.jsonl",
    "predictions.jsonl", "evaluation.json",
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
    evaluation: Record = field(default_factory=dict)  # {} where there is no before/after table
    evaluated: bool = False  # evaluation.json is there, and no older than the last step

    @property
    def credentialed(self) -> bool:
        """Data that only those may see who signed for it: no text and no picture of it goes on the page."""
        return bool(banner(self.config)) or not self.config.run.keep_text

    @property
    def done(self) -> bool:
        """The last step is logged, and the evaluation after it is written."""
        return bool(self.metrics) and self.metrics[-1]["step"] == self.config.run.steps and self.evaluated


def read_run(path: Path) -> Records:
    """RUN_DIR -> Records; files that are not there yet are empty."""
    if not (path / "config.toml").is_file():
        raise UserError(f"{path}: no config.toml in it, so it is no folder of a run; give the run.output_dir of one")
    evaluation, metrics = path / "evaluation.json", path / "metrics.jsonl"
    return Records(
        path,
        load_config(path / "config.toml"),
        metrics=read_lines(metrics, ("step",)),
        validation=read_lines(path / "validation.jsonl", ("step",)),
        rollouts=read_lines(path / "rollouts.jsonl", ("step", "study_id", "samples", "reference_labels")),
        followed=read_lines(path / "followed.jsonl", ("step", "study_id", "labels", "reference_labels")),
        before=read_lines(path / "predictions_before.jsonl", ("study_id", "labels", "reference_labels")),
        after=read_lines(path / "predictions.jsonl", ("study_id", "labels", "reference_labels")),
        evaluation=_read_evaluation(evaluation),
        evaluated=evaluation.is_file() and metrics.is_file() and evaluation.stat().st_mtime >= metrics.stat().st_mtime,
    )


def read_lines(path: Path, keys: tuple[str, ...]) -> list[Record]:
    """A .jsonl file -> records that have these keys."""
    if not path.is_file():
        return []
    records = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not valid JSON ({error}); remove the line") from error
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise UserError(f"{path} line {number}: no {', '.join(missing)} in it; it is not of a run of this version")
        records.append(record)
    return records


def signature(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Changes whenever a file of the run does: (size, time of change) of each."""
    stats = [(path / name).stat() if (path / name).is_file() else None for name in FILES]
    return tuple((stat.st_size, stat.st_mtime_ns) if stat else None for stat in stats)


def _read_evaluation(path: Path) -> Record:
    """The before/after table; {} where there is none, or where `mrg-grpo evaluate` has put its own in its place."""
    if not path.is_file():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); end the run with --resume to write it again") from error
    return tree if isinstance(tree, dict) and "sides" in tree else {}
