"""The rule reader against the labels reports were written from, and against sentences no template holds."""

import numpy as np
import pytest

from mrg_grpo.data.phantom import case as phantom_case
from mrg_grpo.data.phantom.heldout import HELDOUT, JOINT_HELDOUT
from mrg_grpo.data.phantom.phrases import FILLERS, JOINT, PHRASES
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.data.phantom.text import write_report
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
