"""Checkpoints: written whole or not at all, checked before they are believed.

    RUN_DIR/checkpoints/step-000050/   adapter/ (PEFT)  state.pt (optimiser, step, ranks)  checksums.json

A checkpoint is written under a temporary name, synced to disk and renamed; the last two are kept. On resume the newest
one whose checksums hold is taken, and a damaged one is named; if all are damaged the user decides. All randomness of a
run is keyed by (seed, step), so a step number is the data position and the random state.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.errors import UserError
from mrg_grpo.files import read_text, sync, writing
from mrg_grpo.model.adapters import save
from mrg_grpo.model.policy import Policy

KEEP = 2
STEP = re.compile(r"step-\d{6,}")
FILES = {"state.pt", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
"""What a checkpoint must have; PEFT adds a README."""


@dataclass
class Resumed:
    """Where a run goes on."""

    step: int  # finished ones
    damaged: list[str]  # checkpoints that were passed over
    ranks: int | None = None  # that took the last steps; not recorded by earlier versions

    @property
    def other_ranks(self) -> str:
        """What to say where the run goes on with another number of ranks, else ""."""
        if self.ranks in (None, distributed.world_size()):
            return ""
        order = "the same random numbers, sums in another order: no longer bit for bit"
        return f"ranks: {distributed.world_size()}, before {self.ranks}; {order}"


@distributed.first_only
def save_checkpoint(run_dir: Path, step: int, policy: Policy, optimizer: torch.optim.Optimizer) -> Path:
    """Write the state after `step` finished steps; the older ones but the last go.

    UserError if the disk is full; what was there before is untouched then.
    """
    folder = run_dir / "checkpoints"
    final, temporary = folder / f"step-{step:06d}", folder / f".writing-{step:06d}"
    for unfinished in folder.glob(".writing-*"):  # left by a kill
        shutil.rmtree(unfinished)
    try:
        with writing(final):
            temporary.mkdir(parents=True)
            save(policy.model, temporary / "adapter")
            state = io.BytesIO()  # torch.save to a full disk raises a RuntimeError that does not say so
            torch.save(
                canonical({"step": step, "ranks": distributed.world_size(), "optimizer": optimizer.state_dict()}), state
            )
            (temporary / "state.pt").write_bytes(state.getbuffer())
            files = sorted(p for p in temporary.rglob("*") if p.is_file())
            sums = {str(p.relative_to(temporary)): sha256(p) for p in files}
            (temporary / "checksums.json").write_text(json.dumps(sums, indent=1))
            for path in [*files, temporary / "checksums.json", temporary / "adapter", temporary]:
                sync(path)
            if final.exists():  # damaged, and passed over by the resume that now gets here again
                shutil.rmtree(final)
            os.rename(temporary, final)
            sync(folder)
            sync(run_dir)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for path in saved_steps(run_dir):
        if step_number(path) > step:  # damaged, and passed over by a resume: it must not push out what is sound
            shutil.rmtree(path)
    remove_old(run_dir, step)
    return final


@distributed.first_only
def save_adapter(final: Path, policy: Policy) -> Path:
    """An adapter alone, in the folder `final`: whole or not at all."""
    temporary, before = (final.parent / f".{final.name}{end}" for end in ("", "-before"))
    with writing(final):
        for left in (temporary, before):  # by a kill
            shutil.rmtree(left, ignore_errors=True)
        save(policy.model, temporary)
        for path in [*temporary.iterdir(), temporary]:
            sync(path)
        if final.exists():
            os.rename(final, before)
        os.rename(temporary, final)
        sync(final.parent)
        shutil.rmtree(before, ignore_errors=True)
    return final


def resume(run_dir: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> Resumed:
    """Load the newest sound checkpoint into policy and optimiser. Step 0 without any, UserError if none is sound.

    Of many ranks the first reads it and hands it to the others: these need not see the folder.
    """
    if distributed.world_size() == 1:
        return read_newest(run_dir, policy, optimizer)
    resumed, content = Resumed(0, []), io.BytesIO()
    if distributed.is_first():
        resumed = read_newest(run_dir, policy, optimizer)
        torch.save(vars(State.of(policy, optimizer)), content)
    resumed, sent = distributed.broadcast((resumed, content.getvalue()))
    if not distributed.is_first():
        state = torch.load(io.BytesIO(sent), map_location="cpu", weights_only=True)
        State(**state).restore(policy, optimizer)
    return resumed


def remove_old(run_dir: Path, step: int) -> None:
    """Of the checkpoints up to `step` only the newest KEEP stay. Later ones, damaged and passed over, stay too."""
    for path in [path for path in saved_steps(run_dir) if step_number(path) <= step][:-KEEP]:
        shutil.rmtree(path)


def read_newest(run_dir: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> Resumed:
    """`resume` of one rank."""
    damaged = []
    for folder in reversed(saved_steps(run_dir)):
        fault = find_fault(folder)
        if fault:
            damaged.append(f"{folder.name}: {fault}")
            continue
        # the optimiser takes its moments to their parameters, and leaves step counters here, where AdamW counts
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        load_adapter(policy, folder / "adapter")
        optimizer.load_state_dict(state["optimizer"])
        remove_old(run_dir, state["step"])  # a kill may have come between writing this one and removing the oldest
        return Resumed(state["step"], damaged, state.get("ranks"))
    if damaged:
        raise UserError(
            f"--resume {run_dir}: no checkpoint is sound ({'; '.join(damaged)}); put one back, or remove "
            f"{run_dir / 'checkpoints'} to begin again at step 0"
        )
    return Resumed(0, damaged)


def load_adapter(policy: Policy, folder: Path) -> None:
    """Copy saved adapter weights into the policy's, strictly: every tensor, no other."""
    result: Any = set_peft_model_state_dict(policy.model, load_file(folder / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise UserError(f"adapter {folder}: {len(result.unexpected_keys)} unknown tensors; it is of another base")


def canonical(tree: Any) -> Any:
    """The same tree in new containers, equal strings one object: a state that was loaded pickles to the same bytes as
    one that never left memory, so that two checkpoints can be compared by their checksums."""
    if isinstance(tree, dict):
        return {canonical(key): canonical(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(canonical(value) for value in tree)
    return sys.intern(tree) if isinstance(tree, str) else tree


def saved_steps(run_dir: Path) -> list[Path]:
    """Checkpoint folders, oldest first. Folders of any other name, such as a copy put aside, are the user's."""
    folders = (run_dir / "checkpoints").glob("step-*")
    return sorted((path for path in folders if STEP.fullmatch(path.name)), key=step_number)


def step_number(folder: Path) -> int:
    """step-000050 -> 50."""
    return int(folder.name.removeprefix("step-"))


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = json.loads(read_text(folder / "checksums.json"))
    except (OSError, ValueError):
        return "checksums.json is missing or unreadable"
    if not isinstance(sums, dict) or not sums.keys() >= FILES:
        return "checksums.json is damaged (it does not name every file)"
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256(folder / name) != expected:
            return f"{name} is damaged (checksum differs)"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class State:
    """Adapter and optimiser at one moment."""

    def __init__(self, adapter: dict[str, Tensor], optimizer: dict[str, Any] | None) -> None:
        self.adapter, self.optimizer = adapter, optimizer

    @classmethod
    def of(cls, policy: Policy, optimizer: torch.optim.Optimizer) -> State:
        adapter = {name: p.detach().clone() for name, p in policy.model.named_parameters() if p.requires_grad}
        return cls(adapter, copy.deepcopy(optimizer.state_dict()))

    def restore(self, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        own = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        if own.keys() != self.adapter.keys():
            raise UserError("the adapter of the fault file is of another base or other lora.targets")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(self.adapter[name])
        if self.optimizer is not None:
            optimizer.load_state_dict(copy.deepcopy(self.optimizer))
