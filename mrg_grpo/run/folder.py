"""What a run leaves behind, and the only place that writes it.

config.toml  inputs.json  start_adapter/
metrics.jsonl  rollouts.jsonl  validation.jsonl  followed.jsonl  checkpoints/  adapter/
predictions_before.jsonl  predictions.jsonl  evaluation.json  left_out.jsonl
Of credentialed data also CREDENTIALED.txt, see mrg_grpo.data.credentialed.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from mrg_grpo import __version__, distributed
from mrg_grpo.config import Config, load_config
from mrg_grpo.data.credentialed import banner, mark
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.files import locked, read_text, sync, write_whole, writing
from mrg_grpo.grpo import StepResult
from mrg_grpo.run.best import BEST
from mrg_grpo.run.checkpoint import saved_steps, step_number
from mrg_grpo.run.inputs import (
    IMAGES,
    RECORD,
    START,
    adapter_folder,
    inputs_of,
    keep_start,
    read_record,
    require_same,
    start_adapter,
    write_record,
)
from mrg_grpo.toml import changed_keys, to_toml, written_by_run

MAY_CHANGE = {
    "run.output_dir", "run.steps", "run.save_every", "run.eval_every", "run.eval_studies", "run.test_studies",
    "run.keep_best", "run.patience", "run.rollouts_every", "run.follow_studies", "run.show_every", "run.report_to",
    "run.decode_batch", "run.keep_text", "model.device", "grpo.studies_per_pass", "grpo.micro_batch",
    "sft.micro_batch", "sampling.batch", "grpo.recompute", "data.allow_missing", "data.workers",
}  # fmt: skip
"""Settings that a resumed run may have different: they do not change what a step means."""
ROUNDING = {"model.device", "grpo.studies_per_pass", "grpo.micro_batch", "sft.micro_batch", "sampling.batch"}
"""Of these the ones that sum the same numbers in another order: the run goes on, but not bit for bit."""
LEFT_OUT = "left_out.jsonl"
"""Studies whose pictures could not be read, see mrg_grpo.run.left_out."""
LOGS = ("metrics.jsonl", "rollouts.jsonl", "validation.jsonl", "followed.jsonl", LEFT_OUT)
"""Files of lines, each with its step."""
OWN = (*LOGS, "checkpoints", "adapter", BEST, "faults", "predictions_before.jsonl", "predictions.jsonl",
       "predictions_best.jsonl", "evaluation.json", RECORD, START)  # fmt: skip
"""What a run would write over."""


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in this folder; a config.toml that somebody wrote is none."""
    return written_by_run(folder / "config.toml")


def require_no_strangers(folder: Path) -> None:
    """UserError where a run would write over what is no run's, its configuration included.

    A run that was killed before `begin` has left .config and perhaps its record and start: those are no strangers.
    """
    left = (RECORD, START) if (folder / ".config").exists() else ()
    strangers = [name for name in OWN if name not in left and (folder / name).exists()]
    if (folder / "config.toml").exists():
        raise UserError(
            f"run.output_dir {folder}: has a config.toml that no run wrote, and a run would write its own over it; "
            "name another folder, for example one in it"
        )
    if strangers:
        raise UserError(
            f"run.output_dir {folder}: has {', '.join(strangers)} but no config.toml, so it is no run's, and a "
            "run would write over it; name another folder"
        )


def adapter_of(config: Config, adapter: str | None, base: bool, best: bool = False) -> str | None:
    """The adapter that is meant, named on stderr: `adapter`, else the run's last, or its best on validation, where it
    has one and `base` does not ask for the start policy. UserError where the folder holds a run that has none yet."""
    folder, which = Path(config.run.output_dir), ""
    own = folder / (BEST if best else "adapter")
    if best and (adapter or base):
        raise UserError("--best is an adapter of the run; leave --adapter and --base out")
    if not adapter and not base:
        if own.is_dir():
            adapter, which = str(own), told(folder, best)
        elif best:
            raise UserError(
                f"--best: {own} is not there; a run writes it at its end, with run.keep_best and a validation split"
            )
        elif holds_run(folder):
            raise UserError(
                f"{folder}: holds a run without an adapter, so it has not ended; go on with --resume, or say --base "
                "for the policy it started from"
            )
    if not adapter and (folder / START).is_dir():
        adapter = start_adapter(folder, config)
    if distributed.is_first():
        print(f"policy: {adapter or config.model.adapter or 'the base, without an adapter'}{which}", file=sys.stderr)
    return adapter


