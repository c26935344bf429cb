"""The audit by radiologists' ratings: on invented reports, and its page against its record."""

import json

import pytest

from experiments.audits import radiologists
from mrg_grpo.errors import UserError
from mrg_grpo.labelers import embedded_labeler

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
    best = max(rewards, key=lambda name: rewards[name]["pairs"]["value"])
    assert "contradiction" in best or "the same" in best  # what the page says in short
    assert rewards["clinical (expected to win)"]["tau_b"]["value"] < rewards["ce_f1"]["tau_b"]["value"]
