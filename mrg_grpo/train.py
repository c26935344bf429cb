"""A run: `mrg-grpo train` and `mrg-grpo sft`. Everything around the step: data, log, checkpoints, evaluation, signals.

The before/after comparison decodes the start policy and the trained one greedily with the same code, on the same test
studies, and resamples studies in pairs. Both at the end, the start policy as the frozen reference, so that the first
step is not kept waiting. On many ranks each runs this whole file, and rank 0 alone writes and prints.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import LoraConfig

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.load import load_splits, require_images, studies_of, test_studies, validation_studies
from mrg_grpo.data.records import SPLITS
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.before_after import before_after
from mrg_grpo.evaluation.clinical import metrics_from_sums
from mrg_grpo.evaluation.decode import (
    Decoded,
    Judged,
    judge,
    predict,
    prediction_record,
    read_decoded,
    write_decoded,
)
from mrg_grpo.grpo import Grpo
from mrg_grpo.labelers import CheXbert, config_labeler, labeler_name, unread_references
from mrg_grpo.labelers.reference import ReferenceLabels
from mrg_grpo.model.adapters import parameter_counts
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.policy import Policy
from mrg_grpo.rewards import require_terms
from mrg_grpo.run.checkpoint import resume as load_checkpoint
from mrg_grpo.run.checkpoint import save_adapter, save_checkpoint
from mrg_grpo.run.faults import Guard, took_none
from mrg_grpo.run.folder import RunFolder
from mrg_grpo.run.inputs import start_adapter
from mrg_grpo.run.left_out import LeftOut
from mrg_grpo.run.process import StopSignal, give_back_freed_memory, settle_heap
from mrg_grpo.run.progress import Progress, Sample, first_sample, require_tensorboard
from mrg_grpo.run.rehearsal import rehearse, rehearse_warm_start
from mrg_grpo.run.rewards_of import rewards_of
from mrg_grpo.run.stream import StudyStream
from mrg_grpo.sft import Sft, targets

TRIM_EVERY = 10
"""Steps. What has been handed back must be fetched again, page by page: after every step that cost 5% of it."""


@dataclass
class Session:
    """What GRPO and the warm start have in common."""

    run: RunFolder
    splits: dict[str, list[Study]]
    policy: Policy
    labeler: CheXbert
    left_out: LeftOut

    @property
    def config(self) -> Config:
        return self.run.config


Step = Callable[[int, PromptBatch], tuple[dict[str, float], Sample | None]]
"""Step number, prompts on the policy's device -> metrics, and a sampled report to show."""


def train(config: Config, resume: bool = False) -> int:
    """GRPO from the start policy to RUN_DIR/adapter and a before/after table; returns the exit code."""
    session = prepare(config, resume, "train")
    run, policy = session.run, session.policy
    rewards = rewards_of(config, session.splits["train"], policy, session.labeler, run.path)
    grpo = Grpo(config, policy, rewards)
    rehearse(config, policy, rewards, session.splits["train"])

    def step(number: int, prompts: PromptBatch) -> tuple[dict[str, float], Sample | None]:
        result = grpo.step(prompts, number)
        if number % config.run.rollouts_every == 0 or number == 1:
            run.write_rollouts(number, result)
        return result.metrics, first_sample(result)

    return carry_out(session, grpo.optimizer, config.grpo.studies_per_step, step, resume)


def sft(config: Config, resume: bool = False) -> int:
    """Token-level warm start with the same tree, the same adapter, the same evaluation."""
    session = prepare(config, resume, "sft")
    labels = ReferenceLabels(session.labeler)
    warm_start = Sft(config, session.policy, labels)
    some = sorted(session.splits["train"], key=lambda study: -len(study.report))[: config.sft.batch_size]
    rehearse_warm_start(config, session.policy, session.splits["train"], targets(some, labels, config.prompt.think))

    def step(number: int, prompts: PromptBatch) -> tuple[dict[str, float], Sample | None]:
        return warm_start.step(prompts, number), None

    return carry_out(session, warm_start.optimizer, config.sft.batch_size, step, resume)


