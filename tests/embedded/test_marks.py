"""Which words say sides and sizes, and of what: rules written by hand, and the noise that may mask them."""

import random

import pytest

from experiments.embedded.language.compose import ALL_SLOTS, compose, from_row, joined, kept, noise
from experiments.embedded.language.findings import FINDINGS
from experiments.embedded.language.grammar import SHORT, Statement, parse_labels
from experiments.embedded.language.marks import said_by, statement
from experiments.embedded.language.placed import device, sided
from mrg_grpo.attributes import BOTH, LARGE, LEFT, MODERATE, RIGHT, SMALL
from mrg_grpo.labels import NEGATIVE, POSITIVE, UNCERTAIN


def said(written: str, code: str) -> dict[str, tuple[int, int]]:
    """(side, size) of each condition that has one."""
    sides, sizes, _ = said_by(statement(written, parse_labels(code)[0]).marks)
    return {name: (sides[i], sizes[i]) for i, name in enumerate(SHORT) if sides[i] or sizes[i]}


@pytest.mark.parametrize(
    ("written", "code", "expected"),
    [
        ("small left pleural effusion", "PE+", {"PE": (LEFT, SMALL)}),
        ("pleural effusion", "PE+", {}),
        ("trace left-sided effusion and right effusion", "PE+", {"PE": (BOTH, SMALL)}),
        ("bilateral effusions, left greater than right", "PE+", {"PE": (BOTH, 0)}),
        ("mild to moderate bibasilar atelectasis", "AT?", {"AT": (BOTH, MODERATE)}),
        ("opacity in the lingula", "LO+", {"LO": (LEFT, 0)}),
        ("nodule in the middle lobe", "LL+", {"LL": (RIGHT, 0)}),
        ("opacities in the lung bases, markedly improved", "LO+", {"LO": (BOTH, 0)}),
        ("opacity of the left base consistent with atelectasis", "LO+ AT+", {"LO": (LEFT, 0), "AT": (LEFT, 0)}),
        ("<CM:severe cardiomegaly> and <PE:tiny right effusion>", "CM+ PE+", {"CM": (0, LARGE), "PE": (RIGHT, SMALL)}),
        ("<PE PX:<PE:large effusion> and <PX:pneumothorax> on the left>", "PE+ PX+",
         {"PE": (LEFT, LARGE), "PX": (LEFT, 0)}),
        ("<:no left effusion>, <PX:small right pneumothorax>", "PE- PX+", {"PX": (RIGHT, SMALL)}),
        ("no small effusion on the left", "PE-", {}),
        ("the heart is large, left ventricular enlargement", "CM+", {}),
        ("the heart is mildly enlarged", "CM+", {"CM": (0, SMALL)}),
        ("right upper quadrant drain, tip in the right atrium", "SD+", {}),
        ("left picc", "SD+", {"SD": (LEFT, 0)}),
    ],
)  # fmt: skip
def test_sides_and_sizes_of_written_statements(written, code, expected):
    assert said(written, code) == expected
    assert not set("<>") & set(statement(written, parse_labels(code)[0]).text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("endotracheal tube in the right mainstem bronchus", POSITIVE),
        ("ng tube should be advanced by 3 cm", POSITIVE),
        ("picc is malpositioned", POSITIVE),
        ("picc in satisfactory position", NEGATIVE),
        ("lines are well positioned", NEGATIVE),
        ("picc in unchanged position", 0),
        ("picc in good position, ng tube coiled in the neck", POSITIVE),
    ],
)
def test_malposition_of_devices(text, value):
    assert said_by(statement(text, parse_labels("SD+")[0]).marks)[2] == value
    assert said_by(statement(text, parse_labels("PE+")[0]).marks)[2] == 0


def test_a_mark_is_the_word_that_says_it():
    own = statement("the <PE:left effusion> is small", parse_labels("PE+")[0])
    assert [(own.text[mark.start : mark.end], mark.kind) for mark in own.marks] == [("left", "side"), ("small", "size")]


def test_only_claimed_conditions_have_attributes_in_every_maker():
    rng = random.Random(0)
    statements = [from_row(row, rng) for rows in FINDINGS.values() for row in rows for _ in range(3)]
    statements += [maker(ALL_SLOTS, rng) for maker in (sided, device) for _ in range(800)]
    reports = [compose(rng) for _ in range(300)]
    rows = [(own.labels, said_by(own.marks)) for own in statements]
    rows += [(report.labels, report.said) for report in reports]
    for labels, (sides, sizes, malposition) in rows:
        for label, side, size in zip(labels, sides, sizes):
            assert label in (POSITIVE, UNCERTAIN) or not side + size
        assert not (sides[0] or sides[1])
        assert not malposition or labels[12] in (POSITIVE, UNCERTAIN)
    assert (
        {value for _, row in rows for value in row[0]} == {value for _, row in rows for value in row[1]} == {0, 1, 2, 3}
    )
    assert {row[2] for _, row in rows} == {0, POSITIVE, NEGATIVE}


def test_marks_stand_at_their_words_after_the_noise():
    rng = random.Random(1)
    seen = 0
    for _ in range(1500):
        report = compose(rng)
        for sentence, marks in zip(report.sentences, report.marks):
            for mark in marks:
                word = sentence[mark.start : mark.end]
                assert word.strip() == word and word, (sentence, mark)
                if mark.kind == "side" and mark.value == LEFT:
                    seen += 1
                    assert word in ("left", "lingula", "lingular"), (sentence, word)
    assert seen > 200


def test_a_masked_word_says_nothing_and_the_others_move():
    own = statement("a small left effusion", parse_labels("PE+")[0])
    marks = list(own.marks)
    words, origin = ["stray", "small", "xxxx", "effusion"], [-1, 1, 2, 3]
    (mark,) = kept(marks, own.text, words, origin)
    assert (mark.kind, " ".join(words)[mark.start : mark.end]) == ("size", "small")
    text, both = joined([own, own], "; ")
    assert [text[mark.start : mark.end] for mark in both] == ["left", "small"] * 2
    assert said_by(tuple(both)) == said_by(own.marks)


def test_noise_keeps_or_masks_but_never_invents():
    own = statement("bilateral effusions, larger on the right, mild edema", parse_labels("PE+ ED+")[0])
    masked = 0
    for seed in range(400):
        text, marks = noise(own.text, list(own.marks), random.Random(seed))
        assert len(marks) + text.split().count("xxxx") >= len(own.marks)
        masked += len(marks) < len(own.marks)
        assert {(mark.kind, mark.value) for mark in marks} <= {(mark.kind, mark.value) for mark in own.marks}
    assert 5 < masked < 60
    assert noise("", [], random.Random(0)) == ("", [])
    assert Statement("", (0,) * 13).marks == ()
