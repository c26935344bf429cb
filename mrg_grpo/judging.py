"""What a run decodes and judges: the followed studies, validation on its way, and the test at its end.

The before/after comparison decodes the start policy and the trained one greedily with the same code, on the same test
studies, and resamples studies in pairs. Both at the end, the start policy as the frozen reference, so that the first
step is not kept waiting. On many ranks each runs all of this, and rank 0 alone writes and prints.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import Any

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.load import test_studies, validation_studies
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.before_after import BeforeAfter, before_after
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
from mrg_grpo.labelers import CheXbert, labeler_name
from mrg_grpo.model.policy import Policy
from mrg_grpo.run.best import BestAdapter
from mrg_grpo.run.checkpoint import save_adapter
from mrg_grpo.run.folder import RunFolder
from mrg_grpo.run.left_out import LeftOut
from mrg_grpo.run.progress import Progress
from mrg_grpo.run.trackers import Trackers


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
