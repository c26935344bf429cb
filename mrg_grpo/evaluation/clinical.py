"""Clinical efficacy from label ids: every convention of the field out of one table of counts.

CE numbers of different papers cannot be compared, since averaging, label set and the meaning of "positive" differ. So
all of them are computed here, always, and a preset only names the ones that a given code prints.

    label ids (S, 14) x 2 -> statistics (S, K): counts of each study alone -> sums (..., K) -> metrics (...,)

Every metric is a pure function of summed statistics, so a bootstrap resample or a randomisation is one matrix product
(`mrg_grpo.evaluation.intervals`), for every metric at once.

Deliberate choices
* A precision, recall or F1 with an empty denominator is 0, as in scikit-learn (zero_division=0) and in the codes of the
  field: an example without findings, rightly left without findings, scores 0 in the example-based average.
* A rate over an empty set (polarity accuracy where no condition is mentioned by both) is NaN: undefined, not 0.
* Omission and hallucination speak of findings (positive or uncertain) over the 13 conditions without No Finding.

S studies, K statistics, R resamples.
"""

# ruff: noqa: E501  (rows of a table are easier to compare in long lines)

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from mrg_grpo.config import MARGIN
from mrg_grpo.errors import UserError, nearest
from mrg_grpo.labels import BLANK, CONDITIONS, FIVE, NEGATIVE, POSITIVE, UNCERTAIN
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, signed_vectors

LABEL_SETS: dict[str, tuple[int, ...]] = {
    "14": tuple(range(14)),
    "13": tuple(range(13)),
    "5": tuple(CONDITIONS.index(name) for name in FIVE),
}
"""Positions of the conditions in each label set: all, all but No Finding, the five of the CheXpert competition."""

READINGS: dict[str, tuple[int, ...]] = {
    "uncertain_positive": (POSITIVE, UNCERTAIN),
    "uncertain_negative": (POSITIVE,),
}
"""Classes that count as positive."""

NEGATED = "negated"
"""A third reading for the per-condition table: the report says that the condition is absent (class 2)."""

AVERAGES = {
    "micro": "of the counts of all studies and labels together",
    "macro": "the mean over labels",
    "weighted": "the mean over labels, each weighted by how many references have it; 0 where none has any",
    "example": "the mean over studies, each scored alone; a study without a positive label on either side scores 0",
}
QUANTITIES = ("precision", "recall", "f1")
COUNTS = ("tp", "fp", "fn")


@dataclass(frozen=True)
class Rate:
    """A metric that is a ratio of two sums."""

    numerator: str
    denominator: str
    meaning: str
    better: str = "higher"
    """"lower" of an error rate, "" where no value is better than another."""


RATES = {
    "clinical_cosine": Rate("cosine", "studies", "mean over studies of the cosine similarity of signed CheXbert vectors: positive and uncertain +1, negative -1; 1 where both reports mention nothing, 0 where one of them does"),
    "mccs": Rate("mccs", "studies", "mean over studies of max((cosine - m) / (1 - m), 0); m is `reward.mccs.margin` in `evaluate` and `--margin` in `score`; never weighted by rarity"),
    "polarity_accuracy": Rate("same_sign", "both_mention", "of the conditions that both reports mention, share with the same sign (uncertain is +1)"),
    "omission_rate": Rate("finding_missed", "reference_findings", "of the reference's findings, share that the generated report does not state: `omission_silent_rate` + `omission_denied_rate`", "lower"),
    "omission_silent_rate": Rate("finding_silent", "reference_findings", "share that the generated report does not mention", "lower"),
    "omission_denied_rate": Rate("finding_denied", "reference_findings", "share that the generated report says is absent", "lower"),
    "hallucination_rate": Rate("finding_added", "generated_findings", "of the generated report's findings, share that the reference does not have: `hallucination_silent_rate` + `hallucination_denied_rate`", "lower"),
    "hallucination_silent_rate": Rate("finding_unfounded", "generated_findings", "share that the reference does not mention", "lower"),
    "hallucination_denied_rate": Rate("finding_contradicted", "generated_findings", "share that the reference says is absent", "lower"),
    "uncertainty_agreement": Rate("both_uncertain", "either_uncertain", "of the conditions that either report calls uncertain, share that both do"),
    "think_report_agreement": Rate("think_cosine", "with_think", "mean cosine similarity of the labels of the think block and of the report after it"),
    "format_compliance": Rate("compliant", "with_format", "share of completions in the requested form"),
    "report_length": Rate("words", "with_words", "mean number of words in a generated report", ""),
}  # fmt: skip
"""Over the 13 conditions without No Finding, all studies together. A finding is positive or uncertain."""

