"""The page of the reward audit: the figures known of real labels, and that it shows what is stored."""

import json
from pathlib import Path

import pytest
from svg_text import texts

from experiments.audits import audit_page
from experiments.audits.reward_audit import iu_corpus, known_figures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "experiments" / "results" / "reward_audit.json").read_text(encoding="utf-8"))


def test_known_figures_of_real_labels(shared, stored):
    known = known_figures(iu_corpus(shared / "data" / "iu_xray"))
    # the published ones, to their three digits
    assert known["five_negatives"] == pytest.approx([0.630, 0.334], abs=5e-4)
    assert known["omit_findings_abnormal"] == pytest.approx([0.764, 0.339], abs=5e-4)
    assert known["findings_only_abnormal"] == pytest.approx([0.597, 0.906], abs=5e-4)
    # published from one random draw: within three of its standard deviations of the exact mean over all pairs
    for exact, spread, drawn in zip(known["another"], known["another_one_draw_sd"], (0.423, 0.125)):
        assert abs(exact - drawn) < 3 * spread < 0.03
    assert known == stored["known"]


def test_the_page_shows_what_is_stored(stored):
    page = (ROOT / "docs" / "results" / "reward-audit.md").read_text(encoding="utf-8")
    assert audit_page.markdown(stored) in page
    for key in ("iu", "phantom"):
        picture = audit_page.PAGE.parent / "images" / f"reward_audit_{key}.svg"
        assert texts(picture.read_text(encoding="utf-8")) == texts(audit_page.chart(stored["sources"][f"{key}_labels"]))


def test_the_cheapest_hack_needs_no_picture(stored):
    for source in stored["sources"].values():
        for reward, (name, triple) in audit_page.cheapest(source).items():
            blind = [source["all"][attack] for attack in audit_page.attacks.BLIND if attack in source["all"]]
            assert all(triple[0] >= row[reward][0] for row in blind)
            assert name in audit_page.attacks.BLIND or name == audit_page.HONEST
