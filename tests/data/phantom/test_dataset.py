"""The phantom: deterministic cases, the stated rates, pixels that show the finding on its side."""

import hashlib
import json
import random
import re
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from mrg_grpo.data.phantom import case as phantom_case
from mrg_grpo.data.phantom import dataset as phantom
from mrg_grpo.data.phantom.draw import Chest, paint, render
from mrg_grpo.data.phantom.heldout import HELDOUT, JOINT_HELDOUT
from mrg_grpo.data.phantom.phrases import JOINT, PHRASES
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.data.phantom.text import phrases, write_report
from mrg_grpo.errors import UserError
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN

PINNED = [("train", 0), ("train", 1), ("train", 12), ("test", 3), ("test", 77), ("warmstart", 5)] + [
    ("train", i) for i in (2, 3, 4, 6, 7, 8, 9, 10, 11)
]
TEXT_SHA = "6710fa738b8a66e7c49b0c7942affe5e62ee1511ea3ed9edac1ec57aaed732a6"
PIXEL_SHA = "1c238b5b561c31516a4c01686216e54024d9a553d0770df4ff5a4eb2fa545605"


def digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def test_words_and_pixels_are_those_the_embedded_weights_were_trained_on():
    cases = [phantom_case.sample_case(split, index) for split, index in PINNED]
    assert digest([f"{phantom_case.case_labels(case)} {write_report(case)}" for case in cases]) == TEXT_SHA
    # means of 14 x 14 pixels, rounded: other versions of numpy may differ in the last bit of a pixel
    means = [render(case).reshape(16, 14, 16, 14).mean((1, 3)).round().astype(int).tolist() for case in cases]
    assert digest([str(mean) for mean in means]) == PIXEL_SHA


def test_a_case_depends_on_its_address_alone():
    first = phantom_case.sample_case("val", 9)
    pixels = render(first)
    random.seed(1), np.random.seed(1)
    phantom_case.sample_case("train", 3)
    assert phantom_case.sample_case("val", 9) == first
    assert np.array_equal(render(phantom_case.sample_case("val", 9)), pixels)
    assert phantom_case.sample_case("val", 9, seed=8).findings != first.findings or not first.findings
    streams = {s: [phantom_case.sample_case(s, i).mentions for i in range(50)] for s in ("train", "test", "warmstart")}
    assert streams["train"] != streams["test"] != streams["warmstart"]


def test_rates_are_those_promised():
    cases = [phantom_case.sample_case("rates", i) for i in range(6000)]
    labels = np.array([phantom_case.case_labels(case) for case in cases])
    sick = np.isin(labels[:, :13], (POSITIVE, UNCERTAIN)).mean(0)
    assert sick.min() > 0.05 and sick.max() < 0.30
    assert 0.25 < np.mean([not case.findings for case in cases]) < 0.32
    assert 0.47 < np.mean([case.site == "A" for case in cases]) < 0.53
    for site, sign in (("A", 1), ("B", -1)):  # B denies less
        denied = (labels[[case.site == site for case in cases]] == NEGATIVE).mean()
        assert sign * (denied - (labels == NEGATIVE).mean()) > 0.005
    graded = [f.severity for case in cases for f in case.findings if f.condition != "Support Devices"]
    assert 0.13 < np.mean(np.array(graded) < 0.3) < 0.20


def test_rare_findings_are_as_rare_as_in_real_reports(shared):
    counted = [json.loads(line) for line in (shared / "data/iu_xray/labels.jsonl").read_text().splitlines()]
    real = [row["chexbert"] for row in counted if row["split"] in ("train", "val")]
    labels = np.array([phantom_case.case_labels(phantom_case.sample_case("rare-rates", i)) for i in range(6000)])
    sick = np.isin(labels, (POSITIVE, UNCERTAIN)).mean(0)
    for i, name in enumerate(CONDITIONS[:13]):
        share = np.mean([row[name] in (1, -1) for row in real])
        error = 4 * np.sqrt(share * (1 - share) * (1 / 6000 + 1 / len(real)))  # both are counts
        assert abs(sick[i] - share) < error, name
    denied = np.mean([row[name] == 0 for row in real for name in CONDITIONS[:13]])
    assert abs((labels[:, :13] == NEGATIVE).mean() - denied) < 0.02