TITLES = {
    "f1_micro_13_uncertain_positive": "micro F1, 13 conditions",
    "f1_macro_13_uncertain_positive": "macro F1, 13 conditions",
    "precision_micro_13_uncertain_positive": "micro precision",
    "recall_micro_13_uncertain_positive": "micro recall",
    "clinical_cosine": "clinical cosine",
    "mccs": "MCCS",
    "polarity_accuracy": "polarity accuracy",
    "omission_rate": "omission rate",
    "hallucination_rate": "hallucination rate",
    "think_report_agreement": "think-report agreement",
    "format_compliance": "format compliance",
    "report_length": "report length, words",
}
"""What tables and the run page call the metrics that they show."""

PRESETS: dict[str, dict[str, str]] = {
    "r2gencmn": {
        f"{quantity.upper()}_{average.upper()}": f"{quantity}_{average}_14_uncertain_negative"
        for average in ("macro", "micro")
        for quantity in ("f1", "recall", "precision")
    },
    "f1chexbert": {
        "accuracy": "exact_match_5_uncertain_positive",
        **{
            f"{theirs} avg {labels} {quantity}": f"{quantity}_{average}_{labels}_uncertain_positive"
            for labels in ("14", "5")
            for theirs, average in {**{name: name for name in AVERAGES}, "samples": "example"}.items()
            if theirs != "example"
            for quantity in QUANTITIES
        },
    },
    "promptmrg": {f"ce_{quantity}": f"{quantity}_example_14_uncertain_negative" for quantity in QUANTITIES},
    "cxrmate": {
        **{
            f"{quantity}_{average}": f"{quantity}_{average}_14_uncertain_negative"
            for average in ("example", "macro", "micro")
            for quantity in QUANTITIES
        },
        # every study has all 14 labels, so the three averages of accuracy are one number
        **{f"accuracy_{average}": "accuracy_14_uncertain_negative" for average in ("example", "macro", "micro")},
    },
}
"""What each code prints -> our name of that number. One study, one report: where CXRMate averages the counts of several
images of a study first, give it one report a study."""


def _layout() -> dict[str, slice]:
    widths = {f"{count}_{reading}": 14 for reading in (*READINGS, NEGATED) for count in COUNTS}
    for reading in READINGS:
        for labels in LABEL_SETS:
            widths |= {f"{quantity}_example_{labels}_{reading}": 1 for quantity in QUANTITIES}
            widths[f"exact_match_{labels}_{reading}"] = 1
    widths |= {name: 1 for rate in RATES.values() for name in (rate.numerator, rate.denominator)}
    columns, start = {}, 0
    for name, width in widths.items():
        columns[name] = slice(start, start + width)
        start += width
    return columns


COLUMNS = _layout()
"""Where each statistic lies along K."""

WIDTH = max(column.stop for column in COLUMNS.values())
"""K."""


