"""The half of the preflight that runs the engine: eight studies sampled and trained on, and one step at its largest.

N studies, G reports of one study, B = N * G reports, T report tokens.

A fresh LoRA changes nothing (B = 0), so merging, scaling and the reference would look right whatever they did. The
log-probabilities and the KL are therefore also looked at with a nudged adapter, which is put back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mrg_grpo.config import Config
from mrg_grpo.data.study import Study
from mrg_grpo.errors import first_line
from mrg_grpo.evaluation.decode import predict
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import Rollout, require_finite, sample_groups
from mrg_grpo.objective import group_advantages
from mrg_grpo.preflight.result import CheckResult, result_of
from mrg_grpo.prompt import foreign_note
from mrg_grpo.rewards import Rewards, RewardTable
from mrg_grpo.run.rehearsal import REMEDY, Rehearsal, unending
from mrg_grpo.run.rewards_of import rewards_of

NUDGE = 0.02
"""Standard deviation of what is added to the adapter where a check needs one that does something."""


@dataclass
class Sampled:
    """Groups sampled from the start policy, with their rewards."""

    prompts: PromptBatch
    rollout: Rollout
    table: RewardTable


def sample(config: Config, policy: Policy, labeler: Any, studies: list[Study]) -> Sampled:
    prompts = policy.encoder.encode(studies).to(policy.device)
    rewards = rewards_of(config, studies, policy, labeler)
    with torch.no_grad():
        rollout = sample_groups(policy, policy.prefill(prompts), prompts.keys, config, 0)
        require_finite(policy, rollout)
    return Sampled(
        prompts, rollout, rewards.score(rollout.texts, studies, rollout.token_lists(), rollout.special_counts())
    )


@torch.no_grad()
def logps_of(policy: Policy, prompts: PromptBatch, rollout: Rollout, size: int) -> Tensor:
    """(B, T): log-probabilities as training computes them, in micro-batches."""
    prefix, logps = policy.prefill(prompts), torch.zeros_like(rollout.logps)
    for block in rollout.micro_batches(size, len(logps) // len(prompts.studies)):
        rows = block.rows
        logps[rows], _ = policy.logprobs(prefix, rollout.tokens[rows], rollout.mask[rows], block.studies)
    return logps


@contextmanager
def nudged(policy: Policy) -> Iterator[None]:
    """Within: the adapter with a little noise, so that it does something."""
    before = [p.data.clone() for p in policy.trainable()]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in policy.trainable():
            parameter.data += NUDGE * torch.randn(parameter.shape, generator=generator).to(parameter)
        yield
    finally:
        for parameter, data in zip(policy.trainable(), before):
            parameter.data = data


def check_logprobs(config: Config, policy: Policy, studies: list[Study]) -> CheckResult:
    """Sampling and training compute the same log-probability of every token, with an adapter that does something."""
    prompts = policy.encoder.encode(studies).to(policy.device)
    with nudged(policy), torch.no_grad():
        rollout = sample_groups(policy, policy.prefill(prompts), prompts.keys, config, 0)
        require_finite(policy, rollout)
        logps = logps_of(policy, prompts, rollout, config.grpo.micro_batch)
    gaps = (logps - rollout.logps).abs()[rollout.mask]
    coarse = policy.base.dtype in (torch.bfloat16, torch.float16)
    warn, fail = (0.5, 0.5) if coarse else (1e-3, 1e-2)
    found = f"sampling and training differ by {gaps.mean():.1e} on average, {gaps.max():.1e} at most"
    remedy = "GRPO would train on other probabilities than it sampled from: please report it, with versions"
    mean_limit = fail / 5  # one token far out in bf16 is rounding; a shifted mean is not
    fails = not bool(gaps.mean() <= mean_limit)  # also NaN
    return result_of("log-probabilities", found, fails, bool(gaps.max() > warn), remedy)


def check_kl(config: Config, policy: Policy, sampled: Sampled) -> CheckResult:
    """KL to the reference is 0 at the start, and is not 0 once the adapter has moved."""
    if config.grpo.beta == 0:
        return CheckResult("KL", "pass", "grpo.beta is 0: the reference never runs")
    prompts, rollout, size = sampled.prompts, sampled.rollout, config.grpo.micro_batch

    def kl() -> float:
        with policy.reference():
            reference = logps_of(policy, prompts, rollout, size)
        log_ratio = (reference - logps_of(policy, prompts, rollout, size))[rollout.mask]
        return float((log_ratio.exp() - log_ratio - 1).mean())

    start = kl()
    with nudged(policy):
        moved = kl()
    found = f"{start:.1e} at the start, {moved:.1e} with a nudged adapter"
    remedy = "the reference is not the start policy: please report it, with versions"
    return result_of("KL", found, not (start < 1e-6 < moved), False, remedy)


def check_pixels(config: Config, policy: Policy, sampled: Sampled) -> CheckResult:
    """The same reports under another study's images have other log-probabilities."""
    studies = sampled.prompts.studies
    if len({study.images for study in studies}) < 2:
        return CheckResult("pixels", "warn", "only one set of images: cannot be shuffled", "give more than one study")
    turned = [with_images_of(study, other) for study, other in zip(studies, [*studies[1:], studies[0]])]
    shuffled = policy.encoder.encode(turned).to(policy.device)
    size, mask = config.grpo.micro_batch, sampled.rollout.mask
    own = logps_of(policy, sampled.prompts, sampled.rollout, size)
    other = logps_of(policy, shuffled, sampled.rollout, size)
    change = float((own - other).abs()[mask].mean())
    better = float((own - other)[mask].mean())
    found = f"shuffled images change a token's log-probability by {change:.1e} (own images {better:+.1e})"
    coarse = policy.base.dtype in (torch.bfloat16, torch.float16)
    least = 1e-2 if coarse else 1e-4
    remedy = "the policy does not look at the images: check processor, image tokens and warm start"
    return result_of("pixels", found, not change > least, change < 10 * least, remedy)


