"""GRPO, the loop. Start reading here: `Grpo.step` is one step, from studies to the optimiser; `train` is the run.

N studies, G reports of one study, B = N * G reports, b reports of a micro-batch, T report tokens.

    studies -> prompts -> prefix -> rollout -> rewards -> advantages -> loss, backward -> optimiser

Deliberate choices:
* Everything per study is computed per study: vision and prompt run once, and all G reports continue from that prefix in
  sampling and in the first inner pass. The reference, whose weights differ, runs the prompt once more for all G, and so
  does each further inner pass, since the policy has moved.
* With grpo.studies_per_pass the prompts of a few studies at a time are held for training, so N is not bound by memory.
  Sampling then has a prefix without gradient, and the first pass too runs each prompt once more.
* On policy (one inner pass, beta 0) the ratio is 1 and the loss is 0 in value. Its gradient is not: watch grad_norm.
* Denominators are fixed over the whole step before the first micro-batch, so gradients do not depend on micro-batching,
  on the studies of a pass, nor on the number of ranks: each takes whole studies, and their gradients are added once per
  pass (mrg_grpo.distributed).
* What decides shapes (lengths, masks) is on the CPU, so the device is asked only for tokens, rewards and finiteness.
* A step whose logits, rewards, loss or gradient are not finite moves nothing and is skipped, see mrg_grpo.run.faults.
* All randomness is keyed by (seed, step): a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.errors import ImageError
from mrg_grpo.groups import Groups, Spares, replace_flat
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.policy import Policy, Prefix
from mrg_grpo.model.rollout import MicroBatch, Rollout, sample_groups
from mrg_grpo.objective import group_advantages, grpo_loss, term_advantages
from mrg_grpo.rewards import Rewards, RewardTable
from mrg_grpo.step_metrics import PhaseTimer, StepLog


@dataclass
class StepResult:
    """What one step leaves behind for log and reader."""

    rollout: Rollout
    table: RewardTable
    advantages: Tensor  # (N, G)
    filler: int = 0  # of this rank's N studies, those at the end that count for nothing
    unread: dict[str, ImageError] = field(default_factory=dict)  # spare studies that could not be shown: id -> why
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Part:
    """Some studies of a step, whose prompts are held together, and their reports that train, in micro-batches."""

    prompts: PromptBatch
    blocks: list[MicroBatch]


@dataclass
class TrainBatch:
    """What every inner pass of a step learns from, fixed before the first of them."""

    rollout: Rollout
    mask: Tensor  # (B, T), the tokens that train; on the CPU
    advantages: Tensor  # (B,)
    ref_logps: Tensor | None  # (B, T); None without a KL term
    parts: list[Part]
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
        self.optimizer = adamw(policy, config.grpo.learning_rate)

    def step(self, prompts: PromptBatch, number: int, spares: Spares | None = None) -> StepResult:
        """Step `number`, counted from 1, on N studies; with spares, groups without spread are replaced."""
        grpo, policy, timer = self.config.grpo, self.policy, PhaseTimer(self.policy.device)
        groups = self.sample(prompts, number, timer)
        if spares:
            groups = replace_flat(groups, spares, policy, partial(self.sample, number=number, timer=timer), grpo)
        held, rollout, table, filler = groups.held, groups.rollout, groups.table, groups.filler
        mask = rollout.trained_mask(self.config.sampling.mask_truncated)  # (B, T)
        mask = mask & groups.counts.repeat_interleave(grpo.group_size).unsqueeze(1)

        with timer("reward"):  # each report against its own group
            whole = self.advantages(groups)  # of all ranks
            advantages = distributed.own_rows(whole, len(groups.studies))  # (N, G)
            parts = self.parts(held, rollout, advantages)
            advantages = advantages.to(policy.device)

        with timer("reference"):  # the frozen start policy on the same reports
            ref_logps = self.reference_logps(parts, rollout, mask) if grpo.beta > 0 else None

        batch = TrainBatch(rollout, mask, advantages.flatten(), ref_logps, parts, self.normalizer(mask, len(whole)))
        result = StepResult(rollout, table, advantages, filler, groups.unread)
        log = StepLog(rollout, table, advantages, filler, grpo.ratio)
        through = groups.prefix
        first = None  # the first pass: its log-probabilities are those of the policy that sampled
        for _ in range(grpo.inner_passes):
            with timer("train"):
                found = self.train_pass(through, batch, first.logps if first else None, log)
                first, through = first or found, None  # the policy moves
                grad_norm = self.update(number, result, found, first)
        assert first  # there is one inner pass at least
        result.metrics = log.summary(first.loss, first.logps, first.entropy, first.trained, grad_norm, timer)
        if spares:
            counts = {"sampled": float(groups.sampled), "replaced": float(groups.replaced)}
            result.metrics |= distributed.sum_by_name(counts)
        return result

    def sample(self, prompts: PromptBatch, number: int, timer: PhaseTimer) -> Groups:
        """G reports of each of N studies, scored."""
        held = prompts.split(self.config.grpo.studies_per_pass)

        with timer("prefill"):  # vision and prompt, once per study
            prefix = self.prefill(held)

        with timer("sample"):  # G reports of each study, from that prefix
            rollout = sample_groups(self.policy, prefix, prompts.keys, self.config, number)
            through = prefix if len(held) == 1 else None  # can be trained through; else it makes room now
            del prefix

        with timer("reward"):  # label, compare, weigh
            table = self.rewards.score(rollout.texts, prompts.studies, rollout.token_lists(), rollout.special_counts())
        return Groups(held, rollout, table, through, sampled=int(prompts.counts.sum()) * self.config.grpo.group_size)

    def advantages(self, groups: Groups) -> Tensor:
        """(studies of all ranks, G)."""
        if self.config.grpo.normalise == "sum":
            return group_advantages(groups.rewards(), self.config.grpo.scale)
        weights = [self.config.reward.weights[name] for name in groups.table.terms]
        return term_advantages(groups.terms(), torch.tensor(weights).to(groups.table.total))

    def prefill(self, held: list[PromptBatch]) -> Prefix:
        """The prefix of all studies of the step; where they are held in parts, without gradient."""
        if len(held) == 1:
            return self.policy.prefill(held[0])
        with torch.no_grad():
            return Prefix.joined([self.policy.prefill(prompts) for prompts in held])

    def train_pass(self, prefix: Prefix | None, batch: TrainBatch, old_logps: Tensor | None, log: StepLog) -> Pass:
        """One pass over the step's reports in micro-batches; leaves the gradient of the whole step in the adapter.

        prefix: of all studies, where it can be trained through; else it is made anew, part by part.
        old_logps (B, T): of the policy that sampled; None on policy, where the ratio is 1 with gradient.
        """
        found = empty_pass(batch.rollout)
        for part in batch.parts:
            if not part.blocks:
                continue
            through = prefix or self.policy.prefill(part.prompts)
            for block in part.blocks:  # b reports
                self.train_block(through, block, batch, old_logps, found, log)
            self.policy.backward(through)  # through the prompt, once per study
        return found

    def train_block(
        self, prefix: Prefix, block: MicroBatch, batch: TrainBatch, old_logps: Tensor | None, found: Pass, log: StepLog
    ) -> None:
        """One micro-batch forward and backward, into the prefix's leaves, the adapter and what the pass has found."""
        grpo, rollout, rows, T = self.config.grpo, batch.rollout, block.rows, block.width  # noqa: N806
        mask = batch.mask[rows, :T]  # (b, T)
        logps, entropy = self.policy.logprobs(prefix, rollout.tokens[rows, :T], mask, block.studies)  # (b, T)
        loss, metrics = grpo_loss(
            logps,
            batch.advantages[rows],
            mask.to(logps.device),
            old_logps=None if old_logps is None else old_logps[rows, :T],
            ref_logps=None if batch.ref_logps is None else batch.ref_logps[rows, :T],
            sampling_logps=rollout.logps[rows, :T],
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
            dual_clip=grpo.dual_clip,
            sampling_correction=grpo.sampling_correction,
            beta=grpo.beta,
            aggregate=grpo.aggregate,
            ratio=grpo.ratio,
            normalizer=batch.normalizer,
            kl=grpo.kl,
        )
        loss.backward()
        found.logps[rows, :T], found.entropy[rows, :T], found.trained[rows, :T] = logps.detach(), entropy, mask
        found.loss = found.loss + loss.detach()
        log.add(metrics, reports=len(rows), tokens=int(mask.sum()))

    def update(self, number: int, result: StepResult, found: Pass, first: Pass) -> Tensor:
        """Move the adapter after the pass `found`; see `move`. What is looked at stands in the order of the step."""
        rollout, table = result.rollout, result.table
        watched = {
            "sampling logits": rollout.logps, "rewards": table.total, "advantages": result.advantages,
            "training logits": found.logps, "loss": found.loss,
        }  # fmt: skip
        evidence = {
            "study_ids": [study.id for study in table.reports.studies[:: self.config.grpo.group_size]],
            "tokens": rollout.tokens, "mask": rollout.mask, "sampling_logps": rollout.logps, "logps": first.logps,
            "rewards": table.terms, "reward": table.total, "advantages": result.advantages,
        }  # fmt: skip
        rate = self.config.grpo.learning_rate * self.rate(number)
        return move(self.policy, self.optimizer, rate, self.config.grpo.max_grad_norm, watched, evidence)

    def parts(self, held: list[PromptBatch], rollout: Rollout, advantages: Tensor) -> list[Part]:
        """The reports that train, with their prompts. Without a KL term a group without spread has no gradient.

        Over a base in shards every rank must make the same number of passes, so there none is left out.
        """
        grpo, first, parts = self.config.grpo, 0, []
        counts = torch.cat([prompts.counts for prompts in held])  # (N,)
        teaches = counts if grpo.beta > 0 else (advantages != 0).any(dim=1).cpu()
        for prompts in held:
            studies = range(first, first + len(prompts.studies))
            chosen = None if self.policy.sharded else teaches
            parts.append(Part(prompts, rollout.micro_batches(grpo.micro_batch, grpo.group_size, studies, chosen)))
            first = studies.stop
        return parts

    def normalizer(self, mask: Tensor, studies: int) -> Tensor | int:
        """The denominator of the whole step over all ranks, for the configured aggregation."""
        if self.config.grpo.aggregate == "token":
            return distributed.all_reduce(mask.sum().to(self.policy.device)).clamp(min=1)
        reports = studies * self.config.grpo.group_size
        return reports * self.config.sampling.max_tokens if self.config.grpo.aggregate == "constant" else reports

    def reference_logps(self, parts: list[Part], rollout: Rollout, mask: Tensor) -> Tensor:
        """Log-probabilities (B, T) of the frozen start policy, on the reports that train."""
        logps = torch.zeros_like(rollout.logps)
        with self.policy.reference():
            for part in parts:
                prefix = self.policy.prefill(part.prompts)
                for block in part.blocks:
                    rows, T = block.rows, block.width  # noqa: N806
                    tokens = rollout.tokens[rows, :T]
                    logps[rows, :T], _ = self.policy.logprobs(prefix, tokens, mask[rows, :T], block.studies)
        return logps

    def rate(self, number: int) -> float:
        """Share of the learning rate at step `number`: linear warm-up, then constant or a linear fall."""
        warm = min(1.0, number / max(1, self.config.grpo.warmup))
        left = 1.0 - (number - 1) / self.config.run.steps
        return min(warm, left) if self.config.grpo.decay else warm


def adamw(policy: Policy, rate: float) -> torch.optim.AdamW:
    """AdamW over the adapter; on a GPU in one operation instead of a dozen for each kind of tensor."""
    return torch.optim.AdamW(policy.trainable(), lr=rate, weight_decay=0.0, fused=policy.device.type == "cuda")


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
