"""The baselines against loops over all training reports."""

import pytest
import torch

from mrg_grpo.evaluation.baselines import baselines_from_labels, nearest
from mrg_grpo.evaluation.table import Number, format_table
from mrg_grpo.rewards.mccs import clinical_cosine


def draw(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([8.0, 1, 2, 1]), rows * 14, True, generator=generator).view(rows, 14)
    labels[:, 13] %= 2
    labels[:3] = 0
    return labels


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_nearest_against_the_loop(leave_one_out, monkeypatch):
    monkeypatch.setattr("mrg_grpo.evaluation.baselines.CHUNK_CELLS", 500)  # several chunks
    train = draw(60, seed=0)
    train[40:] = train[:20]  # copies, so that ties occur
    reference = train if leave_one_out else draw(30, seed=1)
    got = nearest(train, reference, leave_one_out)
    for study, row in enumerate(got.tolist()):
        best = max(
            (t for t in range(60) if not (leave_one_out and t == study)),
            key=lambda t: (
                round(clinical_cosine(train[t], reference[study]).item(), 5),
                int((train[t] == reference[study]).sum()),
                -t,
            ),
        )
        assert row == best


def test_silence_is_nearest_to_silence():
    silent = torch.zeros(1, 14, dtype=torch.long)
    silent[0, 13] = 1
    one_finding, blank = silent.clone(), torch.zeros(1, 14, dtype=torch.long)
    one_finding[0, 0] = 1  # as many equal classes as `blank`, and first in order
    assert nearest(torch.cat([one_finding, blank]), silent).tolist() == [1]


def test_constant_and_random_baselines():
    normal, abnormal = [0] * 13 + [1], [1] + [0] * 13
    unsure = [3] + [0] * 12 + [1]
    reports = ["edema seen", "all clear", "edema seen", "all  clear", "edema\nseen", "may be edema", "normal heart"]
    labels = torch.tensor([abnormal, normal, abnormal, normal, abnormal, unsure, normal])
    got = baselines_from_labels(reports, labels, labels[:4], seed=3)
    assert got["most_frequent"].reports == ["edema seen"] * 4
    assert got["all_normal"].reports == ["all clear"] * 4 and got["all_normal"].labels.tolist() == [normal] * 4
    assert torch.equal(got["nearest"].labels, labels[:4])
    again, other = (baselines_from_labels(reports, labels, labels, seed=seed)["random"] for seed in (3, 4))
    assert got["random"].reports == again.reports[:4] and again.reports != other.reports
    no_normal = baselines_from_labels(reports[:1], labels[:1], labels[:1])
    assert "all_normal" not in no_normal and "most_frequent" in no_normal


def test_leaving_one_out_never_gives_a_study_its_own_report():
    labels = draw(50, seed=5)
    reports = [f"report {n}" for n in range(50)]
    got = baselines_from_labels(reports, labels, labels, leave_one_out=True)
    for name in ("random", "nearest"):
        assert all(given != own for given, own in zip(got[name].reports, reports))
    with pytest.raises(ValueError):
        baselines_from_labels(reports[:1], labels[:1], labels[:1], leave_one_out=True)


def test_table():
    text = format_table(("name", "value"), [("a", Number(0.5)), ("longer", Number(0.25, 0.2, 0.3))], "title")
    assert text.splitlines() == [
        "title",
        "name                   value",
        "----------------------------",
        "a                      0.500",
        "longer  0.250 [0.200, 0.300]",
    ]
    assert str(Number(float("nan"))) == "-" and Number(float("nan"), 0.0, 1.0).to_json()["value"] is None
