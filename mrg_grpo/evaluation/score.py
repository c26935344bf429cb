"""Score reports: every metric with its interval, the baselines beside it, and two systems against each other.

`mrg-grpo evaluate` and `mrg-grpo score` both end here, so that a policy of ours and any other system's prediction file
are measured by the same ruler. S studies, K statistics.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrg_grpo.config import MARGIN
from mrg_grpo.data.records import first_names
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError, nearest
from mrg_grpo.evaluation.baselines import Baseline, baselines_from_labels
from mrg_grpo.evaluation.clinical import (
    PRESETS,
    RATES,
    WIDTH,
    clinical_statistics,
    conditions_from_sums,
    metrics_from_sums,
)
from mrg_grpo.evaluation.columns import parse_columns
from mrg_grpo.evaluation.distinct import Variety, variety
from mrg_grpo.evaluation.intervals import Interval, bootstrap, bootstrap_difference, randomisation_test
from mrg_grpo.evaluation.language import language_from_sums, language_statistics
from mrg_grpo.evaluation.prediction_files import Predictions, read_predictions
from mrg_grpo.evaluation.rated import against_ratings, label_scores, ratings_table, read_ratings, text_scores
from mrg_grpo.evaluation.same_studies import require_same_references, require_same_studies
from mrg_grpo.evaluation.summary import LANGUAGE_METRICS, RESAMPLES, Comparison, Evaluation
from mrg_grpo.evaluation.table import Number
from mrg_grpo.files import require_output, write_whole
from mrg_grpo.labelers.unread import Unread, unread_of
from mrg_grpo.labels import CONDITIONS
from mrg_grpo.prompt import foreign_note, has_tags, parse_completion
from mrg_grpo.rewards.external import ExternalReward, is_path, metric_from_path

OWN = "this policy"
"""What a comparison calls the policy that is evaluated."""


@dataclass
class Scored:
    """Per-study statistics of one system: clinical (S, 171), then what else was asked for, and how to read them."""

    ids: list[str]
    statistics: Tensor  # (S, K), float64, on the CPU
    metric: Callable[[Tensor], dict[str, Tensor]]
    notes: list[str]
    variety: Variety | None = None
    scores: Callable[[], dict[str, Tensor]] = dict
    """What each report of a prediction file is worth by every reward of ours and every metric of others, (S,)."""


def evaluation_of(
    judged: Any,
    train: list[Study] | None = None,
    labeler=None,
    language: str = "raw",
    resamples: int = RESAMPLES,
    seed: int = 0,
    margin: float = MARGIN,
    labeled_by: str = "",
    metrics: Sequence[str] = (),
    others: Sequence[tuple[str, Predictions]] = (),
    keep_text: bool = True,
) -> Evaluation:
    """`mrg_grpo.evaluation.decode.Judged` -> Evaluation. train gives the baselines their reports, labeler labels them;
    margin is that of the judged statistics, for the baselines' MCCS; labeled_by names the labeler. metrics are dotted
    paths, others the systems to compare with, by name; keep_text: whether a report may be shown in it."""
    predictions, studies = judged.predictions, judged.predictions.studies
    references = [study.report for study in studies]
    externals = {}
    if metrics:
        columns = _columns(
            [study.id for study in studies], predictions.reports, references, judged.labels, judged.reference_labels,
            [list(study.images) for study in studies],
        )  # fmt: skip
        externals = {path: ExternalReward(path)(predictions.generated, **columns) for path in metrics}
    scored = score_labels(
        [study.id for study in studies], judged.statistics, predictions.reports, references, language, externals
    )
    scored.variety = variety(predictions.reports, references, judged.labels, judged.reference_labels, keep_text)
    beside: dict[str, Baseline] = {}
    if train:
        reports = [study.report for study in train]  # all of one judge: not the labels that studies may bring
        beside = baselines_from_labels(reports, labeler.label(reports), judged.reference_labels, seed)
        scored.notes.append(f"baselines from {len(train)} training reports")
    scored.notes += unread_of(judged.reference_labels, references, labeler).notes("references", scored.ids)
    scored.notes += filter(None, [foreign_note(predictions.generated)])
    evaluation = evaluate_scored(
        scored, judged.reference_labels, references, beside, language, resamples, seed, margin, labeled_by
    )
    for name, other in others:
        second, _ = score_predictions(other, labeler, language, metrics, margin, allow_unlabeled=True)
        evaluation.comparisons.append(compare_systems(scored, second, (OWN, name), resamples))
    return evaluation


def _columns(
    ids: list[str], reports: list[str], references: list[str], labels: Tensor, reference_labels: Tensor, images: Any
) -> dict[str, Any]:
    """What a metric of others is given of S studies, beside the completions."""
    return {
        "reports": reports,
        "reference": references,
        "study_id": ids,
        "prompts": [""] * len(ids),
        "labels": labels.tolist(),
        "reference_labels": reference_labels.tolist(),
        "images": images,
    }


def score_labels(
    ids: list[str],
    statistics: Tensor,
    reports: list[str],
    references: list[str],
    language: str,
    externals: dict[str, tuple[Tensor, Tensor]] | None = None,
) -> Scored:
    """Clinical statistics (S, 171) and texts -> all statistics side by side. externals: values and present, (S,)."""
    parts, notes = [statistics.cpu().double()], []
    readers: list[Callable[[Tensor], dict[str, Tensor]]] = [metrics_from_sums]
    if language != "none":
        try:
            spoken = language_statistics(reports, references, language)
            parts.append(spoken.statistics)
            readers.append(language_from_sums)
            notes += [f"language metrics on {language} text", *spoken.notes]
        except UserError as error:
            if "pycocoevalcap" not in str(error):
                raise
            notes.append(f"language metrics are left out: {error}")
    for name, (values, present) in (externals or {}).items():
        parts.append(torch.stack([values * present, present], dim=1).double())
        readers.append(_mean_reader(name))
    widths = [part.shape[1] for part in parts]

    def metric(sums: Tensor) -> dict[str, Tensor]:
        merged: dict[str, Tensor] = {}
        for read, part in zip(readers, sums.split(widths, dim=-1), strict=True):
            merged |= read(part)
        return merged

    return Scored(ids, torch.cat(parts, dim=1), metric, notes)


def evaluate_scored(
    scored: Scored,
    reference_labels: Tensor,
    references: list[str],
    beside: dict[str, Baseline],
    language: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    margin: float = MARGIN,
    labeled_by: str = "",
) -> Evaluation:
    """Intervals of every metric and condition, for the system and for each baseline."""
    clinical = scored.statistics[:, :WIDTH]
    table = _numbers(bootstrap(clinical, conditions_from_sums, resamples, seed))
    per_condition = {
        condition: {column: numbers[row] for column, numbers in table.items()}
        for row, condition in enumerate(CONDITIONS)
    }
    rows = {}
    for name, baseline in beside.items():
        words = torch.tensor([float(len(report.split())) for report in baseline.reports])
        statistics = clinical_statistics(baseline.labels, reference_labels.cpu(), margin=margin, words=words)
        one = score_labels(scored.ids, statistics, baseline.reports, references, language)
        rows[name] = _scalars(bootstrap(one.statistics, one.metric, resamples, seed))
    metrics = _scalars(bootstrap(scored.statistics, scored.metric, resamples, seed))
    never = [name for name in CONDITIONS if not per_condition[name]["reference_uncertain_positive"].value]
    if never:
        scored.notes.append(
            f"{len(never)} of 14 conditions are in no reference and count as 0 in macro averages: "
            f"{first_names(never, 14)}"
        )
    first = [f"labels: {labeled_by}; MCCS with margin {margin:g}"] if labeled_by else []
    notes = [*first, *([scored.variety.note()] if scored.variety else []), *scored.notes]
    return Evaluation(
        len(scored.ids), metrics, per_condition, rows, notes, resamples=resamples, labeler=labeled_by, margin=margin,
        variety=scored.variety,
    )  # fmt: skip


def compare_systems(first: Scored, second: Scored, names: tuple[str, str], resamples: int = RESAMPLES) -> Comparison:
    """Two systems on the same studies, in any order. Raises UserError that names studies only one of them has."""
    require_same_studies(first.ids, second.ids, names)
    place = {key: row for row, key in enumerate(second.ids)}
    if first.statistics.shape[1] != second.statistics.shape[1]:
        raise UserError(f"{names[0]} and {names[1]} were not scored by the same metrics")
    a, b = first.statistics, second.statistics[[place[key] for key in first.ids]]
    difference = _scalars(bootstrap_difference(a, b, first.metric, resamples))
    p_values = randomisation_test(a, b, first.metric, resamples)
    return Comparison(names, difference, {name: p_values[name].item() for name in difference})


def score_predictions(
    predictions: Predictions,
    labeler,
    language: str = "raw",
    metrics: Sequence[str] = (),
    margin: float = MARGIN,
    allow_unlabeled: bool = False,
) -> tuple[Scored, Tensor]:
    """A read prediction file -> its statistics, and the references' class ids (S, 14).

    Reports are labelled by `labeler`; a file that holds labels alone is scored by those. Where predictions still carry
    the tags of a completion all are parsed first. metrics are dotted paths of TRL's signature.
    """
    rows, ids = predictions.rows, [row.study_id for row in predictions.rows]
    whole = [row.generated if row.generated is not None else row.prediction for row in rows]
    tagged = [row.generated is None and has_tags(row.prediction) for row in rows]
    parsed = [parse_completion(text) for text in whole]
    reports = [answer.report if is_tagged else row.prediction for row, answer, is_tagged in zip(rows, parsed, tagged)]
    references = [row.reference for row in rows]
    notes = list(predictions.notes())
    options: dict[str, Tensor] = {}
    if predictions.has_text:
        labels, reference_labels = labeler.label(reports).cpu(), labeler.label(references).cpu()
        thoughts = [
            row.think or (answer.think if is_tagged else "") for row, answer, is_tagged in zip(rows, parsed, tagged)
        ]
        if any(thoughts):
            options = {"think": labeler.label(thoughts).cpu(), "has_think": torch.tensor([bool(t) for t in thoughts])}
        unseen = unread_of(reference_labels, references, labeler)
        unseen.require("references", ids, allow_unlabeled, "--allow-unlabeled")
        notes += unseen.notes("references", ids)
        cut = Unread(len(rows), cut=unread_of(labels, reports, labeler).cut)  # a report may well say nothing
        notes += cut.notes("predictions", ids)
        options["words"] = torch.tensor([float(len(report.split())) for report in reports])
    else:
        labels, reference_labels = (_stored(rows, side) for side in ("labels", "reference_labels"))
        language = "none"
        notes.append("no text in this file: scored by the labels it holds")
    if any(tagged):
        notes.append(
            f"{sum(tagged)} predictions carry the tags of a completion: the report inside is scored, the form of all"
        )
    notes += filter(None, [foreign_note(whole)])
    if all(row.compliant is not None for row in rows):
        options["compliant"] = torch.tensor([bool(row.compliant) for row in rows])
    elif all(row.generated is not None for row in rows) or any(tagged):
        options["compliant"] = torch.tensor([answer.compliant for answer in parsed])
    columns = _columns(ids, reports, references, labels, reference_labels, [list(row.images) for row in rows])
    externals = {path: ExternalReward(path)(whole, **columns) for path in metrics}
    statistics = clinical_statistics(labels, reference_labels, margin=margin, **options)  # type: ignore[arg-type]
    scored = score_labels(ids, statistics, reports, references, language, externals)
    scored.notes = notes + scored.notes
    scored.scores = lambda: {
        **label_scores(labels, reference_labels, margin),
        **(text_scores(reports, references) if predictions.has_text else {}),
        **{name: values.masked_fill(~present, torch.nan) for name, (values, present) in externals.items()},
    }
    scored.variety = variety(reports, references, labels, reference_labels, not predictions.credentialed)
    return scored, reference_labels


def run_score(
    paths: Sequence[str],
    labeler_path: str | None = None,
    tokenizer: str | None = None,
    output: str | None = None,
    preset: str | None = None,
    compare: str | Sequence[str] | None = None,
    language: str = "raw",
    duplicates: str = "error",
    metrics: Sequence[str] = (),
    resamples: int = RESAMPLES,
    margin: float | None = None,
    allow_unlabeled: bool = False,
    columns: Sequence[str] = (),
    ratings: str | None = None,
) -> int:
    """`mrg-grpo score`: print the table, write the JSON. Returns the exit code.

    margin: of MCCS, None is MARGIN. compare: one or more other systems, each compared with the first. columns: see
    `columns.parse_columns`.
    """
    from mrg_grpo.labelers import labeler_name, load_labeler

    margin = MARGIN if margin is None else margin
    if not 0 <= margin < 1:
        raise UserError(f"--margin {margin}: must be at least 0 and below 1")
    if preset is not None and preset not in PRESETS:
        raise UserError(f'preset "{preset}" is not one of {", ".join(PRESETS)}')
    others = [compare] if isinstance(compare, str) else list(compare or ())
    if output:
        require_output(output, [*paths, *others])
    require_metrics(metrics)
    named = parse_columns(columns)
    rated = read_ratings(Path(ratings)) if ratings else None
    predictions = read_predictions(list(paths), duplicates, named)
    labeler = load_labeler(labeler_path or "", tokenizer or "", torch.device("cpu"))
    scored, reference_labels = score_predictions(predictions, labeler, language, metrics, margin, allow_unlabeled)
    references = [row.reference for row in predictions.rows]
    beside: dict[str, Baseline] = {}
    if predictions.has_text and len(references) > 1:
        beside = baselines_from_labels(references, reference_labels, reference_labels, leave_one_out=True)
        scored.notes.append("baselines from the references of this file; random and nearest leave the study itself out")
    labeled_by = labeler_name(labeler_path or "") if predictions.has_text else "those that the file holds"
    evaluation = evaluate_scored(
        scored, reference_labels, references, beside, language, resamples, margin=margin, labeled_by=labeled_by
    )
    short = short_names([paths[-1], *others])
    for path in others:
        # references and predictions in two files: the other system may bring its predictions alone
        other = read_predictions([*paths[:-1], path], duplicates, replace(named, optional=True))
        if columns:
            evaluation.notes.append(f"{short[path]}: layout: {other.layout}")
        require_same_references(predictions, other, (paths[-1], path))
        second, _ = score_predictions(other, labeler, language, metrics, margin, allow_unlabeled)
        names = (short[paths[-1]], short[path])
        evaluation.comparisons.append(compare_systems(scored, second, names, resamples))
        if second.variety and (warning := second.variety.warning()):
            evaluation.notes.append(f"{short[path]}: {warning}")
    record = evaluation.to_json()
    print(evaluation.table(preset))
    if rated:
        found, told = against_ratings(scored.scores(), scored.ids, rated, resamples)
        print(f"\n{ratings_table(found, told)}")
        record["ratings"] = {name: ranking.to_json() for name, ranking in found.items()}
    if output:
        write_whole(Path(output), json.dumps(record, indent=1) + "\n", "name another file with -o")
        print(f"metrics: {output}")
    return 0


def require_metrics(paths: Sequence[str]) -> None:
    """Every --metric leads to a function; UserError, which knows our own metrics by name, before any work."""
    ours = (*RATES, *LANGUAGE_METRICS, *PRESETS["cxrmate"].values(), *PRESETS["f1chexbert"].values())
    for path in paths:
        if path in ours:
            raise UserError(f"--metric {path}: is one of our own, computed without asking; take it out")
        if not is_path(path):
            asked = " ".join(filter(None, (nearest(path, ours), "our own metrics are computed without asking")))
            raise UserError(
                f"--metric {path}: is no dotted path, package.module:function, to a metric of yours; {asked}"
            )
        metric_from_path(path)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """File names by path, as paths where two files are called the same."""
    names = {path: Path(path).name for path in paths}
    taken = list(names.values())
    return {path: name if taken.count(name) == 1 else path for path, name in names.items()}


def _mean_reader(name: str) -> Callable[[Tensor], dict[str, Tensor]]:
    return lambda sums: {name: sums[..., 0] / sums[..., 1]}


def _stored(rows: Sequence[Any], side: str) -> Tensor:
    stored = [getattr(row, side) for row in rows]
    lacking = [row.study_id for row, labels in zip(rows, stored) if labels is None]
    if lacking:
        raise UserError(f"{len(lacking)} studies have neither text nor {side} ({first_names(lacking)})")
    return torch.tensor(stored, dtype=torch.long)


def _scalars(intervals: dict[str, Interval]) -> dict[str, Number]:
    return {name: Number(i.value.item(), i.low.item(), i.high.item()) for name, i in intervals.items()}


def _numbers(intervals: dict[str, Interval]) -> dict[str, list[Number]]:
    return {
        name: [Number(*cell) for cell in zip(i.value.tolist(), i.low.tolist(), i.high.tolist())]
        for name, i in intervals.items()
    }
