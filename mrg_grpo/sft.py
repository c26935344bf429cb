"""Token-level training: the warm start, and the baseline the paper argues against.

The loss is the mean negative log-likelihood of the target tokens, `<think>...</think><report>...</report>` and the stop
token. It runs through the same prefix and the same `logprobs` as GRPO (a group of one), so a warm start and the policy
that continues it can not disagree on prompt, positions or suppressed tokens. The temperature is 1 here whatever
sampling uses: likelihood is of the untempered model.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.study import Study
from mrg_grpo.grpo import move
from mrg_grpo.labelers.reference import ReferenceLabels
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.policy import Policy
from mrg_grpo.prompt import target_text


class Sft:
    """One policy, its targets and its optimiser."""

    def __init__(self, config: Config, policy: Policy, labels: ReferenceLabels) -> None:
        self.config, self.policy, self.labels = config, policy, labels
        policy.temperature = 1.0
        self.optimizer = torch.optim.AdamW(policy.trainable(), lr=config.sft.learning_rate, weight_decay=0.0)

    def step(self, prompts: PromptBatch, number: int) -> dict[str, float]:
        """Step `number`, counted from 1, on N studies -> its metrics."""
        config, started = self.config, time.perf_counter()
        rate = config.sft.learning_rate * cosine(number, config.run.steps, warmup=config.grpo.warmup)
        loss = sft_loss(self.policy, prompts, targets(prompts.studies, self.labels, config.prompt.think))
        norm = move(self.policy, self.optimizer, rate, config.grpo.max_grad_norm, {"loss": loss})
        seconds = time.perf_counter() - started
        return {"loss": float(loss), "grad_norm": float(norm), "skipped": 0.0, "seconds/step": seconds}


def encode_targets(policy: Policy, targets: list[str]) -> tuple[Tensor, Tensor]:
    """N target texts -> tokens (N, T) with the stop token at the end, padded behind with 0, and their mask (N, T).

    What a report spells is text: `<|im_end|>` in it is those letters, and not the end of the answer.
    """
    plain = policy.plain_tokenizer
    rows = [
        plain(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] + policy.stop_ids[:1]
        for text in targets
    ]
    width = max(len(row) for row in rows)
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=policy.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=policy.device).bool()
    return tokens, mask


def sft_loss(policy: Policy, prompts: PromptBatch, targets: list[str]) -> Tensor:
    """Mean negative log-likelihood per target token of all ranks, detached; leaves this rank's gradients behind."""
    tokens, mask = encode_targets(policy, targets)
    mask = mask & prompts.counts.unsqueeze(1)
    prefix = policy.prefill(prompts)
    logps, _ = policy.logprobs(prefix, tokens, mask)  # (N, T)
    loss = -logps.sum() / distributed.all_reduce(mask.sum())
    loss.backward()
    policy.backward(prefix)
    return distributed.all_reduce(loss)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at `step`, counted from 1: linear warm-up, then a half cosine to 0 at the last step.

    A single step behind the warm-up is taken half-way, or a run of one step would learn nothing.
    """
    if step <= warmup:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(2, steps - warmup)))


def targets(studies: list[Study], labels: ReferenceLabels, think: bool) -> list[str]:
    """What the warm start teaches: the reference in the asked form; think is written from the reference's labels."""
    rows = labels([study.report for study in studies]).tolist() if think else [None] * len(studies)
    return [target_text(study.report, row, think) for study, row in zip(studies, rows)]
