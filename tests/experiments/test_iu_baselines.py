"""The IU X-Ray table of docs/results/baselines.md: the known height of "no finding", from the real reports."""

import json
from pathlib import Path

import pytest

from experiments.audits import iu_baselines

ROOT = Path(__file__).resolve().parents[2]


def test_constant_no_finding_on_real_reports(shared):
    splits = iu_baselines.load(shared / "data" / "iu_xray")
    assert {split: len(texts) for split, (texts, _) in splits.items()} == {"train": 2069, "val": 296}
    for _, labels in splits.values():
        constant = iu_baselines.constant(labels)
        assert constant["uncertain_positive"] == pytest.approx(0.365, abs=0.006)
        assert constant["uncertain_negative"] == pytest.approx(0.390, abs=0.007)
    stored = json.loads((ROOT / "experiments" / "results" / "iu_baselines.json").read_text(encoding="utf-8"))
    stored_constant = stored["labels"]["chexbert"]["constant_no_finding"]
    assert stored_constant["val"] == pytest.approx(iu_baselines.constant(splits["val"][1]))


def test_the_page_shows_what_is_stored():
    stored = json.loads((ROOT / "experiments" / "results" / "iu_baselines.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "results" / "baselines.md").read_text(encoding="utf-8")
    assert iu_baselines.markdown(stored) in page and stored["command"] in page
