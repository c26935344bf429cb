"""GRPO, the loop. Start reading here: `Grpo.step` is one step, from studies to the optimiser; `train` is the run.

N studies, G reports of one study, B = N * G reports, b reports of a micro-batch, T report tokens.

    studies -> prompts -> prefix -> rollout -> rewards -> advantages -> loss, backward -> optimiser

Deliberate choices:
* Everything per study is computed per study: vision and prompt run once, and all G reports continue from that prefix in
  sampling and in the first inner pass. The reference, whose weights differ, runs the prompt once more for all G, and so
  does each further inner pass, since the policy has moved.
* On policy (one inner pass, beta 0) the ratio is 1 and the loss is 0 in value. Its gradient is not: watch grad_norm.
* Denominators are fixed over the whole step before the first micro-batch, so gradients do not depend on micro-batching,
  nor on the number of ranks: each takes whole studies, and their gradients are added once per pass
  (mrg_grpo.distributed).
* A step whose logits, rewards, loss or gradient are not finite moves nothing and is skipped, see mrg_grpo.run.faults.
* All randomness is keyed by (seed, step): a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.policy import Policy, Prefix
from mrg_grpo.model.rollout import MicroBatch, Rollout, sample_groups
from mrg_grpo.objective import group_advantages, grpo_loss
from mrg_grpo.rewards import Rewards, RewardTable
from mrg_grpo.step_metrics import PhaseTimer, StepLog


@dataclass
class StepResult:
    """What one step leaves behind for log and reader."""

    rollout: Rollout
    table: RewardTable
    advantages: Tensor  # (N, G)
    filler: int = 0  # of this rank's N studies, those at the end that count for nothing
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class TrainBatch:
    """What every inner pass of a step learns from, fixed before the first of them."""

    rollout: Rollout
    mask: Tensor  # (B, T), the tokens that train
    advantages: Tensor  # (B,)
    ref_logps: Tensor | None  # (B, T); None without a KL term
    blocks: list[MicroBatch]
    normalizer: Tensor | int  # the denominator of the whole step over all ranks


@dataclass
class Pass:
    """What one inner pass computed, detached; (B, T), 0 where nothing ran."""

    logps: Tensor
    entropy: Tensor
    trained: Tensor  # the tokens that ran; groups without spread are left out
    loss: Tensor  # ()


class Grpo:
    """One policy, its rewards and its optimiser."""

    def __init__(self, config: Config, policy: Policy, rewards: Rewards) -> None:
        self.config, self.policy, self.rewards = config, policy, rewards
        self.optimizer = torch.optim.AdamW(policy.trainable(), lr=config.grpo.learning_rate, weight_decay=0.0)

    def step(self, prompts: PromptBatch, number: int) -> StepResult:
        """Step `number`, counted from 1, on N studies."""
        grpo, policy, timer = self.config.grpo, self.policy, PhaseTimer(self.policy.device)

        with timer("prefill"):  # vision and prompt, once per study
            prefix = policy.prefill(prompts)

        with timer("sample"):  # G reports of each study, from that prefix
            rollout = sample_groups(policy, prefix, prompts.keys, self.config, number)
            mask = rollout.trained_mask(self.config.sampling.mask_truncated)  # (B, T)
            mask = mask & prompts.counts.repeat_interleave(grpo.group_size).unsqueeze(1)

        with timer("reward"):  # label, compare, weigh; then each report against its own group
            table = self.rewards.score(rollout.texts, prompts.studies, rollout.token_lists(), rollout.special_counts())
            rewards = distributed.gather_rows(table.total.view(-1, grpo.group_size), prompts.filler)  # of all ranks
            advantages = distributed.own_rows(group_advantages(rewards, grpo.scale), len(prompts.studies))  # (N, G)
            advantages = advantages.to(policy.device)

        with timer("reference"):  # the frozen start policy on the same reports
            ref_logps = self.reference_logps(prompts, rollout, mask) if grpo.beta > 0 else None

        batch = TrainBatch(
            rollout=rollout,
            mask=mask,
            advantages=advantages.flatten(),
            ref_logps=ref_logps,
            blocks=self.blocks(rollout, advantages, prompts),
            normalizer=self.normalizer(mask, len(rewards)),
        )
        result = StepResult(rollout, table, advantages, prompts.filler)
        log = StepLog(rollout, table, advantages, prompts.filler, grpo.ratio)
        first = None  # the first pass: its log-probabilities are those of the policy that sampled
        for _ in range(grpo.inner_passes):
            with timer("train"):
                if first:
                    prefix = policy.prefill(prompts)  # the policy has moved
                found = self.train_pass(prefix, batch, first.logps if first else None, log)
                first = first or found
                grad_norm = self.update(number, result, found, first)
        assert first  # there is one inner pass at least
        result.metrics = log.summary(first.loss, first.logps, first.entropy, first.trained, grad_norm, timer)
        return result

    def train_pass(self, prefix: Prefix, batch: TrainBatch, old_logps: Tensor | None, log: StepLog) -> Pass:
        """One pass over the step's reports in micro-batches; leaves the gradient of the whole step in the adapter.

        old_logps (B, T): of the policy that sampled; None on policy, where the ratio is 1 with gradient.
        """
        grpo, found = self.config.grpo, empty_pass(batch.rollout)
        for block in batch.blocks:  # b reports
            rows, T = block.rows, block.width  # noqa: N806
            mask = batch.mask[rows, :T]
            logps, entropy = self.policy.logprobs(prefix, batch.rollout.tokens[rows, :T], mask, block.studies)  # (b, T)
            loss, metrics = grpo_loss(
                logps,
                batch.advantages[rows],
                mask,
                old_logps=None if old_logps is None else old_logps[rows, :T],
                ref_logps=None if batch.ref_logps is None else batch.ref_logps[rows, :T],
                clip_low=grpo.clip_low,
                clip_high=grpo.clip_high,
                beta=grpo.beta,
                aggregate=grpo.aggregate,
                ratio=grpo.ratio,
                normalizer=batch.normalizer,
                kl=grpo.kl,
            )
            loss.backward()
            found.logps[rows, :T], found.entropy[rows, :T], found.trained[rows, :T] = logps.detach(), entropy, mask
            found.loss = found.loss + loss.detach()
            log.add(metrics, reports=len(rows), tokens=mask.sum())
        self.policy.backward(prefix)  # through the prompt, once per study
        return found

    def update(self, number: int, result: StepResult, found: Pass, first: Pass) -> Tensor:
        """Move the adapter after the pass `found`; see `move`. What is looked at stands in the order of the step."""
        rollout, table = result.rollout, result.table
        watched = {
            "sampling logits": rollout.logps, "rewards": table.total, "advantages": result.advantages,
            "training logits": found.logps, "loss": found.loss,
        }  # fmt: skip
        evidence = {
            "tokens": rollout.tokens, "mask": rollout.mask, "sampling_logps": rollout.logps, "logps": first.logps,
            "rewards": table.terms, "reward": table.total, "advantages": result.advantages,
        }  # fmt: skip
        rate = self.config.grpo.learning_rate * self.rate(number)
        return move(self.policy, self.optimizer, rate, self.config.grpo.max_grad_norm, watched, evidence)

    def blocks(self, rollout: Rollout, advantages: Tensor, prompts: PromptBatch) -> list[MicroBatch]:
        """The reports that train, in micro-batches. Without a KL term a group without spread has no gradient."""
        grpo = self.config.grpo
        teaches = prompts.counts if grpo.beta > 0 else (advantages != 0).any(dim=1)  # (N,)
        return rollout.micro_batches(grpo.micro_batch, grpo.group_size, None if self.policy.sharded else teaches)

    def normalizer(self, mask: Tensor, studies: int) -> Tensor | int:
        """The denominator of the whole step over all ranks, for the configured aggregation."""
        if self.config.grpo.aggregate == "token":
            return distributed.all_reduce(mask.sum()).clamp(min=1)
        reports = studies * self.config.grpo.group_size
        return reports * self.config.sampling.max_tokens if self.config.grpo.aggregate == "constant" else reports

    def reference_logps(self, prompts: PromptBatch, rollout: Rollout, mask: Tensor) -> Tensor:
        """Log-probabilities (B, T) of the frozen start policy."""
        with self.policy.reference():
            prefix = self.policy.prefill(prompts)
            logps = torch.zeros(mask.shape, dtype=rollout.logps.dtype, device=mask.device)
            for block in rollout.micro_batches(self.config.grpo.micro_batch, self.config.grpo.group_size):
                rows, T = block.rows, block.width  # noqa: N806
                logps[rows, :T], _ = self.policy.logprobs(
                    prefix, rollout.tokens[rows, :T], mask[rows, :T], block.studies
                )
        return logps

    def rate(self, number: int) -> float:
        """Share of the learning rate at step `number`: linear warm-up, then constant or a linear fall."""
        warm = min(1.0, number / max(1, self.config.grpo.warmup))
        left = 1.0 - (number - 1) / self.config.run.steps
        return min(warm, left) if self.config.grpo.decay else warm


def move(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rate: float,
    max_norm: float,
    watched: dict[str, Tensor],
    evidence: dict[str, Any] | None = None,
) -> Tensor:
    """Add up gradients over ranks, clip, step, clear. Returns the gradient norm before clipping.

    Raises NotFiniteError, which carries the evidence, where the norm or anything watched is not finite: before anything
    moves, on all ranks or on none.
    """
    distributed.reduce_gradients(policy.trainable())
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = torch.nn.utils.clip_grad_norm_(policy.trainable(), max_norm)
    distributed.require_finite({**watched, "gradient": norm}, evidence)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def empty_pass(rollout: Rollout) -> Pass:
    """A pass before its first micro-batch."""
    logps, entropy = (torch.zeros_like(rollout.logps) for _ in range(2))
    return Pass(logps, entropy, torch.zeros_like(rollout.mask), torch.zeros((), device=rollout.logps.device))
