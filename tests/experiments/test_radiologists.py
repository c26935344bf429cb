"""The audit by radiologists' ratings: on invented reports, and its page against its record."""

import json
from dataclasses import replace

import pytest
import torch

from experiments.audits import iu_baselines, radiologists
from experiments.audits.members import ALONE, EXPECTED, MAIN, POSITIVE, TRIES, UNHEDGED, Member
from mrg_grpo.errors import UserError
from mrg_grpo.labelers import embedded_labeler
from mrg_grpo.rewards import field
from mrg_grpo.rewards.clinical import clinical
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, rarity_weights
from mrg_grpo.rewards.nlg import rouge_l

GOOD, BAD = "There is a large left pleural effusion. No pneumothorax.", "The lungs are clear. No pleural effusion."


def rated(path, count=6):
    studies = [
        {"id": f"s{n}", "reference": GOOD, "candidates": [
            {"report": GOOD, "ratings": [5, 4 + n % 2, 4]}, {"report": BAD, "ratings": [1, 2, 1]},
        ]} for n in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(study) + "\n" for study in studies))
    return path


def test_the_better_report_is_found_and_cases_are_counted(tmp_path):
    path = tmp_path / "cases.jsonl"
    cases = [
        {"category": "a", "reference": GOOD, "candidates": {"C1": GOOD, "C2": BAD}, "expected": "C1 > C2"},
        {"category": "a", "reference": GOOD, "candidates": {"C1": GOOD, "C2": BAD}, "expected": ["C2 > C1"]},
        {"category": "b", "reference": GOOD, "candidates": {"C1": GOOD, "C2": GOOD}, "expected": "C1 = C2"},
    ]
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    own = radiologists.read_rated(rated(tmp_path / "rated.jsonl"))
    record = radiologists.measure(own, radiologists.read_ranked(path), embedded_labeler(), [])
    ccs = record["rewards"]["ccs"]
    assert ccs["pairs"]["value"] == 1.0 and 0.8 < ccs["tau_b"]["value"] < 1 and ccs["ties"] == 0.0
    assert record["rewards"]["ccs"]["minus"]["ccs"]["pairs"] == [0.0, 0.0, 0.0]
    assert record["rankings"]["ccs"] == {"a": [1, 2], "b": [1, 1]}
    assert set(record["tries"]) == set(TRIES) and record["tries"][ALONE[0].name][2:] == [1.0, 0.0]
    assert record["reports"] == 12 and record["studies"] == 6 and 0 < record["ceiling"]["tau_b"] < 1


def test_what_is_no_ratings_file_is_one_line(tmp_path):
    path = tmp_path / "rated.jsonl"
    path.write_text('{"id": "s"}\n')
    with pytest.raises(UserError, match="a study a line, with id, reference and candidates with ratings"):
        radiologists.read_rated(path)


@pytest.mark.parametrize(("rule", "kept"), [("A > B", True), ("B > A", False), ("A = B", False), ("B = C", True)])
def test_an_order_holds_beyond_a_hundredth(rule, kept):
    assert radiologists.holds(rule, {"A": 0.5, "B": 0.2, "C": 0.205}) == kept


def test_the_page_is_its_record(at_the_project_root):
    record = json.loads(radiologists.RESULTS.read_text(encoding="utf-8"))
    assert radiologists.markdown(record) in radiologists.PAGE.read_text(encoding="utf-8")
    rewards = record["rewards"]
    assert rewards["mccs 0.6"]["ties"] > 0.3 and rewards["ce_f1"]["tau_b"]["value"] > rewards["ccs"]["tau_b"]["value"]
    # what the page says in short
    tau, pairs = ({name: own[figure]["value"] for name, own in rewards.items()} for figure in ("tau_b", "pairs"))
    mixes = [name for name in MAIN if " + " in name]
    assert {*MAIN, "rarity ccs", "rarity mccs 0.2"} == set(rewards) and min(tau[name] for name in mixes) > tau["ce_f1"]
    assert all(pairs[name] > pairs["ce_f1"] for name in mixes) and tau[EXPECTED.name] < tau["ce_f1"]
    assert all(tau[one.name] < tau[replace(one, normal="unhedged").name] for one in (POSITIVE, ALONE[0]))
    assert set(record["tries"]) == set(TRIES) and set(record["absent"]) == set(field.FIELD)


def test_a_member_is_called_by_what_it_is_and_scores_so():
    labels = embedded_labeler().label([BAD, GOOD]), embedded_labeler().label([GOOD, GOOD])
    texts = [BAD, GOOD], [GOOD, GOOD]
    assert torch.equal(UNHEDGED.scores(*labels, *texts), clinical(*labels).double())
    mixed = Member(0.1, normal="unhedged", words="rouge_l", weight=1.5)
    assert mixed.name == "clinical d=0.1 + 1.5 rouge_l"
    expected = clinical(*labels).double() + 1.5 * rouge_l(*texts).double()
    assert torch.allclose(mixed.scores(*labels, *texts), expected)
    assert Member(0.0, 0.5, 0.7, "strict").name == "clinical d=0 c=0.5 u=0.7 strict"
    assert torch.equal(Member(label="none", words="rouge_l").scores(*labels, *texts), rouge_l(*texts).double())
    assert (
        Member(label="ce_f1", words="bleu").name == "ce_f1 + bleu" and Member(label="none", words="bleu").name == "bleu"
    )


def test_a_metric_that_cannot_run_is_named_with_its_line(tmp_path, monkeypatch, capsys):
    own = radiologists.read_rated(rated(tmp_path / "rated.jsonl", 1))

    def require(name):
        if name == "green":
            raise UserError('reward.weights: "green" needs radeval, not installed')

    monkeypatch.setattr(field, "require", require)
    monkeypatch.setattr(field, "scorer", lambda name, device: lambda reports, references: [0.25, None])
    found, absent = radiologists.measured(own, embedded_labeler(), ["radgraph", "green"])
    assert found["radgraph"].tolist() == [0.25, 0.0] and list(absent) == ["green"]
    assert "green is not measured" in capsys.readouterr().out and "needs radeval" in absent["green"]


def test_rarity_weights_are_those_of_the_training_references(tmp_path, shared):
    own, labeler = radiologists.read_rated(rated(tmp_path / "rated.jsonl", 1)), embedded_labeler()
    assert radiologists.by_rarity(own, labeler, None) == {}
    found = radiologists.by_rarity(own, labeler, shared / "data/iu_xray")
    weights = rarity_weights(iu_baselines.load(shared / "data/iu_xray")["train"][1])
    labels = labeler.label(own.reports), labeler.label(own.references)
    assert torch.allclose(found["rarity ccs"], clinical_cosine(*labels, weights).double())
    assert torch.allclose(found["rarity mccs 0.2"], mccs(*labels, 0.2, weights).double())
    assert not torch.allclose(found["rarity ccs"], clinical_cosine(*labels).double())
