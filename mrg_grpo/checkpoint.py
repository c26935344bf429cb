"""Checkpoints: written whole or not at all, checked before they are believed.

    RUN_DIR/checkpoints/step-000050/   adapter/ (PEFT)  state.pt (optimiser, step)  checksums.json

A checkpoint is written under a temporary name, synced to disk and renamed; the last two are kept. On resume the newest
one whose checksums hold is taken, and a damaged one is named. All randomness of a run is keyed by (seed, step), so a
step number is the data position and the random state.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from mrg_grpo.errors import UserError
from mrg_grpo.policy import Policy

KEEP = 2


@dataclass
class Resumed:
    """Where a run goes on: the number of finished steps, and the checkpoints that were damaged and passed over."""

    step: int
    damaged: list[str]


def save_checkpoint(run_dir: Path, step: int, policy: Policy, optimizer: torch.optim.Optimizer) -> Path:
    """Write the state after `step` finished steps; the older ones but the last go."""
    folder = run_dir / "checkpoints"
    final, temporary = folder / f"step-{step:06d}", folder / f".writing-{step:06d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        policy.save(str(temporary / "adapter"))
        torch.save({"step": step, "optimizer": optimizer.state_dict()}, temporary / "state.pt")
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        sums = {str(p.relative_to(temporary)): sha256(p) for p in files}
        (temporary / "checksums.json").write_text(json.dumps(sums, indent=1))
        for path in [*files, temporary / "checksums.json"]:
            sync(path)
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"checkpoint {final}: cannot be written ({error.strerror}); free space and resume, the last one is intact"
        ) from error
    for old in saved_steps(run_dir)[:-KEEP]:
        shutil.rmtree(old)
    return final


def resume(run_dir: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> Resumed:
    """Load the newest sound checkpoint into policy and optimiser. Step 0 if there is none."""
    damaged = []
    for folder in reversed(saved_steps(run_dir)):
        fault = find_fault(folder)
        if fault:
            damaged.append(f"{folder.name}: {fault}")
            continue
        state = torch.load(folder / "state.pt", map_location=policy.device, weights_only=True)
        load_adapter(policy, folder / "adapter")
        optimizer.load_state_dict(state["optimizer"])
        return Resumed(state["step"], damaged)
    return Resumed(0, damaged)


def load_adapter(policy: Policy, folder: Path) -> None:
    """Copy saved adapter weights into the policy's, strictly: every tensor, no other."""
    result: Any = set_peft_model_state_dict(policy.model, load_file(folder / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise UserError(f"adapter {folder}: {len(result.unexpected_keys)} unknown tensors; it is of another base")


def saved_steps(run_dir: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = json.loads((folder / "checksums.json").read_text())
    except (OSError, ValueError):
        return "checksums.json is missing or unreadable"
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256(folder / name) != expected:
            return f"{name} is damaged (checksum differs)"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
