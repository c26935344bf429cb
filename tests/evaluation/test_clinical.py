"""Clinical metrics against scikit-learn and against slow loops written from the definitions."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, classification_report, f1_score, precision_recall_fscore_support

from mrg_grpo.evaluation.clinical import (
    COLUMNS,
    LABEL_SETS,
    PRESETS,
    RATES,
    clinical_metrics,
    clinical_statistics,
    conditions_from_sums,
    metrics_from_sums,
    preset_metrics,
)
from mrg_grpo.labels import CONDITIONS, FIVE
from mrg_grpo.rewards.mccs import clinical_cosine, mccs

SIGN = {0: 0, 1: 1, 2: -1, 3: 1}
PAIRS = (("micro", "micro"), ("macro", "macro"), ("weighted", "weighted"), ("example", "samples"))
"""Our averages and scikit-learn's."""


def draw(studies=300, seed=0):
    """Random labels with empty reports, a condition that never occurs, and No Finding with its two classes."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.tensor([6.0, 2.0, 3.0, 1.0])
    a, b = (torch.multinomial(weights, studies * 14, True, generator=generator).view(studies, 14) for _ in range(2))
    b = torch.where(torch.rand(b.shape, generator=generator) < 0.5, a, b)  # related, as reports are
    a[:, 13], b[:, 13] = a[:, 13] % 2, b[:, 13] % 2
    a[:20] = 0
    b[10:30] = 0
    a[:, 3][a[:, 3] % 2 == 1] = 2
    b[:, 3][b[:, 3] % 2 == 1] = 2  # Lung Lesion: never positive, 0 / 0 in every average
    return a, b


def positive(labels, reading):
    array = labels.numpy()
    return ((array == 1) | (array == 3) if reading == "uncertain_positive" else array == 1).astype(int)


@pytest.mark.parametrize("reading", ["uncertain_positive", "uncertain_negative"])
@pytest.mark.parametrize("labels", ["14", "13", "5"])
def test_the_grid_against_scikit_learn(labels, reading):
    a, b = draw()
    got = clinical_metrics(a, b)
    columns = {"14": list(range(14)), "13": list(range(13)), "5": [CONDITIONS.index(name) for name in FIVE]}[labels]
    ours, theirs = positive(a, reading)[:, columns], positive(b, reading)[:, columns]
    for average, sklearn_name in PAIRS:
        expected = precision_recall_fscore_support(theirs, ours, average=sklearn_name, zero_division=0)[:3]
        for quantity, value in zip(("precision", "recall", "f1"), expected):
            assert got[f"{quantity}_{average}_{labels}_{reading}"] == pytest.approx(value, abs=1e-12)
    assert got[f"exact_match_{labels}_{reading}"] == pytest.approx(accuracy_score(theirs, ours), abs=1e-12)
    assert got[f"accuracy_{labels}_{reading}"] == pytest.approx((theirs == ours).mean(), abs=1e-12)


def test_the_readings_differ_and_the_sets_differ():
    metrics = clinical_metrics(*draw())
    f1 = {name: value for name, value in metrics.items() if name.startswith("f1_")}
    assert len(f1) == 24 and len({round(value, 12) for value in f1.values()}) == 24


def test_per_condition_against_scikit_learn():
    a, b = draw(seed=3)
    table = conditions_from_sums(clinical_statistics(a, b).sum(dim=0))
    for reading in ("uncertain_positive", "uncertain_negative", "negated"):
        ours, theirs = (
            ((x.numpy() == 2).astype(int) if reading == "negated" else positive(x, reading)) for x in (a, b)
        )
        expected = precision_recall_fscore_support(theirs, ours, average=None, zero_division=0)
        for quantity, value in zip(("precision", "recall", "f1", "reference"), expected):
            assert np.allclose(table[f"{quantity}_{reading}"], value, atol=1e-12)
        assert np.allclose(table[f"generated_{reading}"], ours.sum(0))


def slow_rates(a, b):
    """The rates by their definitions, one condition of one study at a time."""
    n = dict.fromkeys(("both", "same", "ref", "missed", "silent", "denied", "gen", "added", "unfounded", "contra"), 0)
    unsure_both = unsure_either = 0
    for x, y in zip(a.tolist(), b.tolist()):
        for g, r in zip(x[:13], y[:13]):
            if g and r:
                n["both"] += 1
                n["same"] += SIGN[g] == SIGN[r]
            if r in (1, 3):
                n["ref"] += 1
                n["missed"] += g not in (1, 3)
                n["silent"] += g == 0
                n["denied"] += g == 2
            if g in (1, 3):
                n["gen"] += 1
                n["added"] += r not in (1, 3)
                n["unfounded"] += r == 0
                n["contra"] += r == 2
            unsure_both += g == 3 and r == 3
            unsure_either += g == 3 or r == 3
    return {
        "polarity_accuracy": n["same"] / n["both"],
        "omission_rate": n["missed"] / n["ref"],
        "omission_silent_rate": n["silent"] / n["ref"],
        "omission_denied_rate": n["denied"] / n["ref"],
        "hallucination_rate": n["added"] / n["gen"],
        "hallucination_silent_rate": n["unfounded"] / n["gen"],
        "hallucination_denied_rate": n["contra"] / n["gen"],
        "uncertainty_agreement": unsure_both / unsure_either,
    }


def test_rates_against_the_slow_loop():
    a, b = draw(seed=1)
    think = draw(seed=2)[0]
    has_think = torch.arange(300) % 3 > 0
    compliant = torch.arange(300) % 4 == 0
    lengths = torch.arange(300).float()
    got = clinical_metrics(a, b, margin=0.3, think=think, has_think=has_think, compliant=compliant, words=lengths)
    for name, value in slow_rates(a, b).items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
    assert got["clinical_cosine"] == pytest.approx(clinical_cosine(a, b).double().mean().item(), abs=1e-6)
    assert got["mccs"] == pytest.approx(mccs(a, b, 0.3).double().mean().item(), abs=1e-6)
    agreement = clinical_cosine(think[has_think], a[has_think]).double().mean().item()
    assert got["think_report_agreement"] == pytest.approx(agreement, abs=1e-6)
    assert got["format_compliance"] == 0.25 and got["report_length"] == 149.5
    assert got["omission_rate"] == pytest.approx(1 - got["recall_micro_13_uncertain_positive"])
    assert got["hallucination_rate"] == pytest.approx(1 - got["precision_micro_13_uncertain_positive"])


def test_undefined_is_nan_and_perfect_is_one():
    blank = torch.zeros(4, 14, dtype=torch.long)
    empty = clinical_metrics(blank, blank)
    for name in ("polarity_accuracy", "omission_rate", "hallucination_rate", "uncertainty_agreement"):
        assert math.isnan(empty[name])
    assert math.isnan(empty["format_compliance"]) and math.isnan(empty["think_report_agreement"])
    assert empty["clinical_cosine"] == 1.0 and empty["f1_example_14_uncertain_positive"] == 0.0
    labels = draw(seed=4)[1][30:]
    perfect = clinical_metrics(labels, labels)
    assert (
        perfect["f1_micro_14_uncertain_negative"]
        == perfect["polarity_accuracy"]
        == perfect["exact_match_14_uncertain_positive"]
        == 1
    )
    assert perfect["omission_rate"] == perfect["hallucination_rate"] == 0


def test_statistics_are_additive_and_batched():
    a, b = draw(seed=5)
    statistics = clinical_statistics(a, b, compliant=torch.ones(300))
    halves = torch.stack([statistics[:150].sum(0), statistics[150:].sum(0)])
    together = metrics_from_sums(halves)
    for row, rows in enumerate((slice(0, 150), slice(150, 300))):
        alone = clinical_metrics(a[rows], b[rows], compliant=torch.ones(150))
        for name, value in alone.items():
            assert together[name][row].item() == pytest.approx(value, abs=1e-12, nan_ok=True), name
    assert set(RATES) <= set(together) and statistics.shape[1] == max(column.stop for column in COLUMNS.values())


def test_label_sets_are_the_ones_of_the_field():
    assert [CONDITIONS[i] for i in LABEL_SETS["5"]] == [
        "Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion",
    ]  # fmt: skip
    assert CONDITIONS[13] == "No Finding" and 13 not in LABEL_SETS["13"]


def test_preset_r2gencmn():
    """compute_ce.py: sklearn macro and micro over 14 columns of a CheXbert CSV with -1 and blanks set to 0."""
    a, b = draw(seed=6)
    got = preset_metrics(clinical_metrics(a, b), "r2gencmn")
    csv_value = np.array([np.nan, 1.0, 0.0, -1.0])  # as CheXbert writes its classes
    ours, theirs = (np.nan_to_num(csv_value[x.numpy()], nan=0.0) for x in (a, b))
    ours[ours == -1], theirs[theirs == -1] = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert got["F1_MACRO"] == pytest.approx(f1_score(theirs, ours, average="macro"), abs=1e-12)
        assert got["F1_MICRO"] == pytest.approx(f1_score(theirs, ours, average="micro"), abs=1e-12)
    assert set(got) == {f"{q}_{m}" for q in ("F1", "RECALL", "PRECISION") for m in ("MACRO", "MICRO")}


def test_preset_f1chexbert():
    """f1chexbert: uncertain becomes 1; scikit-learn's classification_report on 14 and on 5, exact match on 5."""
    a, b = draw(seed=7)
    got = preset_metrics(clinical_metrics(a, b), "f1chexbert")
    for labels in ("14", "5"):
        columns = list(LABEL_SETS[labels])
        ours, theirs = (positive(x, "uncertain_positive")[:, columns] for x in (a, b))
        report = classification_report(theirs, ours, output_dict=True, zero_division=0)
        for average in ("micro", "macro", "weighted", "samples"):
            for key, quantity in (("precision", "precision"), ("recall", "recall"), ("f1-score", "f1")):
                expected = report[f"{average} avg"][key]
                assert got[f"{average} avg {labels} {quantity}"] == pytest.approx(expected, abs=1e-12)
    assert got["accuracy"] == pytest.approx(accuracy_score(theirs, ours), abs=1e-12)


