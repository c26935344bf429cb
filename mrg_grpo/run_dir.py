"""What a run leaves behind, and the only place that writes it.

config.toml  metrics.jsonl  rollouts.jsonl  validation.jsonl  followed.jsonl  checkpoints/  adapter/
predictions_before.jsonl  predictions.jsonl  evaluation.json
Of credentialed data also CREDENTIALED.txt, see mrg_grpo.credentialed.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from mrg_grpo import __version__
from mrg_grpo.config import Config, changed_keys, load_config, to_toml
from mrg_grpo.credentialed import banner, mark
from mrg_grpo.errors import UserError
from mrg_grpo.evaluate import Judged, prediction_record
from mrg_grpo.grpo import StepResult

MAY_CHANGE = {
    "run.output_dir", "run.steps", "run.save_every", "run.eval_every", "run.eval_studies", "run.test_studies",
    "run.rollouts_every", "run.follow_studies", "run.show_every", "run.tensorboard", "run.decode_batch",
    "run.keep_text", "model.device", "grpo.micro_batch",
}  # fmt: skip
"""Settings that a resumed run may have different: they do not change what a step computes."""


class RunDir:
    """The folder of one run."""

    def __init__(self, config: Config, resume: bool) -> None:
        self.config, self.path = config, Path(config.run.output_dir)
        existing = self.path / "config.toml"
        if existing.exists() and not resume:
            raise UserError(f"run.output_dir {self.path}: already holds a run; add --resume or name another folder")
        if existing.exists():
            self._compare(load_config(existing))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            existing.write_text(self._header() + to_toml(config), encoding="utf-8")
            mark(self.path, config)
        except OSError as error:
            raise UserError(f"run.output_dir {self.path}: cannot be written ({error.strerror})") from error

    def _header(self) -> str:
        versions = {
            "mrg_grpo": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__, "peft": peft.__version__,
        }  # fmt: skip
        return "".join(f"# {name} {version}\n" for name, version in versions.items()) + "\n"

    def _compare(self, before: Config) -> None:
        changed = changed_keys(before, self.config)
        refused = [name for name in changed if name not in MAY_CHANGE]
        if self.config.grpo.decay and "run.steps" in changed:
            refused.append("run.steps")  # the learning rate follows it
        if refused:
            raise UserError(
                f"--resume {self.path}: {', '.join(refused)} changed since the run began and would change its meaning; "
                "put the old value back or start a new run"
            )

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One line of a .jsonl file."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def write_json(self, name: str, value: Any) -> None:
        temporary = self.path / f".{name}"
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, self.path / name)

    def cut_after(self, step: int) -> None:
        """Drop lines of steps that the resumed run will do again."""
        for name in ("metrics.jsonl", "rollouts.jsonl", "validation.jsonl", "followed.jsonl"):
            path = self.path / name
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
                path.write_text("".join(kept), encoding="utf-8")

    def write_rollouts(self, step: int, result: StepResult) -> None:
        """Every sampled group of a step: reports, labels, each reward term, advantage."""
        group = self.config.grpo.group_size
        reports, table = result.table.reports, result.table
        terms = {name: column.tolist() for name, column in table.terms.items()}
        keep = self.config.run.keep_text
        for n, study in enumerate(reports.studies[::group]):
            rows = range(n * group, (n + 1) * group)
            samples = [
                {
                    "completion": reports.completions[i] if keep else None,
                    "labels": reports.labels[i].tolist(),
                    "rewards": {name: column[i] for name, column in terms.items()},
                    "reward": float(table.total[i]),
                    "advantage": float(result.advantages[n, i - n * group]),
                }
                for i in rows
            ]
            record = {
                "step": step,
                **banner(self.config),
                "study_id": study.id,
                "images": list(study.images) if keep else None,
                "reference": study.report if keep else None,
                "reference_labels": reports.reference_labels[rows[0]].tolist(),
                "samples": samples,
            }
            self.append("rollouts.jsonl", record)

    def write_followed(self, step: int, judged: Judged) -> None:
        """The first run.follow_studies validation studies after `step`: the same studies over training."""
        for i in range(min(self.config.run.follow_studies, len(judged.labels))):
            self.append("followed.jsonl", {"step": step, **prediction_record(judged, i, self.config)})