def with_images_of(study: Study, other: Study) -> Study:
    """The study with another's pictures, those of the study before it too."""
    context = replace(study.context, prior_images=other.context.prior_images)
    return replace(study, images=other.images, context=context)


def check_rewards(config: Config, sampled: Sampled) -> CheckResult:
    """Groups have spread, so that there is something to learn from, and not all reports earn nothing."""
    total = sampled.table.total.view(-1, config.grpo.group_size)  # (N, G)
    flat = float((group_advantages(total, config.grpo.scale) == 0).all(dim=1).float().mean())
    zero = float((total == 0).float().mean())
    terms = ", ".join(f"{name} {column.nanmean():.2f}" for name, column in sampled.table.terms.items())
    odd = foreign_note(sampled.rollout.texts)
    cut = float((~sampled.rollout.finished).float().mean())
    found = (
        f"{len(total)} studies: {terms}; std within a group {total.std(dim=1).mean():.2f}; groups without spread "
        f"{flat:.0%}, zero rewards {zero:.0%}, cut by the length limit {cut:.0%}" + (f"; {odd}" if odd else "")
    )
    remedy = "warm-start first (mrg-grpo sft), lower reward.mccs.margin, or raise sampling.max_tokens or temperature"
    return result_of("rewards", found, flat == 1.0, flat > 0.5 or zero > 0.5 or cut > 0.5 or bool(odd), remedy)


def check_longest_step(config: Config, policy: Policy, labeler: Any, longest: list[Study]) -> CheckResult:
    """An evaluation batch, then a whole step, on the longest prompts with every report at sampling.max_tokens."""
    n = config.grpo.studies_per_step
    studies = [longest[i % len(longest)] for i in range(n)] if len(longest) < n else longest[:n]
    rewards = Rewards(config.reward, labeler, config.prompt.think, prompt=policy.encoder.ask)
    try:
        if policy.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(policy.device)
        with unending(policy):
            predict(policy, longest[: config.run.decode_batch], config)
        prompts = policy.encoder.encode(studies).to(policy.device)
        metrics = Rehearsal(config, policy, rewards).largest_step(prompts)
    except torch.OutOfMemoryError as error:
        return CheckResult(
            "longest step", "fail", f"does not fit ({first_line(error)})", f"{REMEDY}; or run.decode_batch"
        )
    has = torch.cuda.get_device_properties(policy.device).total_memory if policy.device.type == "cuda" else memory()
    peak, seconds = metrics["memory_gb"], metrics["seconds/step"]
    found = (
        f"{n} studies x {config.grpo.group_size} reports of {metrics['length_max']:.0f} tokens: peak {peak:.2f} of "
        f"{has / 1e9:.1f} GB, {seconds:.1f} s, so {config.run.steps} steps take at most "
        f"{seconds * config.run.steps / 3600:.1f} h"
    )
    return result_of("longest step", found, not metrics["grad_norm"] < float("inf"), peak > 0.9 * has / 1e9, REMEDY)


def memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
