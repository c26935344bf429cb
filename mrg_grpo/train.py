"""A run: `mrg-grpo train` and `mrg-grpo sft`. Everything around the step: data, log, checkpoints, evaluation, signals.

The before/after comparison decodes the start policy and the trained one greedily with the same code, on the same test
studies, and resamples studies in pairs.
"""

from __future__ import annotations

import signal
import time

import torch

from mrg_grpo.checkpoint import resume as load_checkpoint
from mrg_grpo.checkpoint import save_checkpoint
from mrg_grpo.comparison import before_after
from mrg_grpo.config import Config
from mrg_grpo.credentialed import banner
from mrg_grpo.data.study import Study
from mrg_grpo.evaluate import (
    Judged,
    config_labeler,
    judge,
    load_splits,
    predict,
    require_images,
    studies_of,
    write_predictions,
)
from mrg_grpo.grpo import Grpo
from mrg_grpo.live import Live, Sample, first_sample, require_tensorboard
from mrg_grpo.metrics.clinical import metrics_from_sums
from mrg_grpo.policy import Policy
from mrg_grpo.prompt import target_text
from mrg_grpo.rewards import Rewards
from mrg_grpo.rewards.mccs import rarity_weights
from mrg_grpo.run_dir import RunDir
from mrg_grpo.sft import cosine, sft_loss
from mrg_grpo.stream import StudyStream


class StopSignal:
    """SIGTERM and Ctrl-C: the step is finished, a checkpoint written, then the run ends with 128 + signal."""

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame) -> None:
        self.number = number


def train(config: Config, resume: bool = False) -> int:
    """GRPO from the start policy to RUN_DIR/adapter and a before/after table; returns the exit code."""
    require_tensorboard(config)
    run = RunDir(config, resume)
    splits = load_splits(config)
    studies = studies_of(splits, "train")
    require_images(studies)
    torch.manual_seed(config.run.seed)  # LoRA's A matrices
    policy, labeler = Policy.load(config), config_labeler(config)
    print(f"policy: {policy.parameter_counts()}")
    rarity = None
    if config.reward.mccs.weighting == "rarity":
        rarity = rarity_weights(labeler.label([study.report for study in studies]))
        run.write_json("rarity_weights.json", rarity.tolist())
    rewards = Rewards(config.reward, labeler, config.prompt.think, rarity, policy.encoder.question)
    grpo = Grpo(config, policy, rewards)
    before = baseline(run, policy, labeler, splits, config)

    def step(number: int, prompts) -> tuple[dict[str, float], Sample | None]:
        result = grpo.step(prompts.to(policy.device), number)
        if number % config.run.rollouts_every == 0 or number == 1:
            run.write_rollouts(number, result)
        return result.metrics, first_sample(result)

    stopped = loop(run, policy, grpo.optimizer, labeler, splits, config.grpo.studies_per_step, step, resume)
    return stopped or finish(run, policy, labeler, splits, before)