def told(folder: Path, best: bool) -> str:
    """Which of a run's adapters is judged, the last or the best, and of which step each is; "" where the run has not
    recorded it."""
    try:
        record = json.loads(read_text(folder / "evaluation.json"))
        last, chosen = int(record["step"]), record.get("best")
        why = f"{chosen['metric']} {float(chosen['value']):.3f} on validation" if chosen else ""
        if chosen and int(chosen["step"]) == last:
            return f" (after step {last}: the last, and the best, {why})"
        if best:
            return f" (the best, after step {int(chosen['step'])}: {why}; the last is of step {last})"
        other = f"; --best takes that of step {int(chosen['step'])}: {why}" if chosen else ""
        return f" (the last, after step {last}{other})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


class RunFolder:
    """The folder of one run of `command`, train or sft.

    Made first, so that a folder that cannot be used ends a run before anything is loaded; the run is there for others
    from `begin` on, so that a start that fails leaves nothing that a second start would have to resume.
    Of many ranks only the first looks at the folder and writes there.
    """

    def __init__(self, config: Config, resume: bool, command: str = "train") -> None:
        self.config, self.path, self.command = config, Path(config.run.output_dir), command
        if not distributed.is_first():
            return
        existing = holds_run(self.path)
        if existing and not resume:
            raise UserError(f"run.output_dir {self.path}: already holds a run; add --resume or name another folder")
        if existing:
            self._compare(load_config(self.path / "config.toml"))
        else:
            require_no_strangers(self.path)
        remedy = "set run.output_dir to a folder of yours, on a disk with room"
        with writing(f"run.output_dir {self.path}", remedy):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self.lock = locked(self.path / ".lock")
            except BlockingIOError:
                raise UserError(
                    f"run.output_dir {self.path}: another process is writing this run; wait for it, stop it, or name "
                    "another folder"
                ) from None
        write_whole(self.path / ".config", self._header() + to_toml(explicit(config)), remedy)

    @distributed.first_only
    def close(self) -> None:
        """Leave the folder to other processes; the end of this one does it too."""
        self.lock.close()

    @distributed.first_only
    def settle_inputs(self, splits: dict[str, list[Study]]) -> None:
        """Record what a new run was given and keep its start adapter; hold a resumed one to its record. UserError."""
        named = self.config.model.adapter
        if not holds_run(self.path):
            start = keep_start(adapter_folder(named), self.path) if named else None
            write_record(self.path, inputs_of(self.config, splits, start))
            return
        before = read_record(self.path)
        if before is not None:
            start = self.path / START if named else None
            require_same(before, inputs_of(self.config, splits, start), self.path)

    def left_out(self) -> dict[str, list[int]] | None:
        """The images, by study id and place, that the run began without; None where it has not begun or has not
        recorded them."""
        record = read_record(self.path) if distributed.is_first() and holds_run(self.path) else None
        return distributed.broadcast(record.get(IMAGES) if record else None)

    @distributed.first_only
    def begin(self) -> None:
        """From here on the folder holds a run."""
        with writing(self.path):
            mark(self.path, self.config)
            os.replace(self.path / ".config", self.path / "config.toml")
            sync(self.path)

    def _header(self) -> str:
        versions = {
            "mrg_grpo": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__, "peft": peft.__version__,
        }  # fmt: skip
        return f"# run of {self.command}\n" + "".join(f"# {n} {version}\n" for n, version in versions.items()) + "\n"

    def _compare(self, before: Config) -> None:
        first = (self.path / "config.toml").read_text(encoding="utf-8").partition("\n")[0]
        if first.startswith("# run of ") and first != f"# run of {self.command}":
            raise UserError(
                f"--resume {self.path}: holds a {first[2:]}, not of {self.command}; name another folder, and give this "
                "one's adapter as model.adapter to go on from it"
            )
        changed = changed_keys(explicit(before), explicit(self.config))
        refused = [name for name in changed if name not in MAY_CHANGE]
        if (self.config.grpo.decay or self.command == "sft") and "run.steps" in changed:
            refused.append("run.steps")  # the learning rate follows it
        taken = max((step_number(folder) for folder in saved_steps(self.path)), default=0)
        if self.config.run.steps < taken:
            raise UserError(f"--resume {self.path}: it has taken {taken} steps, run.steps is {self.config.run.steps}")
        if refused:
            raise UserError(
                f"--resume {self.path}: {', '.join(refused)} changed since the run began and would change its meaning; "
                "put the old value back or start a new run"
            )
        if changed:
            rounding = [name for name in changed if name in ROUNDING]
            note = f"; no longer bit for bit, for {', '.join(rounding)}" if rounding else ""
            print(f"changed since the run began: {', '.join(changed)}{note}")

    @distributed.first_only
    def append(self, name: str, record: dict[str, Any]) -> None:
        """One line of a .jsonl file."""
        path = self.path / name
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    @distributed.first_only
    def write_json(self, name: str, value: Any) -> None:
        write_whole(self.path / name, json.dumps(value, indent=1, ensure_ascii=False))

    @distributed.first_only
    def sync_logs(self) -> None:
        """Before a checkpoint: it must not survive a power cut that the lines of its steps, or a new log, do not."""
        for name in LOGS:
            if (self.path / name).exists():
                sync(self.path / name)
        sync(self.path)

    @distributed.first_only
    def cut_after(self, step: int) -> None:
        """Drop lines of steps that the resumed run will do again, at step 0 all; broken ones are counted and named."""
        for name in LOGS:
            path = self.path / name
            if not path.exists():
                continue
            *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")  # rest: cut short by a kill
            steps = [step_of(line) for line in lines]
            if None in steps:
                print(f"{path}: {steps.count(None)} lines are damaged and dropped")
            kept = [line + "\n" for line, at in zip(lines, steps) if at is not None and at <= step and step > 0]
            if rest or len(kept) < len(lines):
                write_whole(path, "".join(kept))

    def write_rollouts(self, step: int, result: StepResult) -> list[dict[str, Any]]:
        """Every sampled group of a step over all ranks: reports, labels, each reward term, advantage."""
        records = [record for part in distributed.all_gather(self.rollout_records(step, result)) for record in part]
        for record in records:
            self.append("rollouts.jsonl", record)
        return records

    def rollout_records(self, step: int, result: StepResult) -> list[dict[str, Any]]:
        """One line of rollouts.jsonl for each of this rank's studies."""
        group, records = self.config.grpo.group_size, []
        reports, table = result.table.reports, result.table
        terms = {  # None where a function returned None
            name: [None if math.isnan(value) else value for value in column.tolist()]
            for name, column in table.terms.items()
        }
        keep = self.config.run.keep_text
        for n, study in enumerate(reports.studies[::group][: len(result.advantages) - result.filler]):
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
                **(study.known(self.config.prompt.context) if keep else {}),
                "reference": study.report if keep else None,
                "reference_labels": reports.reference_labels[rows[0]].tolist(),
                "samples": samples,
            }
            records.append(record)
        return records


def explicit(config: Config) -> Config:
    """The configuration with the dtype it means on this machine: "auto" follows the device, which may change."""
    dtype = str(config.model.resolved_dtype()).removeprefix("torch.")
    return replace(config, model=replace(config.model, dtype=dtype))


def step_of(line: str) -> int | None:
    """The step of a line; None if the line is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