def clinical_statistics(
    generated: Tensor,
    reference: Tensor,
    *,
    margin: float = MARGIN,
    weights: Tensor | None = None,
    zero_vectors: float = 1.0,
    think: Tensor | None = None,
    has_think: Tensor | None = None,
    compliant: Tensor | None = None,
    words: Tensor | None = None,
) -> Tensor:
    """Class ids (S, 14) x (S, 14) -> additive statistics (S, K), float64, on the labels' device.

    margin, weights (2, 13) and zero_vectors are those of `mrg_grpo.rewards.mccs`. Optional, each for all studies:
    think (S, 14) labels of the think blocks, has_think (S,) bool for which there is one (default all), compliant (S,)
    bool, words (S,) length of the generated reports. What is not given comes out as NaN.
    """
    if generated.shape != reference.shape or generated.ndim != 2 or generated.shape[1] != 14:
        raise ValueError(f"labels must both be (S, 14), not {tuple(generated.shape)} and {tuple(reference.shape)}")
    device, studies = generated.device, generated.shape[0]
    parts: dict[str, Tensor] = {"studies": torch.ones(studies, device=device)}
    for reading, classes in {**READINGS, NEGATED: (NEGATIVE,)}.items():
        a, b = (_among(labels, classes) for labels in (generated, reference))  # (S, 14)
        for count, hit in zip(COUNTS, (a & b, a & ~b, ~a & b)):
            parts[f"{count}_{reading}"] = hit
        if reading == NEGATED:
            continue
        for labels, members in LABEL_SETS.items():
            index = torch.tensor(members, device=device)
            tp, fp, fn = (parts[f"{count}_{reading}"][:, index].sum(dim=1).double() for count in COUNTS)  # (S,)
            for quantity, value in _precision_recall_f1(tp, fp, fn).items():
                parts[f"{quantity}_example_{labels}_{reading}"] = value
            parts[f"exact_match_{labels}_{reading}"] = (fp + fn) == 0
    parts |= _rate_statistics(generated, reference)
    parts["cosine"] = clinical_cosine(generated, reference, weights, zero_vectors)
    parts["mccs"] = mccs(generated, reference, margin, weights, zero_vectors)
    if think is not None:
        present = torch.ones(studies, device=device) if has_think is None else has_think.to(device)
        parts["with_think"] = present
        parts["think_cosine"] = clinical_cosine(think.to(device), generated, zero_vectors=zero_vectors) * present
    for name, weight, values in (("compliant", "with_format", compliant), ("words", "with_words", words)):
        if values is not None:
            parts[name], parts[weight] = values.to(device), parts["studies"]
    statistics = torch.zeros(studies, WIDTH, dtype=torch.float64, device=device)
    for name, value in parts.items():
        statistics[:, COLUMNS[name]] = value.double().view(studies, 1 if value.ndim == 1 else 14)
    return statistics


