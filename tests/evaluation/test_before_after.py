"""The table before and after: what is a score of nothing is shown as none."""

import math

import pytest
import torch

from mrg_grpo.data.study import Study
from mrg_grpo.evaluation import before_after
from mrg_grpo.evaluation.clinical import clinical_statistics
from mrg_grpo.evaluation.decode import Decoded, Judged
from mrg_grpo.labels import CONDITIONS

EDEMA, FRACTURE = CONDITIONS.index("Edema"), CONDITIONS.index("Fracture")


def judged(finding: int | None, reference: int | None) -> Judged:
    """Three studies: what each generated report finds, and what each reference does."""
    labels, references = torch.zeros(3, 14, dtype=torch.long), torch.zeros(3, 14, dtype=torch.long)
    for rows, condition in ((labels, finding), (references, reference)):
        if condition is not None:
            rows[:, condition] = 1
    studies = [Study(str(i), (f"{i}.png",), "", "test") for i in range(3)]
    compliant = torch.zeros(3, dtype=torch.bool)
    statistics = clinical_statistics(labels, references, compliant=compliant)
    return Judged(Decoded(studies, [""] * 3, []), labels, references, compliant, statistics)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (EDEMA, {"precision": (None, 1.0, None), "recall": (0.0, 1.0, 1.0), "f1": (0.0, 1.0, 1.0)}),
        (None, {"precision": (None, 0.0, None), "recall": (None,) * 3, "f1": (None,) * 3}),
    ],
)
def test_scores_of_nothing_are_none(reference, expected, monkeypatch):
    result = before_after.before_after(judged(None, reference), judged(EDEMA, reference), "test")
    (side,) = result.sides
    for quantity, numbers in expected.items():
        row = side.rows[f"{quantity}_micro_13_uncertain_positive"]
        assert [None if math.isnan(number.value) else number.value for number in row] == list(numbers), quantity
    stated = {"before": 0.0, "after": 1.0} if reference else {"before": None, "after": None}
    assert result.conditions["Edema"] == stated
    assert result.conditions["Fracture"] == {"before": None, "after": None}
    assert result.to_json()["sides"]["test split"]["metrics"]["precision_micro_13_uncertain_positive"]["before"] == {
        "value": None, "low": None, "high": None,
    }  # fmt: skip
