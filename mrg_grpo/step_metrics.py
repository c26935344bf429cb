"""Every number that a step logs: how it is computed, what it means, its healthy range, what to do outside of it.

`StepLog` computes them; the device is waited for twice, in `summary`. On many ranks each collects its own reports, and
`summary` is of all: the numbers are those of one process.

`METRICS` explains them: docs/reference/metrics.md is made from it, and so is what the run page says of a curve.
"""

# ruff: noqa: E501  (rows of a table are easier to compare in long lines)

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.labels import BLANK, UNCERTAIN

if TYPE_CHECKING:  # the run page reads METRICS and needs no engine
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


class StepLog:
    """Collects what the micro-batches of a step report; turns it into numbers at its end."""

    def __init__(
        self, rollout: Rollout, table: RewardTable, advantages: Tensor, filler: int = 0, ratio: str = "token"
    ) -> None:
        """filler: studies at the end that count for nothing; ratio: "token" or "sequence", what the ratios are of."""
        self.rollout, self.table, self.advantages = rollout, table, advantages
        self.filler, self.ratio, self.group = filler, ratio, advantages.shape[1]
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, int] = {}  # what each of the sums is a sum over: tokens, or reports

    def add(self, metrics: dict[str, Tensor], reports: int, tokens: int) -> None:
        """The metrics of one micro-batch. Its means are weighted by its tokens, those of a report's one ratio by its
        reports: they add up to means over all tokens, or all reports, of all passes."""
        for name, value in metrics.items():
            weight = reports if self.ratio == "sequence" and name not in ("kl", "sampling_ratio") else tokens
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
            self.weights[name] = self.weights.get(name, 0) + weight

    def summary(
        self, loss: Tensor, logps: Tensor, entropy: Tensor, trained: Tensor, grad_norm: Tensor, timer: PhaseTimer
    ) -> dict[str, float]:
        """name -> number over the reports of all ranks, for metrics.jsonl. Seconds are rank 0's, memory is the most.

        loss (), logps, entropy and trained (B, T) are of the first inner pass, trained True where it ran, on the CPU;
        grad_norm () is of the last.
        """
        reports, gap = self.columns(), (logps - self.rollout.logps).abs().mul(trained.to(logps.device))  # (B, T)
        sums = {
            "largest gap": gap.max(), "grad_norm": grad_norm, "loss": loss, "entropy": entropy.sum(), "gap": gap.sum(),
            **{f"{name}/sum": total for name, total in self.sums.items()},
        }  # fmt: skip
        numbers = dict(zip(sums, torch.stack([value.to(gap.dtype) for value in sums.values()]).tolist()))
        own, norm = (numbers.pop("largest gap"), peak_memory_gb(gap.device)), numbers.pop("grad_norm")
        weights = {f"{name}/weight": float(weight) for name, weight in self.weights.items()}
        whole = distributed.sum_by_name({**numbers, **weights, "trained": float(trained.sum())})
        sampling_gap, memory = map(max, zip(*distributed.all_gather(own)))
        values: dict[str, Tensor | float] = {
            **self.of_rewards(reports),
            "loss": whole["loss"],
            "grad_norm": norm,
            **(self.of_trained(whole, sampling_gap) if whole["trained"] else {}),
            "tokens": reports["length"].sum(),
            "length_max": reports["length"].max(),
            **{
                name: reports[name].mean()
                for name in ("length", "truncated", "special_tokens", "mentioned", "uncertain")
            },
        }
        logged = {name: float(value) for name, value in values.items()}
        seconds = {f"seconds/{phase}": round(spent, 4) for phase, spent in timer.seconds.items()}
        seconds["seconds/step"] = round(time.perf_counter() - timer.started, 4)
        return {**logged, "skipped": 0.0, **seconds, "memory_gb": memory}

    def of_rewards(self, reports: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean and spread of the reward and of each of its terms, and how many groups and reports earn nothing."""
        reward = reports["reward"]
        values = {"reward": reward.mean(), "reward_std": reward.std()}
        for name in self.table.terms:
            column = reports[f"reward/{name}"]
            present = column[~column.isnan()]
            if not len(present):  # None for every report
                continue
            values[f"reward/{name}"] = present.mean()
            values[f"reward/{name}_std"] = present.std() if len(present) > 1 else present.new_zeros(())
        values["groups_without_spread"] = reports["groups_without_spread"].mean()
        values["zero_reward"] = (reward == 0).float().mean()
        return values

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
            "special_tokens": torch.tensor(self.rollout.special_counts()),
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


@dataclass(frozen=True)
class Metric:
    """What is known of one metric, or of several of a kind. <term> or <phase> in a name stands for any name there."""

    names: tuple[str, ...]
    meaning: str
    healthy: str = ""
    otherwise: str = ""

    def is_named(self, name: str) -> bool:
        return any(re.fullmatch(re.sub(r"<\w+>", ".+", re.escape(own)), name) for own in self.names)


METRICS = (
    Metric(("reward", "reward_std"), "mean and standard deviation of the reward, the weighted sum of its terms, over the B reports of the step", "the mean rises over tens of steps, the standard deviation stays above 0", "flat: see `groups_without_spread`; falling: lower the learning rate"),
    Metric(("reward/<term>", "reward/<term>_std"), "the same for one term, before its weight; reports for which a function returned None do not count", "each term with a weight rises or holds", "one term rises while another falls: change the weights"),
    Metric(("groups_without_spread",), "share of groups (the G reports of one study) whose rewards are all equal: such a group teaches nothing", "below 0.3", "raise `sampling.temperature` or `grpo.group_size`, or lower the margin, which brings back reports that MCCS cuts to 0"),
    Metric(("zero_reward",), "share of reports whose reward is exactly 0", "falls", "lower `reward.mccs.margin`; check the form of the answers"),
    Metric(("loss",), "the GRPO loss of the first inner pass", "near 0: on policy it is minus the mean advantage, which is 0, plus beta * KL", "**A loss of 0 is not a fault.** Its gradient is not 0: look at `grad_norm` and `reward`"),
    Metric(("grad_norm",), "norm of the adapter's gradient before clipping, in the last inner pass", "steady, of one order of magnitude", "0: no group has spread; spikes: lower `grpo.learning_rate` or `grpo.max_grad_norm`"),
    Metric(("kl",), "estimate of the KL divergence of the policy from the frozen start, per token, as `grpo.kl` says; logged with `grpo.beta` above 0", "0 at the first step, then rises slowly, below about 1", "rises fast: raise `grpo.beta` or lower the learning rate"),
    Metric(("clip_fraction_low", "clip_fraction_high"), "share of tokens (of reports with `grpo.ratio = \"sequence\"`) whose ratio is clipped, so that they give no gradient", "0 with one inner pass, below 0.2 with several", "take fewer inner passes or a lower learning rate"),
    Metric(("ratio_mean",), "mean importance ratio of the policy to the policy that sampled", "1 with one inner pass, near 1 with several", "take fewer inner passes or a lower learning rate"),
    Metric(("entropy",), "mean entropy of the next-token distribution over the whole vocabulary, in nats, on the reports that train; absent where no group has spread", "falls slowly", "near 0: sampling has collapsed; raise `grpo.beta` or the temperature"),
    Metric(("sampling_gap",), "largest difference between a token's log-probability in sampling and in training", "below 1e-4 in fp32; a few tenths in bf16, from rounding", "larger in fp32: a bug, please report it"),
    Metric(("sampling_gap_mean",), "mean of that difference over tokens", "below 1e-5 in fp32, between 1e-3 and 1e-2 in bf16", "larger: a bug, please report it"),
    Metric(("sampling_ratio",), "mean over tokens of their probability in training over that in sampling, by the policy that sampled; what `grpo.sampling_correction` weighs by", "between 0.99 and 1.01", "larger: a bug, please report it; set `grpo.sampling_correction = 2` meanwhile"),
    Metric(("tokens",), "report tokens of the step, stop tokens included"),
    Metric(("length", "length_max"), "mean and largest length of a completion, in tokens", "steady", "shrinks to nothing or grows to the limit: the policy games the reward; read `rollouts.jsonl`"),
    Metric(("truncated",), "share of completions cut at `sampling.max_tokens`", "below 0.05", "raise `sampling.max_tokens`, or set `sampling.mask_truncated = true`"),
    Metric(("special_tokens",), "special tokens in a completion other than stop tokens, such as `im_start`; texts do not show them, and a completion with one does not have the requested form", "0", "run a longer warm start; check the chat template of the base"),
    Metric(("mentioned", "uncertain"), "of the 13 conditions, how many a report mentions and how many it calls uncertain", "steady", "`uncertain` rises: the policy hedges, since MCCS counts uncertain as positive"),
    Metric(("skipped",), "1 where the step was not taken because logits, rewards, loss or gradient were not finite, or no study of it had readable pictures; such a line has no other metric", "0", "read the file in `RUN_DIR/faults`; lower the learning rate; five in a row end the run"),
    Metric(("left_out",), "studies left out of the step because their pictures cannot be read; absent where there are none", "", "fetch the files that `left_out.jsonl` names again"),
    Metric(("sampled", "replaced"), "with `grpo.resample_flat`: reports sampled in the step, those of replaced groups too, and groups replaced because they had no spread", "`replaced` below a third of the groups", "much more: train on studies that teach, see `data.keep`, or lower the margin"),
    Metric(("seconds/<phase>",), "wall time of prefill, sample, reward, reference and train, and of the whole step", "", "the largest one is where to look first"),
    Metric(("memory_gb",), "peak memory so far, in GB of 1e9 bytes: of the GPU, or the resident set of the process", "flat after the longest prompts and reports have come up", "keeps growing: please report it"),
)  # fmt: skip


def find(name: str) -> Metric | None:
    """The row of a metric as metrics.jsonl names it; None for a name that is not ours."""
    return next((metric for metric in METRICS if metric.is_named(name)), None)