def prepare(config: Config, resume: bool, command: str) -> Session:
    """Run folder, data, policy and labeler, each refused in one line where it is not usable."""
    settle_heap()
    require_tensorboard(config)
    if command == "train":
        require_terms(config.reward)  # before anything is loaded: a typing error costs nothing
    run = RunFolder(config, resume, command)
    splits = load_splits(config, verify=SPLITS, left_out=run.left_out())
    for studies in (studies_of(splits, "train"), validation_studies(splits, config), test_studies(splits, config)):
        require_images(studies)  # now, not after hours
    torch.manual_seed(config.run.seed)  # LoRA's A matrices
    start = start_adapter(run.path, config) if resume else None  # the run's own copy, whatever lies at the path now
    policy, labeler = Policy.load(config, start), config_labeler(config)
    run.settle_inputs(splits)
    print(f"policy: {parameter_counts(policy.model)}")
    note_other_lora(policy, config)
    note_unread(labeler, splits["train"], config)
    if distributed.world_size() > 1:
        where = "in shards, LoRA not merged" if policy.sharded else "whole on each"
        print(f"ranks: {distributed.world_size()}, base {where}")
    return Session(run, splits, policy, labeler, LeftOut(run))


def note_other_lora(policy: Policy, config: Config) -> None:
    """An adapter that is continued keeps its own rank; [lora] is then not read."""
    if config.model.adapter:
        own = policy.model.peft_config["default"]
        if not isinstance(own, LoraConfig):
            print(f"adapter: {own.peft_type.value}, of {config.model.adapter}; [lora] is not read")
        elif (own.r, own.lora_alpha) != (config.lora.rank, config.lora.alpha):
            print(f"lora: rank {own.r} and alpha {own.lora_alpha}, of {config.model.adapter}; [lora] is not read")


def note_unread(labeler: CheXbert, studies: list[Study], config: Config) -> None:
    """What the labeler cannot read of the training references; UserError where that is more than half."""
    found, ids = unread_references(labeler, studies)
    what = "training references" if found.total == len(studies) else "training references looked at"
    found.require(what, ids, config.labeler.allow_unlabeled, "labeler.allow_unlabeled = true")
    for note in found.notes(what, ids):
        print(f"labeler: {note}")


def carry_out(session: Session, optimizer: torch.optim.Optimizer, size: int, step: Step, resume: bool) -> int:
    """Take the steps, then test the start policy and the trained one; the exit code."""
    session.run.begin()
    try:
        stopped = loop(session, optimizer, size, step, resume)
        if stopped:
            return stopped
        with StopSignal(at_once=f"stopped before the evaluation was done; go on with: {way_on(session.run)}"):
            return finish(session)
    finally:
        session.run.close()


def way_on(run: RunFolder) -> str:
    """The command that goes on with this run."""
    program = "mrg-grpo" if distributed.world_size() == 1 else "torchrun ... -m mrg_grpo"
    return f"{program} {run.command} {shlex.quote(str(run.path / 'config.toml'))} --resume"


def loop(session: Session, optimizer: torch.optim.Optimizer, size: int, step: Step, resumed: bool) -> int:
    """Steps from the last checkpoint to the end, with log, validation, checkpoints; 0, or 128 + signal."""
    run, config, policy, splits = session.run, session.config, session.policy, session.splits
    guard = Guard(run.path, config, policy, optimizer)
    start = 0
    if resumed:
        state = load_checkpoint(run.path, policy, optimizer)
        for fault in state.damaged:
            print(f"checkpoint passed over: {fault}")
        start = state.step
        print(f"resuming after step {start}")
        if state.other_ranks:
            print(state.other_ranks)
    run.cut_after(start)
    stream = StudyStream(splits["train"], size, config.run.seed)
    batches = stream.prompts(policy.encoder, start + 1, config.run.steps, config.data.workers)
    followed = validation_studies(splits, config)[: config.run.follow_studies]
    if followed and start == 0:
        follow(session, 0, followed)
    due = False  # a checkpoint; not written while steps are skipped: what they could not use may be broken
    with StopSignal() as stop, Progress(config, start) as progress:
        for number, loaded in batches:
            session.left_out.note(number, "train", loaded.unread)
            metrics, sample = guard.attempt(step, number, loaded.prompts)
            if loaded.unread:
                metrics["left_out"] = float(len(loaded.unread))
            if number % TRIM_EVERY == 0:
                give_back_freed_memory()
            run.append("metrics.jsonl", {"step": number, **metrics})
            progress.step(number, metrics, sample)
            last = number == config.run.steps
            if (
                config.run.eval_every
                and number % config.run.eval_every == 0
                and not last
                and validation_studies(splits, config)
            ):
                validate(session, number, progress)
            if followed and last:
                follow(session, number, followed)
            stopped = max(distributed.all_gather(stop.number))  # a signal may reach one rank alone
            due = due or number % config.run.save_every == 0 or last or bool(stopped)
            if due and not metrics.get("skipped"):
                run.sync_logs()
                save_checkpoint(run.path, number, policy, optimizer)
                due = False
            if stopped:
                progress.write(f"stopped after step {number}; go on with: {way_on(run)}")
                return 128 + stopped
    if distributed.broadcast(distributed.is_first() and took_none(run.path / "metrics.jsonl")):
        faults = run.path / "faults"
        remedy = f"read the files in {faults}, lower the learning rate" if faults.exists() else "mend the image files"
        raise UserError(f"{run.path}: every step was skipped, so nothing was learned; {remedy}, and begin a new run")
    return 0