def test_incidental_sentences_carry_no_label_and_come_in_rare_splits_alone():
    data = phantom.load(sizes={"train": 600}, form="phantom_rare")["train"]
    assert data[7].id == "rare-train-00007" and data[7].images == ("phantom:7/rare-train/7",)
    assert data[7].split == "train" and data[7].labels == phantom_case.case_labels(
        phantom_case.sample_case("rare-train", 7)
    )
    told = [study.report for study in data]
    assert torch.equal(read_labels(told), torch.tensor([study.labels for study in data]))
    assert sum("spine" in report for report in told) > 60
    plain = [study.report for study in phantom.load(sizes={"train": 600})["train"]]
    assert not any("spine" in report or "aorta" in report for report in plain)
    assert 29 < np.mean([len(report.split()) for report in told]) < 34


def test_the_room_has_half_of_the_findings_and_speaks_of_what_has_no_label():
    room, plain = (phantom.load(sizes={"test": 3000}, form=form)["test"] for form in ("phantom_room", "phantom"))
    assert room[4].images == ("phantom:7/room-test/4",)

    def stated(studies):
        return np.isin([study.labels[:13] for study in studies], (POSITIVE, UNCERTAIN)).mean(0)

    assert np.all(np.abs(stated(room) / stated(plain) - 0.5) < 0.13)
    assert sum("spine" in study.report for study in room) > 300
    assert torch.equal(read_labels([s.report for s in room]), torch.tensor([s.labels for s in room]))


def test_hasty_reports_leave_out_deny_and_invent_at_the_stated_rates():
    cases = [phantom_case.sample_case(phantom_case.HASTY, i) for i in range(6000)]
    true, told = (np.array([one.mentions for one in rows]) for rows in (cases, [phantom_case.hasty(c) for c in cases]))
    for i, (name, (left_out, denied, invented)) in enumerate(phantom_case.HASTE.items()):
        assert name == CONDITIONS[i]
        there = np.isin(true[:, i], (POSITIVE, UNCERTAIN))
        gone = there & ~np.isin(told[:, i], (POSITIVE, UNCERTAIN))
        made_up = ~there & (told[:, i] == POSITIVE)
        for found, of, rate in (
            (gone, there, left_out),
            (told[:, i] == NEGATIVE, gone, denied),
            (made_up, ~there, invented),
        ):
            share = (found & of).sum() / of.sum()
            assert abs(share - rate) < 4 * np.sqrt(max(rate * (1 - rate), 1e-9) / of.sum()) + 1e-9, name
        kept = ~gone & ~made_up
        assert (true[kept, i] == told[kept, i]).all()


def test_haste_is_of_the_training_reports_alone_and_no_picture_shows_it():
    data = phantom.load(sizes={"train": 300, "val": 20}, form="phantom_hasty")
    assert data["val"] == phantom.load(sizes={"val": 20}, form="phantom_room")["val"]
    assert data["train"][5].images == ("phantom:7/room-hasty/5",)
    case = phantom_case.sample_case("room-hasty", 5)
    assert np.array_equal(np.asarray(phantom.image_of("phantom:7/room-hasty/5")), render(case))
    told = [study.report for study in data["train"]]
    assert torch.equal(read_labels(told), torch.tensor([study.labels for study in data["train"]]))


def test_no_phrase_is_both_trained_and_held_out():
    trained, held = [
        [option for by_class in table.values() for options in by_class.values() for option in options]
        + [option for options in joint.values() for option in options]
        for table, joint in ((PHRASES, JOINT), (HELDOUT, JOINT_HELDOUT))
    ]
    assert len(set(trained + held)) == len(trained) + len(held)  # nor does one stand under two labels
    for name, by_class in HELDOUT.items():
        assert min(map(len, by_class.values())) >= 3 and list(by_class) == list(PHRASES[name])
    assert min(map(len, JOINT_HELDOUT.values())) >= 3 and list(JOINT_HELDOUT) == list(JOINT)