def test_preset_f1chexbert_is_what_that_code_printed():
    """The classification report of RadEval's own test of F1CheXbert, for five reports whose labels it implies."""
    names = {name: place for place, name in enumerate(CONDITIONS)}
    said = [["No Finding"], ["No Finding"], ["Edema", "Atelectasis"], ["Consolidation"], []]
    truth = [["No Finding"], ["Cardiomegaly"], ["Cardiomegaly"], ["Consolidation"], ["Lung Opacity", "Lung Lesion"]]
    a, b = (torch.zeros(5, 14, dtype=torch.long) for _ in range(2))
    for rows, labels in ((said, a), (truth, b)):
        for row, own in zip(rows, labels):
            own[[names[name] for name in row]] = 1
    got = preset_metrics(clinical_metrics(a, b), "f1chexbert")
    printed = {
        "micro avg 14": (0.4, 1 / 3, 4 / 11), "macro avg 14": (1.5 / 14, 2 / 14, 0.11904761904761904),
        "weighted avg 14": (0.25, 1 / 3, 0.27777777777777773), "samples avg 14": (0.4, 0.4, 0.4),
        "micro avg 5": (1 / 3, 1 / 3, 1 / 3), "macro avg 5": (0.2, 0.2, 0.2),
        "weighted avg 5": (1 / 3, 1 / 3, 1 / 3), "samples avg 5": (0.2, 0.2, 0.2),
    }  # fmt: skip
    for name, numbers in printed.items():
        found = [got[f"{name} {quantity}"] for quantity in ("precision", "recall", "f1")]
        assert found == pytest.approx(numbers, abs=1e-12), name
    assert got["accuracy"] == 0.6 and len(got) == 1 + 3 * len(printed)