def sft(config: Config, resume: bool = False) -> int:
    """Token-level warm start with the same tree, the same adapter, the same evaluation."""
    require_tensorboard(config)
    run = RunDir(config, resume)
    splits = load_splits(config)
    studies = studies_of(splits, "train")
    require_images(studies)
    torch.manual_seed(config.run.seed)
    policy, labeler = Policy.load(config), config_labeler(config)
    policy.temperature = 1.0
    print(f"policy: {policy.parameter_counts()}")
    optimizer = torch.optim.AdamW(policy.trainable(), lr=config.sft.learning_rate, weight_decay=0.0)
    before = baseline(run, policy, labeler, splits, config)

    def step(number: int, prompts) -> tuple[dict[str, float], Sample | None]:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = config.sft.learning_rate * cosine(number, config.run.steps, warmup=config.grpo.warmup)
        loss = sft_loss(policy, prompts.to(policy.device), targets(prompts.studies, labeler, config))
        norm = torch.nn.utils.clip_grad_norm_(policy.trainable(), config.grpo.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": float(loss), "grad_norm": float(norm), "seconds/step": time.perf_counter() - started}, None

    stopped = loop(run, policy, optimizer, labeler, splits, config.sft.batch_size, step, resume)
    return stopped or finish(run, policy, labeler, splits, before)


def targets(studies: list[Study], labeler, config: Config) -> list[str]:
    """What the warm start teaches: the reference in the asked form; think is written from the reference's labels."""
    labels = (
        labeler.label([study.report for study in studies]).tolist() if config.prompt.think else [None] * len(studies)
    )
    return [target_text(study.report, row, config.prompt.think) for study, row in zip(studies, labels)]


def loop(run: RunDir, policy: Policy, optimizer, labeler, splits, size: int, step, resumed: bool) -> int:
    """Steps from the last checkpoint to the end, with log, validation, checkpoints; 0, or 128 + signal."""
    config, stop = run.config, StopSignal()
    start = 0
    if resumed:
        state = load_checkpoint(run.path, policy, optimizer)
        for fault in state.damaged:
            print(f"checkpoint passed over: {fault}")
        start = state.step
        print(f"resuming after step {start}")
    run.cut_after(start)
    stream = StudyStream(splits["train"], size, config.run.seed)
    batches = stream.prompts(policy.encoder, start + 1, config.run.steps)
    followed = splits.get("val", [])[: min(config.run.follow_studies, config.run.eval_studies)]
    if followed and start == 0:
        run.write_followed(0, judge(predict(policy, followed, config), labeler, config))
    with Live(config, start) as live:
        for number, prompts in batches:
            metrics, sample = step(number, prompts)
            run.append("metrics.jsonl", {"step": number, **metrics})
            live.step(number, metrics, sample)
            last = number == config.run.steps
            if config.run.eval_every and number % config.run.eval_every == 0 and not last and splits.get("val"):
                validate(run, policy, labeler, splits["val"], number, live)
            if followed and last:
                run.write_followed(number, judge(predict(policy, followed, config), labeler, config))
            if number % config.run.save_every == 0 or last or stop.number:
                save_checkpoint(run.path, number, policy, optimizer)
            if stop.number and not last:
                live.write(
                    f"stopped after step {number}; go on with: mrg-grpo train {run.path / 'config.toml'} --resume"
                )
                return 128 + stop.number
    return 0


def validate(run: RunDir, policy: Policy, labeler, studies: list[Study], number: int, live: Live) -> None:
    """Greedy validation on the first eval_studies of the split: one line of validation.jsonl."""
    judged = judge(predict(policy, studies[: run.config.run.eval_studies], run.config), labeler, run.config)
    values = {name: round(float(value), 5) for name, value in metrics_from_sums(judged.statistics.sum(0)).items()}
    run.append("validation.jsonl", {"step": number, "studies": len(judged.labels), **values})
    run.write_followed(number, judged)
    live.validation(number, values)


def baseline(run: RunDir, policy: Policy, labeler, splits, config: Config) -> Judged:
    """The start policy on the test split. Decoded before the first step, also on resume: the adapter is fresh here."""
    judged = judge(predict(policy, test_studies(splits, config), config, "decode test, before"), labeler, config)
    write_predictions(judged, run.path / "predictions_before.jsonl", config)
    return judged


def test_studies(splits: dict[str, list[Study]], config: Config) -> list[Study]:
    studies = studies_of(splits, "test")
    return studies[: config.run.test_studies or len(studies)]


def finish(run: RunDir, policy: Policy, labeler, splits, before: Judged) -> int:
    """Final adapter, predictions, evaluation with the before/after table."""
    config = run.config
    policy.save(str(run.path / "adapter"))
    after = judge(predict(policy, test_studies(splits, config), config, "decode test, after"), labeler, config)
    write_predictions(after, run.path / "predictions.jsonl", config)
    comparison = before_after(before, after, "test")
    run.write_json("evaluation.json", {**banner(config), **comparison.to_json()})
    print(comparison.table())
    print(f"adapter, predictions and evaluation: {run.path}")
    print(f"look at it: mrg-grpo view {run.path}")
    return 0