def test_reports_keep_to_their_templates():
    assert [phrases(("a",), ("b",), which) for which in ("train", "heldout", "all")] == [("a",), ("b",), ("a", "b")]
    with pytest.raises(ValueError, match="heldout"):
        phrases(("a",), ("b",), "other")
    denials = {
        "train": {s for by_class in PHRASES.values() for s in by_class[NEGATIVE]}
        | {s for o in JOINT.values() for s in o},
        "heldout": {s for b in HELDOUT.values() for s in b[NEGATIVE]} | {s for o in JOINT_HELDOUT.values() for s in o},
    }
    cases = [phantom_case.sample_case("templates", i) for i in range(100)]
    for which, other in (("train", "heldout"), ("heldout", "train")):
        said = {sentence + "." for case in cases for sentence in write_report(case, which).rstrip(".").split(". ")}
        assert said & denials[which] and not said & denials[other]


def test_reports_are_about_as_long_as_real_ones():
    words = [len(write_report(phantom_case.sample_case("train", i)).split()) for i in range(1000)]
    assert 29 < np.mean(words) < 34


@pytest.mark.parametrize("name", ["Consolidation", "Lung Lesion", "Pneumothorax", "Pleural Effusion", "Pleural Other"])
def test_a_finding_shows_on_its_own_side(name):
    """Densities, not pictures: a finding draws random numbers, so the exposure that follows it differs too."""
    for side, half in (("left", slice(112, None)), ("right", slice(0, 112))):
        finding = phantom_case.Finding(name, 0.9, side, "lower")
        chest = Chest(phantom_case.PhantomCase(7, "pair", 4, "A", (), (BLANK,) * 13))
        healthy = chest.anatomy()
        changed = np.abs(paint(chest, healthy, finding) - healthy) > 0.08
        assert changed[:, half].sum() > 60  # the patient's left is to the right of the picture
        assert changed[:, half].sum() > 0.95 * changed.sum()


def test_load_gives_disjoint_labelled_studies():
    data = phantom.load(sizes={"train": 30, "val": 5, "test": 10})
    assert {split: len(studies) for split, studies in data.items()} == {"train": 30, "val": 5, "test": 10}
    ids = [study.id for studies in data.values() for study in studies]
    assert len(set(ids)) == len(ids)
    study = data["test"][3]
    assert study.images == ("phantom:7/test/3",)
    assert study.labels == phantom_case.case_labels(phantom_case.sample_case("test", 3))
    assert np.array_equal(np.asarray(phantom.image_of(study.images[0])), render(phantom_case.sample_case("test", 3)))
    assert phantom.SIZES == {"train": 8000, "val": 500, "test": 1000}


@pytest.mark.parametrize(
    "address",
    [
        "7/test/1",
        "phantom:7/test",
        "phantom:x/test/1",
        "phantom:7/test/-1",
        "phantom:",
        "phantom:²/test/1",
        "phantom:7/test/" + "9" * 5000,
    ],
)
def test_a_malformed_address_is_one_line(address):
    with pytest.raises(UserError, match=re.escape(address)) as caught:
        phantom.image_of(address)
    assert "\n" not in str(caught.value)


def test_export_writes_the_r2gen_form(tmp_path):
    phantom.export(tmp_path, "val", 3)
    records = json.loads((tmp_path / "annotation.json").read_text())
    assert [len(records[split]) for split in ("train", "val", "test")] == [0, 3, 0]
    assert all((tmp_path / "images" / record["image_path"][0]).is_file() for record in records["val"])
    assert records["val"][2]["report"] == write_report(phantom_case.sample_case("val", 2))
    phantom.export(tmp_path, "test", 1)
    assert json.loads((tmp_path / "annotation.json").read_text()) == records | {"test": [ANY]}
