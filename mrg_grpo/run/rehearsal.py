"""One step at its largest before the first: what does not fit fails in the first minute, and moves nothing.

Reports get longer and prompts differ, so the largest step of a run may come after hours. The rehearsal has the studies
with the most images, every report at sampling.max_tokens, all groups in training, and the optimiser's memory in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from mrg_grpo.config import Config
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.grpo import Grpo, Pass, StepResult
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.encoder import PromptEncoder, load_prompts
from mrg_grpo.model.policy import Policy
from mrg_grpo.rewards import Rewards
from mrg_grpo.sft import sft_loss

REMEDY = "lower grpo.studies_per_pass, grpo.micro_batch, data.max_pixels or sampling.batch; see mrg-grpo plan"
SFT_REMEDY = "lower sft.micro_batch or data.max_pixels; see mrg-grpo plan"


@contextmanager
def unending(policy: Policy) -> Iterator[None]:
    """Within: no report ends before the limit."""
    stops, policy.stop_ids = policy.stop_ids, [-1]
    try:
        yield
    finally:
        policy.stop_ids = stops


class Rehearsal(Grpo):
    """A policy whose steps are taken but for the last move: gradients are made and forgotten."""

    def __init__(self, config: Config, policy: Policy, rewards: Rewards) -> None:
        forced = deepcopy(config)
        forced.sampling.mask_truncated = False  # every report is cut here
        forced.grpo.beta = config.grpo.beta or 1e-9  # without KL, groups without spread would be left out
        super().__init__(forced, policy, rewards)

    def update(self, number: int, result: StepResult, found: Pass, first: Pass) -> Tensor:
        norm = torch.nn.utils.clip_grad_norm_(self.policy.trainable(), self.config.grpo.max_grad_norm)
        self.optimizer.zero_grad()
        return norm

    def largest_step(self, prompts: PromptBatch) -> dict[str, float]:
        """The metrics of a step in which no report ends before the limit; torch.OutOfMemoryError if it does not fit."""
        moments = [
            torch.zeros_like(p) for p in self.policy.trainable() for _ in range(2)
        ]  # AdamW's, of the second step
        with unending(self.policy):
            metrics = self.step(prompts, 1).metrics
        del moments
        return metrics


def largest(studies: list[Study], count: int, encoder: PromptEncoder) -> list[Study]:
    """`count` studies with the longest prompts, by images and then by what is known of them; of these with the longest
    reports; over again where there are fewer."""

    def size(study: Study) -> tuple[int, int, int]:
        return -len(encoder.images(study)), -len(encoder.ask(study)), -len(study.report)

    by_size = sorted(studies, key=size)[:count]
    return [by_size[i % len(by_size)] for i in range(count)]


def rehearse(config: Config, policy: Policy, rewards: Rewards, studies: list[Study]) -> None:
    """A GRPO step at its largest, on a GPU. UserError where it does not fit."""

    def step(prompts: PromptBatch) -> None:
        Rehearsal(config, policy, rewards).largest_step(prompts)

    _try(policy, studies, config.grpo.studies_per_step, REMEDY, step)


def rehearse_warm_start(config: Config, policy: Policy, studies: list[Study], targets: list[str]) -> None:
    """A step of the warm start at its largest, on a GPU; targets: those that may be the longest."""
    longest = max(targets, key=len)

    def step(prompts: PromptBatch) -> None:
        sft_loss(policy, prompts, [longest] * len(prompts.studies), config.sft.micro_batch)
        policy.model.zero_grad()

    _try(policy, studies, config.sft.batch_size, SFT_REMEDY, step)


def _try(policy: Policy, studies: list[Study], count: int, remedy: str, step: Callable[[PromptBatch], Any]) -> None:
    if not on_gpu(policy):
        return
    loaded = next(iter(load_prompts(policy.encoder, [largest(studies, count, policy.encoder)])))
    if loaded.prompts is None:
        return
    try:
        step(loaded.prompts.to(policy.device))
    except torch.OutOfMemoryError as error:
        raise UserError(f"the largest step does not fit ({first_line(error)}); {remedy}") from error
    tell_peak(policy.device)


def on_gpu(policy: Policy) -> bool:
    return policy.device.type != "cpu"


def tell_peak(device: torch.device) -> None:
    """Print the peak of CUDA's memory and begin to count anew."""
    if device.type == "cuda":
        peak, has = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        print(f"largest step: {peak / 1e9:.1f} of {has / 1e9:.1f} GB")
        torch.cuda.reset_peak_memory_stats(device)
