"""The rule reader against the labels and attributes that reports state, and against sentences no template holds."""

import re

import numpy as np
import pytest
import torch

from mrg_grpo.attributes import BOTH, LARGE, LEFT, MODERATE, RIGHT, SMALL, Attributes
from mrg_grpo.data.phantom import case as phantom_case
from mrg_grpo.data.phantom.heldout import HELDOUT, JOINT_HELDOUT
from mrg_grpo.data.phantom.phrases import FILLERS, JOINT, PHRASES
from mrg_grpo.data.phantom.reader import read_attributes, read_labels
from mrg_grpo.data.phantom.text import _fill, phrase_side, phrase_size, report_attributes, write_report
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN


def read(report: str) -> list[int]:
    return np.asarray(read_labels([report]))[0].tolist()


@pytest.mark.parametrize("templates", ["all", "train", "heldout"])
def test_the_reader_finds_the_labels_that_were_written(templates):
    cases = [phantom_case.sample_case("test", i) for i in range(1000)]
    read = np.asarray(read_labels([write_report(case, templates) for case in cases]))
    said = np.array([phantom_case.case_labels(case) for case in cases])
    assert (read == said).mean(0).min() >= 0.995


def said_alone(sentence: str) -> dict[str, int]:
    return {name: label for name, label in zip(CONDITIONS[:13], read(sentence)) if label != BLANK}


def test_every_phrase_alone_states_its_label_and_no_other():
    words = dict(sev="mild", size="small", side="left", on_side="on the left", zone="lower", device="pacemaker")
    words |= {"lung": "the left lower lung", "base": "both lung bases", "a_device": "a pacemaker", "is": "is"}
    words |= {word.capitalize(): text.capitalize() for word, text in words.items()}
    for table in (PHRASES, HELDOUT):
        for name, by_class in table.items():
            for label, options in by_class.items():
                for option in options:
                    assert said_alone(option.format(**words)) == {name: label}, option
                    assert label != NEGATIVE or "{" not in option
    for joint in (JOINT, JOINT_HELDOUT):
        for names, options in joint.items():
            for option in options:
                assert said_alone(option) == dict.fromkeys(names, NEGATIVE), option
    assert not any(said_alone(filler) for options in FILLERS.values() for filler in options)


READ_BY_HAND = [  # labels decided by a person, in words that no template uses
    ("cardiomegaly is moderate . no effusions", {"Cardiomegaly": POSITIVE, "Pleural Effusion": NEGATIVE}),
    ("no pneumothorax but a small left effusion", {"Pneumothorax": NEGATIVE, "Pleural Effusion": POSITIVE}),
    ("a right nodule cannot be excluded", {"Lung Lesion": UNCERTAIN}),
    ("the heart and the mediastinum are normal", {"Cardiomegaly": NEGATIVE, "Enlarged Cardiomediastinum": NEGATIVE}),
    ("no edema; edema is severe", {"Edema": POSITIVE}),
    ("the right lung is free of consolidation", {"Consolidation": NEGATIVE}),
    ("there is there is a a pacemaker", {"Support Devices": POSITIVE}),
    ("a trachea in the midline", {}),
    ("cardiomediastinal silhouette is normal", {"Enlarged Cardiomediastinum": NEGATIVE}),  # as CheXbert has it
    ("a nodule is not ruled out", {"Lung Lesion": UNCERTAIN}),
    ("opacity may be atelectasis", {"Lung Opacity": UNCERTAIN, "Atelectasis": UNCERTAIN}),
]


@pytest.mark.parametrize(("report", "expected"), READ_BY_HAND)
def test_the_reader_reads_other_sentences(report, expected):
    labels = dict(zip(CONDITIONS, read(report)))
    del labels["No Finding"]
    assert {name: label for name, label in labels.items() if label != BLANK} == expected


def test_no_finding_means_nothing_but_devices():
    assert read("A pacemaker is present. No pneumothorax.")[-1] == POSITIVE
    assert read("There may be a nodule.")[-1] == BLANK
    assert tuple(read_labels([]).shape) == (0, 14)


@pytest.mark.parametrize("templates", ["all", "train", "heldout"])
def test_the_reader_finds_the_attributes_that_were_written(templates):
    """The writer knows them from its placeholders, the reader from the words."""
    splits = ("test", "room-test", "rare-test", phantom_case.HASTY)
    cases = [phantom_case.sample_case(split, i) for split in splits for i in range(250)]
    cases = [phantom_case.hasty(case) if case.split == phantom_case.HASTY else case for case in cases]
    read = read_attributes([write_report(case, templates) for case in cases])
    said = Attributes.of([report_attributes(case, templates) for case in cases])
    assert torch.equal(read.side, said.side) and torch.equal(read.size, said.size)
    assert torch.equal(read.malposition, said.malposition)
    assert set(said.side.unique().tolist()) == set(said.size.unique().tolist()) == {0, 1, 2, 3}


def test_every_phrase_says_the_side_and_size_that_are_in_it():
    """All phrases that state or doubt, with every side and grade filled in: words decide, by rules of this test."""
    small = r"mild|mildly|small|tiny|trace|minimal|slight|minor|subtle"
    for table in (PHRASES, HELDOUT):
        for name, by_class in table.items():
            for option in (*by_class[POSITIVE], *by_class[UNCERTAIN]):
                for side, severity in (("left", 0.4), ("right", 0.7), ("both", 0.9)):
                    finding = phantom_case.Finding(name, severity, side, "lower", "pacemaker")
                    words = set(re.findall(r"\w+", _fill(option, finding).lower()))
                    both = words & {"both", "bilateral", "bilaterally"}
                    sides = BOTH if both else LEFT * ("left" in words) + RIGHT * ("right" in words)
                    grown = LARGE if words & {"severe", "severely", "large"} else 0
                    grown = grown or (MODERATE if words & {"moderate", "moderately"} else 0)
                    assert phrase_side(option, finding) == sides, option
                    size = grown or (SMALL if words & set(small.split("|")) else 0)
                    assert phrase_size(option, finding) == size, option


ATTRIBUTES_BY_HAND = [  # (side, size) decided by a person, in words that no template uses
    ("small left effusion . right effusion is large", {"Pleural Effusion": (BOTH, LARGE)}),
    ("no left pneumothorax but a small right effusion", {"Pleural Effusion": (RIGHT, SMALL)}),
    ("no small effusion on the left", {}),
    ("a nodule. the left shoulder is normal", {}),
    ("moderately enlarged heart; possible edema, bilateral", {"Cardiomegaly": (0, MODERATE), "Edema": (BOTH, 0)}),
    ("left central line. malpositioned endotracheal tube", {"Support Devices": (LEFT, 0)}),
]


@pytest.mark.parametrize(("report", "expected"), ATTRIBUTES_BY_HAND)
def test_the_reader_reads_attributes_of_other_sentences(report, expected):
    read = read_attributes([report])
    pairs = {name: (int(a), int(b)) for name, a, b in zip(CONDITIONS, read.side[0], read.size[0])}
    assert {name: pair for name, pair in pairs.items() if pair != (0, 0)} == expected
    assert read.malposition.tolist() == [POSITIVE if "malposition" in report else 0]
    assert read_attributes(["Pacemaker, in satisfactory position."]).malposition.tolist() == [NEGATIVE]
