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
from mrg_grpo.grpo import adamw, move
from mrg_grpo.labelers.reference import ReferenceLabels
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.policy import Policy
from mrg_grpo.prompt import target_text


class Sft:
    """One policy, its targets and its optimiser."""

    def __init__(self, config: Config, policy: Policy, labels: ReferenceLabels) -> None:
        self.config, self.policy, self.labels = config, policy, labels
        policy.temperature = 1.0
        self.optimizer = adamw(policy, config.sft.learning_rate)

    def step(self, prompts: PromptBatch, number: int) -> dict[str, float]:
        """Step `number`, counted from 1, on N studies -> its metrics."""
        config, started = self.config, time.perf_counter()
        rate = config.sft.learning_rate * cosine(number, config.run.steps, warmup=config.grpo.warmup)
        texts = targets(prompts.studies, self.labels, config.prompt.think)
        loss = sft_loss(self.policy, prompts, texts, config.sft.micro_batch)
        norm = move(self.policy, self.optimizer, rate, config.grpo.max_grad_norm, {"loss": loss})
        seconds = time.perf_counter() - started
        return {"loss": float(loss), "grad_norm": float(norm), "skipped": 0.0, "seconds/step": seconds}


def encode_targets(policy: Policy, targets: list[str]) -> tuple[Tensor, Tensor]:
    """N target texts -> tokens (N, T) with the stop token at the end, padded behind with 0, and their mask (N, T), both
    on the CPU.

    What a report spells is text: `<|im_end|>` in it is those letters, and not the end of the answer.
    """
    plain = policy.plain_tokenizer
    rows = [
        plain(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] + policy.stop_ids[:1]
        for text in targets
    ]
    width = max(len(row) for row in rows)
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]).bool()
    return tokens, mask


def sft_loss(policy: Policy, prompts: PromptBatch, targets: list[str], micro_batch: int = 0) -> Tensor:
    """Mean negative log-likelihood per target token of all ranks, detached; leaves this rank's gradients behind.

    micro_batch: studies that run at once; 0 is all.
    """
    tokens, mask = encode_targets(policy, targets)
    mask = mask & prompts.counts.unsqueeze(1)
    total, first = distributed.all_reduce(mask.sum().to(policy.device)), 0
    whole = torch.zeros((), device=policy.device)
    for part in prompts.split(micro_batch):
        rows = slice(first, first := first + len(part.lengths))
        width = max(1, int(mask[rows].sum(1).max()))
        prefix = policy.prefill(part)
        logps, _ = policy.logprobs(prefix, tokens[rows, :width], mask[rows, :width])  # (n, T)
        loss = -logps.sum() / total
        loss.backward()
        policy.backward(prefix)
        whole = whole + loss.detach()
    return distributed.all_reduce(whole)


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
