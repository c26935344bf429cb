"""Our engine on one case: prints one JSON line with seconds per step, seconds per phase and peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from experiments.benchmarks import cases
from mrg_grpo.config import Config
from mrg_grpo.data.study import Study
from mrg_grpo.grpo import Grpo
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.policy import Policy
from mrg_grpo.rewards import Rewards
from mrg_grpo.run.process import settle_heap


class NoLabels:
    """The reward of the benchmark needs no labels."""

    def label(self, texts: list[str]) -> torch.Tensor:
        return torch.zeros(len(texts), 14, dtype=torch.long)


def configuration(case: cases.Case, checkpoint: Path, beta: float, micro_batch: int = 0) -> Config:
    config = Config()
    config.model.path, config.model.device = str(checkpoint), "cpu"
    config.data.max_pixels = case.side**2
    config.lora.rank, config.lora.alpha = cases.LORA["r"], cases.LORA["lora_alpha"]
    config.grpo.group_size, config.grpo.studies_per_step = case.group, case.studies
    config.grpo.beta, config.grpo.learning_rate, config.grpo.micro_batch = beta, cases.LEARNING_RATE, micro_batch
    config.sampling.max_tokens = case.tokens
    config.reward.weights = {"experiments.benchmarks.cases:spread_reward": 1.0}
    return config


def build(config: Config) -> Grpo:
    policy = Policy.load(config)
    policy.stop_ids = []  # nothing stops a report: its length is forced
    return Grpo(config, policy, Rewards(config.reward, NoLabels()))


def measure(
    case: cases.Case,
    checkpoint: Path,
    images: Path,
    beta: float,
    steps: int,
    micro_batch: int = 0,
) -> dict:
    settle_heap()  # as every run does
    grpo = build(configuration(case, checkpoint, beta, micro_batch))
    paths = cases.pictures(case, images, (steps + 1) * case.studies)
    before = cases.rss_mib()
    cases.reset_peak()
    batches = [
        [
            Study(f"{n}-{i}", tuple(p), "", "train")
            for i, p in enumerate(paths[n * case.studies : (n + 1) * case.studies])
        ]
        for n in range(steps + 1)
    ]
    encode = grpo.policy.encoder.encode  # in the step's time, as it is in TRL's
    seconds, phases = timed_steps(grpo, [lambda studies=studies: encode(studies) for studies in batches], case.tokens)
    return {**cases.result("ours", case, beta, seconds[1:], before), "first": seconds[0], "phases": phases}


def timed_steps(
    grpo: Grpo, prompts: Sequence[Callable[[], PromptBatch]], tokens: int
) -> tuple[list[float], dict[str, float]]:
    """Seconds of a step on each of the prompts, their making included; median seconds by phase without the first.

    Every report must have `tokens` tokens.
    """
    seconds, phases = [], []
    for number, make in enumerate(prompts):
        start = time.perf_counter()
        result = grpo.step(make(), number + 1)
        seconds.append(time.perf_counter() - start)
        assert result.metrics["length"] == tokens, "the forced length was not kept"
        phases.append({k.removeprefix("seconds/"): v for k, v in result.metrics.items() if k.startswith("seconds/")})
    return seconds, {name: statistics.median(p[name] for p in phases[1:]) for name in phases[0]}


if __name__ == "__main__":
    cases.worker(measure, __doc__ or "")
