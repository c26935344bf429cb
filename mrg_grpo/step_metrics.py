"""What a step logs: every name here is explained in docs/metrics.md. The device is waited for once, in `summary`.

On many ranks each collects its own reports, and `summary` is of all: the numbers are those of one process.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.labels import BLANK, UNCERTAIN
from mrg_grpo.model.rollout import Rollout
from mrg_grpo.rewards import RewardTable


class PhaseTimer:
    """Seconds per named phase. On a GPU each phase's end waits for the device, so that the phases add up."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.started = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


class StepStats:
    """Collects tensors over the micro-batches of a step; turns them into numbers at its end."""

    def __init__(
        self, rollout: Rollout, table: RewardTable, advantages: Tensor, filler: int = 0, ratio: str = "token"
    ) -> None:
        self.rollout, self.table, self.advantages, self.ratio = rollout, table, advantages, ratio
        self.filler, self.group = filler, advantages.shape[1]  # filler: studies at the end that count for nothing
        self.logps = torch.zeros_like(rollout.logps)  # (B, T), of the first pass
        self.entropy = torch.zeros_like(rollout.logps)
        self.trained = torch.zeros_like(rollout.mask)  # (B, T), the tokens of the first pass; not of groups left out
        self.grad_norm = torch.zeros(())
        self.loss = torch.zeros((), device=rollout.logps.device)
        self.all_losses, self.all_logps = self.loss, self.loss  # sums over all passes: NaN and infinity stay in them
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor | int] = {}  # what each of the sums is a sum over: tokens, or reports

    def add(
        self,
        rows: Tensor,
        inner: int,
        loss: Tensor,
        logps: Tensor,
        entropy: Tensor,
        mask: Tensor,
        metrics: dict[str, Tensor],
    ) -> None:
        """One micro-batch. Its means are weighted by its tokens, those of a report's one ratio by its reports: they add
        up to means over all tokens, or all reports, of all passes."""
        if inner == 0:
            width = logps.shape[1]
            self.logps[rows, :width] = logps.detach()
            self.entropy[rows, :width] = entropy
            self.trained[rows, :width] = mask
            self.loss = self.loss + loss.detach()
        self.all_losses = self.all_losses + loss.detach()
        self.all_logps = self.all_logps + logps.detach().sum()
        tokens = mask.sum()
        for name, value in metrics.items():
            weight = len(rows) if self.ratio == "sequence" and name != "kl" else tokens
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
            self.weights[name] = self.weights.get(name, 0) + weight

    def watched(self) -> dict[str, Tensor]:
        """What must be finite before the optimiser moves, in the order of the step."""
        return {
            "sampling logits": self.rollout.logps, "rewards": self.table.total, "advantages": self.advantages,
            "training logits": self.all_logps, "loss": self.all_losses,
        }  # fmt: skip

    def evidence(self) -> dict[str, Any]:
        """The rollout and its rewards, for the file of a skipped step; tensors are as in Rollout and RewardTable."""
        rollout, table = self.rollout, self.table
        return {
            "tokens": rollout.tokens, "mask": rollout.mask, "sampling_logps": rollout.logps, "logps": self.logps,
            "rewards": table.terms, "reward": table.total, "advantages": self.advantages,
        }  # fmt: skip

    def summary(self, timer: PhaseTimer) -> dict[str, float]:
        """name -> number over the reports of all ranks, for metrics.jsonl. Seconds are rank 0's, memory is the most."""
        rollout, trained = self.rollout, self.trained
        reports, gap = self.columns(), (self.logps - rollout.logps).abs().mul(trained)  # (B, T)
        sums = {
            "loss": self.loss, "entropy": self.entropy.sum(), "gap": gap.sum(), "trained": trained.sum(),
            **{f"{name}/sum": total for name, total in self.sums.items()},
            **{f"{name}/weight": weight for name, weight in self.weights.items()},
        }  # fmt: skip
        whole = distributed.sum_by_name({name: float(value) for name, value in sums.items()})
        own = (float(gap.max()), peak_memory_gb(rollout.tokens.device))
        sampling_gap, memory = map(max, zip(*distributed.all_gather(own)))

        reward = reports.pop("reward")
        values: dict[str, Tensor | float] = {"reward": reward.mean(), "reward_std": reward.std()}
        for name in self.table.terms:
            column = reports.pop(f"reward/{name}")
            present = column[~column.isnan()]
            if not len(present):  # None for every report
                continue
            values[f"reward/{name}"] = present.mean()
            values[f"reward/{name}_std"] = present.std() if len(present) > 1 else present.new_zeros(())
        values |= {
            "groups_without_spread": reports["groups_without_spread"].mean(),
            "zero_reward": (reward == 0).float().mean(),
            "loss": whole["loss"],
            "grad_norm": self.grad_norm,
            **(self.of_trained(whole, sampling_gap) if whole["trained"] else {}),
            "tokens": reports["length"].sum(),
            "length_max": reports["length"].max(),
            **{name: reports[name].mean() for name in ("length", "truncated", "mentioned", "uncertain")},
        }
        numbers = {name: float(value) for name, value in values.items()}
        seconds = {f"seconds/{phase}": round(spent, 4) for phase, spent in timer.seconds.items()}
        seconds["seconds/step"] = round(time.perf_counter() - timer.started, 4)
        return {**numbers, "skipped": 0.0, **seconds, "memory_gb": memory}

    def of_trained(self, whole: dict[str, float], sampling_gap: float) -> dict[str, float]:
        """Means over what the policy has run again to learn from; a step of groups without spread has nothing of it."""
        return {
            **{
                name.removesuffix("/sum"): total / whole[name.replace("/sum", "/weight")]
                for name, total in whole.items()
                if name.endswith("/sum")
            },
            "entropy": whole["entropy"] / whole["trained"],
            "sampling_gap": sampling_gap,
            "sampling_gap_mean": whole["gap"] / whole["trained"],
        }

    def columns(self) -> dict[str, Tensor]:
        """name -> one number per report of all ranks."""
        table, labels = self.table, self.table.reports.labels
        own = {
            "reward": table.total,
            **{f"reward/{name}": column for name, column in table.terms.items()},
            "groups_without_spread": (self.advantages == 0).all(dim=1).repeat_interleave(self.group),
            "length": self.rollout.lengths,
            "truncated": ~self.rollout.finished,
            "mentioned": (labels[:, :13] != BLANK).sum(dim=1),
            "uncertain": (labels[:, :13] == UNCERTAIN).sum(dim=1),
        }
        numbers = torch.stack([column.cpu().to(table.total.dtype) for column in own.values()], dim=1)  # (B, names)
        return dict(zip(own, distributed.gather_rows(numbers, self.filler * self.group).unbind(dim=1)))


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory of the process so far: of the GPU where there is one, else resident set size. GB = 1e9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
