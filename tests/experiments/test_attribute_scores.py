"""Scores of sides and sizes, by hand: what MeSH terms name, what counts, and that the test ids take no part."""

import json
import tomllib

import pytest
import torch

from experiments.audits.attribute_scores import ATTRIBUTE_MAP, accuracy, confusion, mesh_said
from experiments.audits.labeler_scores import MESH_MAP, mesh_records, mesh_rows
from mrg_grpo.attributes import BOTH, LARGE, LEFT, MODERATE, RIGHT, SIDES, SIZES, SMALL
from mrg_grpo.labels import CONDITIONS


def named(*terms: str) -> dict[str, tuple[int, int]]:
    sides, sizes, _ = mesh_said(terms, tomllib.loads(MESH_MAP.read_text()), tomllib.loads(ATTRIBUTE_MAP.read_text()))
    return {name: pair for name, *pair in zip(CONDITIONS, sides, sizes) if any(pair)}


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (["Pulmonary Atelectasis/base/left/mild"], {"Atelectasis": [LEFT, SMALL]}),
        (["Pulmonary Atelectasis/base/bilateral"], {"Atelectasis": [BOTH, 0]}),
        (["Opacity/lung/upper lobe/right", "Opacity/lung/lingula"], {"Lung Opacity": [BOTH, 0]}),
        (["Pleural Effusion/left/small", "Pleural Effusion/left/large"], {"Pleural Effusion": [LEFT, LARGE]}),
        (["Hydropneumothorax/right/moderate"],
         {"Pneumothorax": [RIGHT, MODERATE], "Pleural Effusion": [RIGHT, MODERATE]}),
        (["Cardiomegaly/borderline"], {}),
        (["Cardiomegaly/severe", "Spondylosis/thoracic vertebrae/mild"], {"Cardiomegaly": [0, LARGE]}),
        (["Opacity/lung/middle lobe/right"], {"Lung Opacity": [RIGHT, 0]}),
        (["normal"], {}),
    ],
)  # fmt: skip
def test_what_mesh_terms_name(terms, expected):
    assert named(*terms) == expected


def test_the_mapping_names_sides_and_sizes_that_there_are():
    values = tomllib.loads(ATTRIBUTE_MAP.read_text())
    assert tuple(values["side"]) == SIDES[1:] and tuple(values["size"]) == SIZES[1:]


def test_accuracy_and_confusion_by_hand():
    truth, read = torch.tensor([[1, 2, 0], [3, 0, 1]]), torch.tensor([[1, 1, 0], [3, 0, 0]])
    counted = torch.tensor([[True, True, False], [True, True, True]])
    score = accuracy(read, truth, counted)
    assert (score["n"], score["accuracy"]) == (5, pytest.approx(3 / 5))
    assert 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1
    assert confusion(read, truth, counted) == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_the_test_ids_take_no_part(shared):
    annotation = json.loads((shared / "data" / "iu_xray" / "annotation.json").read_text())
    tests = {row["report"] for row in annotation["test"] if len(row["report"]) > 200}
    others = {row["report"] for split in ("train", "val") for row in annotation[split]}
    reports = [report for report, _ in mesh_rows(shared)]
    assert len(reports) > 3000 and not (tests - others) & set(reports)
    assert mesh_records(shared)[0] == reports