@pytest.mark.parametrize("side", ["generated", "reference", "both"])
def test_weighted_of_labels_that_nobody_has(side):
    """scikit-learn's weights are then all 0 and its answer 0; resamples of a bootstrap meet this too."""
    a, b = draw(seed=9)
    for name, labels in (("generated", a), ("reference", b)):
        if side in (name, "both"):
            labels[:] = 0
    got = clinical_metrics(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = precision_recall_fscore_support(
            positive(b, "uncertain_positive"), positive(a, "uncertain_positive"), average="weighted", zero_division=0
        )
    for quantity, value in zip(("precision", "recall", "f1"), expected):
        assert got[f"{quantity}_weighted_14_uncertain_positive"] == value == 0


def test_presets_promptmrg_and_cxrmate():
    """Example by example: tp / (tp + fp), and 0 where nothing was predicted, averaged over the examples."""
    a, b = draw(seed=8)
    prompt_mrg = preset_metrics(clinical_metrics(a, b), "promptmrg")
    cxrmate = preset_metrics(clinical_metrics(a, b), "cxrmate")
    precision, recall, f1, accuracy = [], [], [], []
    for x, y in zip(a.tolist(), b.tolist()):
        tp = sum(g == 1 and r == 1 for g, r in zip(x, y))
        fp = sum(g == 1 and r != 1 for g, r in zip(x, y))
        fn = sum(g != 1 and r == 1 for g, r in zip(x, y))
        precision.append(tp / (tp + fp) if tp + fp else 0.0)
        recall.append(tp / (tp + fn) if tp + fn else 0.0)
        f1.append(tp / (tp + 0.5 * (fp + fn)) if tp + fp + fn else 0.0)
        accuracy.append((14 - fp - fn) / 14)
    for quantity, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert prompt_mrg[f"ce_{quantity}"] == pytest.approx(np.mean(values), abs=1e-12)
        assert cxrmate[f"{quantity}_example"] == pytest.approx(np.mean(values), abs=1e-12)
    assert cxrmate["accuracy_example"] == pytest.approx(np.mean(accuracy), abs=1e-12)
    macro = precision_recall_fscore_support(
        positive(b, "uncertain_negative"), positive(a, "uncertain_negative"), average="macro", zero_division=0
    )
    assert cxrmate["f1_macro"] == pytest.approx(macro[2], abs=1e-12)
    assert set(PRESETS) == {"r2gencmn", "f1chexbert", "promptmrg", "cxrmate"}


def test_wrong_input_is_refused():
    a, b = draw(20)
    with pytest.raises(ValueError, match="must both be"):
        clinical_metrics(a, b[:10])
    with pytest.raises(ValueError, match="not one of"):
        preset_metrics({}, "r2gen")
