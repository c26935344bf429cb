"""GRPO, the loop. Start reading here: `Grpo.step` is one step, from studies to the optimiser; `train` is the run.

N studies, G reports of one study, B = N * G reports, b reports of a micro-batch, T report tokens.

    studies -> prompts -> prefix -> rollout -> rewards -> advantages -> loss, backward -> optimiser

Deliberate choices:
* Everything per study is computed per study: vision and prompt run once, and all G reports continue from that prefix in
  sampling and in the first inner pass. The reference, whose weights differ, runs the prompt once more for all G, and so
  does each further inner pass, since the policy has moved.
* On policy (one inner pass, beta 0) the ratio is 1 and the loss is 0 in value. Its gradient is not: watch grad_norm.
* Denominators are fixed over the whole step before the first micro-batch, so gradients do not depend on micro-batching,
  nor on the number of ranks: each takes whole studies, and their gradients are added once per pass (mrg_grpo.distributed).
* A step whose logits, rewards, loss or gradient are not finite moves nothing and is skipped, see mrg_grpo.run.faults.
* All randomness is keyed by (seed, step): a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.distributed import require_finite
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import Rollout, sample_groups
from mrg_grpo.objective import group_advantages, grpo_loss
from mrg_grpo.rewards import Rewards, RewardTable
from mrg_grpo.step_metrics import PhaseTimer, StepStats


@dataclass
class StepResult:
    """What one step leaves behind for log and reader."""

    metrics: dict[str, float]
    rollout: Rollout
    table: RewardTable
    advantages: Tensor  # (N, G)
    filler: int = 0  # of this rank's N studies, those at the end that count for nothing


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
            rollout = sample_groups(policy, prefix, prompts.study_ids, self.config, number)
            mask = rollout.trained_mask(self.config.sampling.mask_truncated)  # (B, T)
            mask = mask & prompts.counts.repeat_interleave(grpo.group_size).unsqueeze(1)

        with timer("reward"):  # label, compare, weigh; then each report against its own group
            table = self.rewards.score(rollout.texts, prompts.studies, rollout.token_lists())
            rewards = distributed.gather_rows(table.total.view(-1, grpo.group_size), prompts.filler)  # of all ranks
            advantages = distributed.own_rows(group_advantages(rewards, grpo.scale), len(prompts.studies))  # (N, G)
            advantages = advantages.to(policy.device)

        with timer("reference"):  # the frozen start policy on the same reports
            ref_logps = self.reference_logps(prompts, rollout, mask) if grpo.beta > 0 else None

        stats = StepStats(rollout, table, advantages, prompts.filler, grpo.ratio)
        teaches = prompts.counts if grpo.beta > 0 else (advantages != 0).any(dim=1)  # no spread, no KL: no gradient
        blocks = rollout.micro_batches(grpo.micro_batch, grpo.group_size, None if policy.sharded else teaches)
        normalizer = self.normalizer(mask, len(rewards))
        old_logps = None  # None: on policy, the ratio is 1 with gradient
        for inner in range(grpo.inner_passes):
            with timer("train"):
                if inner > 0:
                    prefix = policy.prefill(prompts)  # the policy has moved
                for block in blocks:  # b reports
                    rows, T = block.rows, block.width  # noqa: N806
                    logps, entropy = policy.logprobs(
                        prefix, rollout.tokens[rows, :T], mask[rows, :T], block.studies
                    )  # (b, T)
                    loss, metrics = grpo_loss(
                        logps,
                        advantages.flatten()[rows],
                        mask[rows, :T],
                        old_logps=None if old_logps is None else old_logps[rows, :T],
                        ref_logps=None if ref_logps is None else ref_logps[rows, :T],
                        clip_low=grpo.clip_low,
                        clip_high=grpo.clip_high,
                        beta=grpo.beta,
                        aggregate=grpo.aggregate,
                        ratio=grpo.ratio,
                        normalizer=normalizer,
                    )
                    loss.backward()
                    stats.add(rows, inner, loss, logps, entropy, mask[rows, :T], metrics)
                policy.backward(prefix)  # through the prompt, once per study
                stats.grad_norm = self.update(number, stats)
            old_logps = stats.logps  # of the first pass: the policy that sampled
        return StepResult(stats.summary(timer), rollout, table, advantages, prompts.filler)

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

    def update(self, number: int, stats: StepStats) -> Tensor:
        """Add up over ranks, clip, step, clear. Returns the gradient norm before clipping.

        Raises NotFiniteError before anything moves, on all ranks or on none.
        """
        grpo = self.config.grpo
        distributed.reduce_gradients(self.policy.trainable())
        for group in self.optimizer.param_groups:
            group["lr"] = grpo.learning_rate * self.rate(number)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.trainable(), grpo.max_grad_norm)
        require_finite({**stats.watched(), "gradient": norm}, stats.evidence())
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm
