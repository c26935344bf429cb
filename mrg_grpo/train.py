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
from typing import Any

import torch
from peft import LoraConfig

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.load import load_splits, require_images, studies_of, test_studies, validation_studies
from mrg_grpo.data.records import SPLITS
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.before_after import BeforeAfter, before_after
from mrg_grpo.evaluation.clinical import metrics_from_sums, ranked_metric
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
from mrg_grpo.run.best import BestAdapter, Goal
from mrg_grpo.run.checkpoint import resume as load_checkpoint
from mrg_grpo.run.checkpoint import save_adapter, save_checkpoint
from mrg_grpo.run.faults import Guard, took_none
from mrg_grpo.run.folder import RunFolder
from mrg_grpo.run.inputs import start_adapter
from mrg_grpo.run.left_out import LeftOut
from mrg_grpo.run.process import StopSignal, give_back_freed_memory, settle_heap
from mrg_grpo.run.progress import Progress, Sample, first_sample
from mrg_grpo.run.rehearsal import rehearse, rehearse_warm_start
from mrg_grpo.run.rewards_of import rewards_of
from mrg_grpo.run.stream import StudyStream
from mrg_grpo.run.trackers import Trackers, trackers_of
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
    best: BestAdapter
    trackers: Trackers
    step: int = 0
    """The last step that was taken."""

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
            session.trackers.reports(number, run.write_rollouts(number, result))
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
    trackers_of(config)
    if command == "train":
        require_terms(config.reward)  # before anything is loaded: a typing error costs nothing
    goal = goal_of(config)
    run = RunFolder(config, resume, command)
    splits = load_splits(config, verify=SPLITS, left_out=run.left_out())
    for studies in (studies_of(splits, "train"), validation_studies(splits, config), test_studies(splits, config)):
        require_images(studies)  # now, not after hours
    trackers = Trackers(config, run.path, resume)
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
    if not validation_studies(splits, config):
        goal = Goal("")
    best = BestAdapter(run.path, goal, config.run.patience)
    return Session(run, splits, policy, labeler, LeftOut(run), best, trackers)


def goal_of(config: Config) -> Goal:
    """What run.keep_best asks for; UserError for a metric that does not rank."""
    if not (config.run.keep_best and config.run.eval_every):
        return Goal("")
    try:
        return Goal(*ranked_metric(config.run.keep_best))
    except UserError as error:
        raise UserError(f"run.keep_best: {error}") from error


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
        with session.trackers:
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
    run, config, policy, splits, best = session.run, session.config, session.policy, session.splits, session.best
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
    session.step = start
    session.trackers.begin(start)
    if resumed:
        best.go_on()
    if best.exhausted:
        print(f"{early(best)}; to go on, set run.patience = 0")
        return 0
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
            session.trackers.scalars("train", metrics, number)
            progress.step(number, metrics, sample)
            session.step, last = number, number == config.run.steps
            if validation_is_due(session, number):
                validate(session, number, progress)
                if best.exhausted and not last:
                    progress.write(early(best))
                    last = True
            elif followed and last:
                follow(session, number, followed)
            stopped = max(distributed.all_gather(stop.number))  # a signal may reach one rank alone
            due = due or number % config.run.save_every == 0 or last or bool(stopped)
            if due and not metrics.get("skipped"):
                run.sync_logs()
                save_checkpoint(run.path, number, policy, optimizer)
                best.tidy()
                due = False
            if stopped:
                progress.write(f"stopped after step {number}; go on with: {way_on(run)}")
                return 128 + stopped
            if last:
                break
    if distributed.broadcast(distributed.is_first() and took_none(run.path / "metrics.jsonl")):
        faults = run.path / "faults"
        remedy = f"read the files in {faults}, lower the learning rate" if faults.exists() else "mend the image files"
        raise UserError(f"{run.path}: every step was skipped, so nothing was learned; {remedy}, and begin a new run")
    return 0


