"""What choosing studies gains: the guide against its record, and the paired difference by hand."""

import json

import pytest
import torch

from experiments.checks import choosing_studies
from mrg_grpo.evaluation.clinical import clinical_statistics, metrics_from_sums


@pytest.fixture
def record(at_the_project_root):
    return json.loads(choosing_studies.RESULTS.read_text(encoding="utf-8"))


def test_the_guide_says_what_the_record_holds(record):
    page = choosing_studies.PAGE.read_text(encoding="utf-8")
    assert choosing_studies.markdown(record) in page
    name = "f1_micro_13_uncertain_positive"
    for arm in ("keep", "resample"):
        _, low, high = record["phantom"]["minus all"][arm][name]
        assert low < 0 < high  # "On `phantom` neither changes anything"
        value, low, _ = record["phantom_rare"]["minus all"][arm][name]
        assert low > 0 and 0.015 < value < 0.025  # "both gain about 0.02"
    reports = [run["reports"] for run in record["phantom_rare"]["seeds"]["resample"]]
    assert 1.015 < sum(reports) / 3 / 9600 < 1.025  # "with 2% more reports"
    assert all(run["reports"] == 9600 for arm in ("all", "keep") for run in record["phantom"]["seeds"][arm])


def test_a_difference_is_of_the_mean_over_seeds_on_the_same_studies(monkeypatch):
    monkeypatch.setattr(choosing_studies, "DRAWS", 200)
    generator = torch.Generator().manual_seed(0)
    reference, *others = (torch.randint(0, 4, (60, 14), generator=generator) for _ in range(4))
    better = [torch.where(torch.rand(60, 14, generator=generator) < 0.7, reference, other) for other in others[:2]]
    sides = [[clinical_statistics(labels, reference) for labels in side] for side in (better, others[1:])]
    found = choosing_studies.difference(*sides)
    means = [
        {name: sum(float(metrics_from_sums(one.sum(0))[name]) for one in side) / 2 for name in choosing_studies.METRICS}
        for side in sides
    ]
    for name, (value, low, high) in found.items():
        assert value == pytest.approx(means[0][name] - means[1][name], abs=1e-4) and 0 < low < value < high
    same = choosing_studies.difference(sides[0], sides[0])
    assert all(numbers == [0.0, 0.0, 0.0] for numbers in same.values())