def decoded(session: Session, split: str, studies: list[Study], step: int, progress: str = "") -> Decoded:
    """Greedy reports of the policy as it is after `step`; studies that cannot be shown are noted."""
    predictions = predict(session.policy, studies, session.config, progress)
    session.left_out.note(step, split, predictions.unread)
    return predictions


def judged(session: Session, split: str, studies: list[Study], step: int, progress: str = "") -> Judged:
    """The same with their labels. UserError where no study can be shown."""
    return judge(decoded(session, split, studies, step, progress), session.labeler, session.config)


def follow(session: Session, step: int, followed: list[Study]) -> None:
    """Decode the followed validation studies alone; they are shown to the reader, and missed where they cannot be."""
    predictions = decoded(session, "val", followed, step)
    if predictions.studies:
        write_followed(session.run, step, judge(predictions, session.labeler, session.config), followed)


def write_followed(run: RunFolder, step: int, found: Judged, followed: list[Study]) -> None:
    """Of what was judged the followed validation studies, after `step`: the same studies over training."""
    for i, study in enumerate(found.predictions.studies):
        if study in followed:
            run.append("followed.jsonl", {"step": step, **prediction_record(found, i, run.config)})


def validate(session: Session, number: int, progress: Progress) -> None:
    """Greedy validation on the first eval_studies of the split: one line of validation.jsonl."""
    run = session.run
    studies = validation_studies(session.splits, run.config)
    found = judged(session, "val", studies, number)
    values = {name: round(float(value), 5) for name, value in metrics_from_sums(found.statistics.sum(0)).items()}
    written = {name: None if math.isnan(value) else value for name, value in values.items()}  # JSON has no NaN
    run.append("validation.jsonl", {"step": number, "studies": len(found.labels), **written})
    write_followed(run, number, found, studies[: run.config.run.follow_studies])
    progress.validation(number, values)


def baseline(session: Session) -> Judged:
    """The start policy on the test split; read from its file if an earlier end of this run got so far."""
    studies, path = test_studies(session.splits, session.config), session.run.path / "predictions_before.jsonl"
    failure, think = session.policy.encoder.failure, session.config.prompt.think
    kept = read_decoded(path, studies, think, failure) if distributed.is_first() else None
    before = distributed.broadcast(kept)
    if before is not None:
        return judge(before, session.labeler, session.config)
    with session.policy.reference():
        found = judged(session, "test", studies, session.config.run.steps, "decode test, before")
    write_decoded(found, path, session.config)
    return found


def on_the_same(before: Judged, after: Judged) -> tuple[Judged, Judged]:
    """Both on the studies that both could be shown: a picture may be lost between the two."""
    ids = {study.id for study in before.predictions.studies} & {study.id for study in after.predictions.studies}
    if not ids:
        raise UserError("no test study could be shown to both policies; put the image files back, then --resume")
    before.predictions.unread |= after.predictions.unread
    after.predictions.unread |= before.predictions.unread
    return before.only(ids), after.only(ids)


def finish(session: Session) -> int:
    """Final adapter, predictions, evaluation with the before/after table."""
    run, config = session.run, session.config
    save_adapter(run.path, session.policy)
    before = baseline(session)
    after = judged(session, "test", test_studies(session.splits, config), config.run.steps, "decode test, after")
    before, after = on_the_same(before, after)
    write_decoded(after, run.path / "predictions.jsonl", config)
    comparison = before_after(before, after, "test")
    what = {
        "step": config.run.steps, "labeler": labeler_name(config.labeler.path),
        "mccs_margin": config.reward.mccs.margin,
        **({"left_out": list(after.predictions.unread)} if after.predictions.unread else {}),
    }  # fmt: skip
    run.write_json("evaluation.json", {**banner(config), **what, **comparison.to_json()})
    print(comparison.table())
    session.left_out.tell()
    print(f"adapter, predictions and evaluation: {run.path}")
    print(f"look at it: mrg-grpo view {shlex.quote(str(run.path))}")
    return 0