def validation_is_due(session: Session, number: int) -> bool:
    """After every run.eval_every steps; after the last step where the best adapter is kept, which it may be."""
    run = session.config.run
    if not run.eval_every or not validation_studies(session.splits, session.config):
        return False
    return bool(session.best.goal.metric) if number == run.steps else number % run.eval_every == 0


def early(best: BestAdapter) -> str:
    """Why a run ends before its last step."""
    assert best.best
    return (
        f"stopped early: no better {best.goal.metric} on validation since step {best.best.step}, {best.best.waited} "
        "validations ago"
    )


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
    session.trackers.scalars("eval", values, number)
    session.best.note(number, values, session.policy)


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


def on_the_same(*sides: Judged) -> list[Judged]:
    """All on the studies that all could be shown: a picture may be lost between two decodings."""
    ids = set.intersection(*({study.id for study in side.predictions.studies} for side in sides))
    if not ids:
        raise UserError("no test study could be shown to every policy; put the image files back, then --resume")
    unread = {study: why for side in sides for study, why in side.predictions.unread.items()}
    for side in sides:
        side.predictions.unread |= unread
    return [side.only(ids) for side in sides]


def finish(session: Session) -> int:
    """Final adapters, predictions, evaluation: the start policy beside the last, and beside the best on validation."""
    run, config, best = session.run, session.config, session.best.best
    save_adapter(run.path / "adapter", session.policy)
    studies = test_studies(session.splits, config)
    sides = [baseline(session), judged(session, "test", studies, session.step, "decode test, after")]
    kept = best is not None and session.best.load(session.policy)
    if best and kept and best.step != session.step:
        sides.append(judged(session, "test", studies, best.step, "decode test, best"))
    before, after, *others = on_the_same(*sides)
    write_decoded(after, run.path / "predictions.jsonl", config)
    for other in others:
        write_decoded(other, run.path / "predictions_best.jsonl", config)
    tables = [before_after(before, side, "test") for side in (after, *others)]
    record = outcome(session, after, kept, tables)
    run.write_json("evaluation.json", {**banner(config), **record})
    session.trackers.final(session.step, record)
    for title, table in zip(titles(session, kept), tables):
        print(f"{title}\n\n{table.table()}\n")
    if best and not kept:
        why = "run.keep_best has changed since, or an earlier version took that step"
        print(f"the best adapter on validation, of step {best.step}, was not kept: {why}")
    session.left_out.tell()
    print(f"adapter, predictions and evaluation: {run.path}")
    print(f"look at it: mrg-grpo view {shlex.quote(str(run.path))}")
    return 0


def outcome(session: Session, after: Judged, kept: bool, tables: list[BeforeAfter]) -> dict[str, Any]:
    """The content of evaluation.json: the comparison of the last adapter, and under "best" that of the best one, whose
    sides are left out where it is the last. kept: whether the best adapter is there."""
    config, best = session.config, session.best.best
    chosen = {}
    if best and kept:
        comparison = tables[1].to_json() if len(tables) > 1 else {}
        chosen = {"best": {"step": best.step, "metric": session.best.goal.metric, "value": best.value, **comparison}}
    return {
        "step": session.step,
        **({"stopped_early": True} if session.step < config.run.steps else {}),
        "labeler": labeler_name(config.labeler.path),
        "mccs_margin": config.reward.mccs.margin,
        **({"left_out": list(after.predictions.unread)} if after.predictions.unread else {}),
        **tables[0].to_json(),
        **chosen,
    }


def titles(session: Session, kept: bool) -> list[str]:
    """What stands above each table of the end."""
    best, last = session.best.best, f"The last adapter, after step {session.step}"
    if not (best and kept):
        return [f"{last}:"]
    why = f"{session.best.goal.metric} {best.value:.3f} on validation"
    if best.step == session.step:
        return [f"{last}, which is also the best ({why}):"]
    return [f"{last}:", f"The best adapter, after step {best.step} ({why}):"]
