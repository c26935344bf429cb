"""`mrg-grpo evaluate`: decode a split, score it, write predictions.jsonl and evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner, mark
from mrg_grpo.data.load import load_splits, studies_of
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.decode import judge, predict, tell_unread, write_decoded
from mrg_grpo.evaluation.prediction_files import PredictionRow, Predictions, read_predictions
from mrg_grpo.evaluation.same_studies import require_same_references, require_same_studies
from mrg_grpo.evaluation.score import OWN, evaluation_of, require_metrics
from mrg_grpo.files import read_text, write_whole, writing
from mrg_grpo.labelers import config_labeler, labeler_name, unread_references
from mrg_grpo.model.policy import Policy
from mrg_grpo.run.folder import adapter_of, holds_run


def run_evaluate(
    config: Config,
    adapter: str | None = None,
    base: bool = False,
    best: bool = False,
    split: str = "test",
    output: str | None = None,
    language: str = "raw",
    metrics: Sequence[str] = (),
    compare: Sequence[str] = (),
) -> None:
    """`mrg-grpo evaluate`: the run's last adapter or its best, another one, or the base, into a folder that holds no
    run.

    language, metrics, compare: as in `score`; compare names prediction files that hold both sides.
    """
    require_metrics(metrics)
    folder = Path(output or Path(config.run.output_dir) / f"evaluate-{split}{'-best' * best}")
    if holds_run(folder):
        raise UserError(f"-o {folder}: holds a run with an evaluation of its own; name another folder")
    evaluate_split(config, adapter_of(config, adapter, base, best), split, folder, language, metrics, compare)


def evaluate_split(
    config: Config,
    adapter: str | None,
    split: str,
    output: Path,
    language: str = "raw",
    metrics: Sequence[str] = (),
    compare: Sequence[str] = (),
) -> None:
    """Decode, score, write predictions.jsonl and evaluation.json, print the table.

    UserError before any work if the split is not in the data, or the folder holds another evaluation.
    """
    what = {"adapter": adapter or config.model.adapter, "split": split}
    if distributed.is_first():
        refuse_other(output, what)
    splits = load_splits(config, verify=[split])
    studies = studies_of(splits, split)
    others = [(path, _other(path, studies)) for path in dict.fromkeys(compare)]
    if distributed.is_first():
        with writing(output, "name another folder with -o"):  # before hours of decoding, not after
            output.mkdir(parents=True, exist_ok=True)
            mark(output, config)
    policy, labeler = Policy.load(config, adapter=adapter, trainable=False), config_labeler(config)
    unread, ids = unread_references(labeler, studies)  # before hours of decoding, not after
    unread.require("references looked at", ids, config.labeler.allow_unlabeled, "labeler.allow_unlabeled = true")
    decoded = predict(policy, studies, config, f"decode {split}")
    tell_unread(decoded)
    judged, shown = judge(decoded, labeler, config), {study.id for study in decoded.studies}
    others = [(path, replace(one, rows=[row for row in one.rows if row.study_id in shown])) for path, one in others]
    write_decoded(judged, output / "predictions.jsonl", config)
    everyone = distributed.SharedLabeler(labeler)  # the training references, for the baselines
    margin, name = config.reward.mccs.margin, labeler_name(config.labeler.path)
    evaluation = evaluation_of(
        judged, splits.get("train"), everyone, language, margin=margin, labeled_by=name, metrics=metrics, others=others,
        keep_text=config.run.keep_text and not banner(config),
    )  # fmt: skip
    if distributed.is_first():
        left_out = {"left_out": list(decoded.unread)} if decoded.unread else {}
        record = {**banner(config), **what, **left_out, **evaluation.to_json()}
        write_whole(output / "evaluation.json", json.dumps(record, indent=1))
    print(evaluation.table())
    print(f"predictions and evaluation: {output}")


def _other(path: str, studies: list[Study]) -> Predictions:
    """The predictions of another system; UserError, before hours of decoding, unless they are of these references."""
    other = read_predictions([path])
    require_same_studies([study.id for study in studies], [row.study_id for row in other.rows], (OWN, path))
    if not other.has_text:
        raise UserError(f"{path} holds labels alone; compare with a file that holds references and predictions")
    own = [PredictionRow(study.id, " ".join(study.report.split()), "") for study in studies]
    require_same_references(Predictions(own, "of the data"), other, ("the data", path))
    return other


def refuse_other(output: Path, what: dict[str, str]) -> None:
    """UserError if the folder holds the evaluation of another adapter or split: hours of decoding, not written over."""
    try:
        before = json.loads(read_text(output / "evaluation.json"))
        before = {name: before[name] for name in what}
    except (OSError, ValueError, KeyError, TypeError):  # none there, or none of ours
        return
    if before["split"] != what["split"] or not same_place(before["adapter"], what["adapter"]):
        policy = f"adapter {before['adapter']}" if before["adapter"] else "the base"
        raise UserError(f"{output}: holds the evaluation of {policy} on {before['split']}; name another folder with -o")


def same_place(before: str, now: str) -> bool:
    """Whether two paths name one adapter: written in two ways, or where a run was before its folder was moved."""
    if bool(before) != bool(now):
        return False
    moved = not Path(before).exists() and Path(before).name == Path(now).name == "adapter"
    return moved or Path(before).resolve() == Path(now).resolve()
