"""A run: `mrg-grpo train` and `mrg-grpo sft`. Everything around the step: data, log, checkpoints, evaluation, signals.

judging.py has what is decoded on the way and at the end. On many ranks each runs this whole file, and rank 0 alone
writes and prints.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial

import torch
from peft import LoraConfig

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.load import load_splits, require_images, studies_of, test_studies, validation_studies
from mrg_grpo.data.records import SPLITS
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.clinical import ranked_metric
from mrg_grpo.grpo import Grpo
from mrg_grpo.judging import Session, finish, follow, validate
from mrg_grpo.labelers import CheXbert, config_labeler, unread_references
from mrg_grpo.labelers.reference import ReferenceLabels
from mrg_grpo.model.adapters import parameter_counts
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.encoder import unread_anywhere
from mrg_grpo.model.policy import Policy
from mrg_grpo.rewards import require_terms
from mrg_grpo.run.best import BestAdapter, Goal
from mrg_grpo.run.checkpoint import resume as load_checkpoint
from mrg_grpo.run.checkpoint import save_checkpoint
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


Step = Callable[[int, PromptBatch], tuple[dict[str, float], Sample | None]]
"""Step number, prompts on the policy's device -> metrics, and a sampled report to show."""


def train(config: Config, resume: bool = False) -> int:
    """GRPO from the start policy to RUN_DIR/adapter and a before/after table; returns the exit code."""
    session = prepare(config, resume, "train")
    run, policy = session.run, session.policy
    rewards = rewards_of(config, session.splits["train"], policy, session.labeler, run.path)
    grpo = Grpo(config, policy, rewards)
    rehearse(config, policy, rewards, session.splits["train"])
    stream = StudyStream(session.splits["train"], config.grpo.studies_per_step, config.run.seed)
    rounds = config.grpo.resample_flat

    def step(number: int, prompts: PromptBatch) -> tuple[dict[str, float], Sample | None]:
        spares = partial(stream.spares, number, rounds) if rounds else None
        result = grpo.step(prompts, number, spares)
        if rounds:
            session.left_out.note(number, "train", unread_anywhere(result.unread))
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
