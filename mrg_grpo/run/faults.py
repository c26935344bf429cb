"""Steps whose numbers are not finite: skipped, counted, written to a file that reproduces them.

    RUN_DIR/faults/step-000123.pt    `mrg-grpo replay FILE` runs that step again from its own state

Deliberate choices:
* One look per inner pass, right before the optimiser moves: on a GPU it is the only wait. What was not finite earlier
  (logits, rewards, loss) still is then, and the file names the first of them.
* A skipped step leaves adapter and optimiser as they were before it, also where an earlier inner pass had moved them:
  with several inner passes a copy of both is kept for the length of a step.
* A step of whose studies none can be shown, as their pictures are gone, is skipped too, without a file.
* A run whose steps fail LIMIT times in a row ends. No checkpoint is written while steps are skipped, so its last two
  are older than the first of them, and the older one is the way out where the last step before them did the harm.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.errors import NotFiniteError, UserError
from mrg_grpo.files import writing
from mrg_grpo.model.batch import PromptBatch, pad_rows
from mrg_grpo.model.policy import Policy
from mrg_grpo.run.checkpoint import State
from mrg_grpo.toml import to_toml

LIMIT = 5
"""Skipped steps in a row that end a run, and the number of fault files that are kept."""
Shown = TypeVar("Shown")


class Guard:
    """Takes the steps of a run, and skips those that raise NotFiniteError."""

    def __init__(self, run_dir: Path, config: Config, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        self.run_dir, self.config, self.policy, self.optimizer = run_dir, config, policy, optimizer

    def attempt(
        self,
        step: Callable[[int, PromptBatch], tuple[dict[str, float], Shown | None]],
        number: int,
        prompts: PromptBatch | None,
    ) -> tuple[dict[str, float], Shown | None]:
        """The step's own result; of a skipped step `skipped` alone. UserError after LIMIT in a row.

        prompts: None where no study of the step can be shown.
        """
        if prompts is None:
            self.require_steps(
                f"up to step {number} had no study whose pictures can be read; put the image files back, then go on "
                "with --resume"
            )
            tqdm.write(f"step {number} skipped: the pictures of none of its studies can be read")
            return {"skipped": 1.0}, None
        before = State.of(self.policy, self.optimizer) if self.config.grpo.inner_passes > 1 else None
        try:
            return step(number, prompts.to(self.policy.device))
        except NotFiniteError as fault:
            self.optimizer.zero_grad()
            if before:
                before.restore(self.policy, self.optimizer)
            path = self.dump(number, prompts, fault)
            what = ", ".join(fault.names)
        self.require_steps(
            f"up to step {number} were not finite ({what} in the last, see {path}); "
            "the checkpoints are older than they are: start a new run from the adapter of the older one, as "
            "model.adapter, with a lower learning rate, or --resume if the machine was at fault"
        )
        tqdm.write(f"step {number} skipped: {what} not finite; reproduce it: mrg-grpo replay {shlex.quote(str(path))}")
        return {"skipped": 1.0}, None

    def require_steps(self, what: str) -> None:
        """UserError, which goes on with `what`, if with this one LIMIT steps in a row are skipped."""
        last = skipped_last(self.run_dir / "metrics.jsonl") if distributed.is_first() else 0
        if distributed.broadcast(last) + 1 >= LIMIT:
            raise UserError(f"{LIMIT} steps in a row {what}")

    def dump(self, number: int, prompts: PromptBatch, fault: NotFiniteError) -> Path:
        """What the step was given on all ranks, and what it made of it. The state is that before the step."""
        state, path = State.of(self.policy, self.optimizer), self.run_dir / "faults" / f"step-{number:06d}.pt"
        ids = fault.evidence.pop("study_ids", prompts.study_ids)  # some may have replaced others
        parts = distributed.all_gather(counted(fault.evidence, prompts) if self.config.run.keep_text else {})
        own = ids[: int(prompts.counts.sum())]
        studies = [study for part in distributed.all_gather(own) for study in part]
        content = {
            **banner(self.config), "step": number, "not_finite": fault.names, "study_ids": studies,
            "grpo": bool(fault.evidence), **joined(parts), "config": to_toml(self.config),
            "adapter": state.adapter, "optimizer": state.optimizer,
        }  # fmt: skip
        self.write(path, content)
        return path

    @distributed.first_only
    def write(self, path: Path, content: dict[str, Any]) -> None:
        """The file of a skipped step; of the older ones LIMIT - 1 are kept."""
        whole = io.BytesIO()
        torch.save(content, whole)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(whole.getbuffer())
        for old in sorted(path.parent.glob("step-*.pt"))[:-LIMIT]:
            old.unlink()


def counted(evidence: dict[str, Any], prompts: PromptBatch) -> dict[str, Any]:
    """Evidence of this rank without its filler studies; each tensor has as many rows for every study."""
    n = len(prompts.studies)
    return {
        name: counted(value, prompts) if isinstance(value, dict)
        else value.detach().cpu()[: len(value) // n * (n - prompts.filler)].clone()
        for name, value in evidence.items()
    }  # fmt: skip


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Evidence of all ranks as one process has it: rows in the order of the studies, padded to the longest report."""
    whole: dict[str, Any] = {}
    for name, value in parts[0].items():
        values = [part[name] for part in parts]
        whole[name] = joined(values) if isinstance(value, dict) else pad_rows(values)
    return whole


def skipped_last(metrics: Path) -> int:
    """How many of the last lines of metrics.jsonl are of skipped steps."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    count = 0
    while count < len(lines) and json.loads(lines[-1 - count]).get("skipped"):
        count += 1
    return count


def took_none(metrics: Path) -> bool:
    """Whether metrics.jsonl has lines and all of them are of skipped steps."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return bool(lines) and skipped_last(metrics) == len(lines)