def metrics_from_sums(sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics (..., K) -> every metric by name, each (...,). Pure; `...` is nothing or resamples."""
    at = {name: sums[..., column] for name, column in COLUMNS.items()}
    studies = at["studies"][..., 0]
    metrics: dict[str, Tensor] = {}
    for labels, members in LABEL_SETS.items():
        index = torch.tensor(members, device=sums.device)
        for reading in READINGS:
            tp, fp, fn = (at[f"{count}_{reading}"][..., index] for count in COUNTS)  # (..., labels)
            micro = _precision_recall_f1(tp.sum(dim=-1), fp.sum(dim=-1), fn.sum(dim=-1))
            each = _precision_recall_f1(tp, fp, fn)
            support = tp + fn
            weights = support / support.sum(dim=-1, keepdim=True).clamp(min=1)
            for quantity in QUANTITIES:
                metrics[f"{quantity}_micro_{labels}_{reading}"] = micro[quantity]
                metrics[f"{quantity}_macro_{labels}_{reading}"] = each[quantity].mean(dim=-1)
                metrics[f"{quantity}_weighted_{labels}_{reading}"] = (each[quantity] * weights).sum(dim=-1)
                example = at[f"{quantity}_example_{labels}_{reading}"][..., 0]
                metrics[f"{quantity}_example_{labels}_{reading}"] = example / studies
            metrics[f"exact_match_{labels}_{reading}"] = at[f"exact_match_{labels}_{reading}"][..., 0] / studies
            metrics[f"accuracy_{labels}_{reading}"] = 1 - (fp + fn).sum(dim=-1) / (studies * len(members))
    for name, rate in RATES.items():
        metrics[name] = at[rate.numerator][..., 0] / at[rate.denominator][..., 0]  # 0 / 0 is NaN: undefined
    return metrics


def ranked_metric(name: str) -> tuple[str, bool]:
    """A metric by which policies can be ranked -> its full name, and whether lower is better.

    A precision, recall or F1 may be named in short: micro_f1_13 and f1_micro_13 are f1_micro_13_uncertain_positive.
    UserError for a name that is none, and for one without a better or worse.
    """
    known, short = metrics_from_sums(torch.zeros(WIDTH)), dict[str, str]()
    for quantity, average, labels in product(QUANTITIES, AVERAGES, LABEL_SETS):
        whole = f"{quantity}_{average}_{labels}_uncertain_positive"
        short |= {f"{average}_{quantity}_{labels}": whole, f"{quantity}_{average}_{labels}": whole}
    full = short.get(name, name)
    if full not in known:
        hint = nearest(name, [*short, *known]) or "docs/reference/metrics.md has the names"
        raise UserError(f"{name!r} is no metric of validation; {hint}")
    better = RATES[full].better if full in RATES else "higher"
    if not better:
        raise UserError(f"no value of {name} is better than another; name a score or an error rate")
    return full, better == "lower"


def conditions_from_sums(sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics (..., K) -> per-condition table, each column (..., 14) in the order of CONDITIONS.

    precision_, recall_, f1_, reference_ and generated_ (counts) of each reading: uncertain_positive,
    uncertain_negative, and negated (that the condition is said to be absent).
    """
    table: dict[str, Tensor] = {}
    for reading in (*READINGS, NEGATED):
        tp, fp, fn = (sums[..., COLUMNS[f"{count}_{reading}"]] for count in COUNTS)
        table |= {f"{quantity}_{reading}": value for quantity, value in _precision_recall_f1(tp, fp, fn).items()}
        table[f"reference_{reading}"], table[f"generated_{reading}"] = tp + fn, tp + fp
    return table


def clinical_metrics(generated: Tensor, reference: Tensor, **options) -> dict[str, float]:
    """Class ids (S, 14) x (S, 14) -> every metric by name; options are those of `clinical_statistics`."""
    sums = clinical_statistics(generated, reference, **options).sum(dim=0)
    return {name: value.item() for name, value in metrics_from_sums(sums).items()}


def preset_metrics(metrics: dict, preset: str) -> dict:
    """The numbers that one code prints, under its own names, out of `metrics` by our names."""
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
    return {theirs: metrics[ours] for theirs, ours in PRESETS[preset].items()}


def _rate_statistics(generated: Tensor, reference: Tensor) -> dict[str, Tensor]:
    a, b = generated[:, :13], reference[:, :13]  # (S, 13)
    finding_a, finding_b = (_among(labels, READINGS["uncertain_positive"]) for labels in (a, b))
    unsure_a, unsure_b = a == UNCERTAIN, b == UNCERTAIN
    both = (a != BLANK) & (b != BLANK)
    table = {
        "both_mention": both,
        "same_sign": both & (signed_vectors(generated) == signed_vectors(reference)),
        "reference_findings": finding_b,
        "finding_missed": finding_b & ~finding_a,
        "finding_silent": finding_b & (a == BLANK),
        "finding_denied": finding_b & (a == NEGATIVE),
        "generated_findings": finding_a,
        "finding_added": finding_a & ~finding_b,
        "finding_unfounded": finding_a & (b == BLANK),
        "finding_contradicted": finding_a & (b == NEGATIVE),
        "both_uncertain": unsure_a & unsure_b,
        "either_uncertain": unsure_a | unsure_b,
    }
    return {name: value.sum(dim=1) for name, value in table.items()}


def _among(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    return torch.isin(labels, torch.tensor(classes, device=labels.device))


def _precision_recall_f1(tp: Tensor, fp: Tensor, fn: Tensor) -> dict[str, Tensor]:
    """Counts -> the three quantities, 0 where the denominator is 0. F1 = 2 TP / (2 TP + FP + FN)."""
    return {
        "precision": tp / (tp + fp).clamp(min=1),
        "recall": tp / (tp + fn).clamp(min=1),
        "f1": 2 * tp / (2 * tp + fp + fn).clamp(min=1),
    }
