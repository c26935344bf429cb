"""The written language: the grammar, the labels by construction, and what training makes of them."""

import itertools
import random
import re

import pytest
import torch

from experiments.embedded.language.claims import claim
from experiments.embedded.language.clinical import CLINICAL
from experiments.embedded.language.compose import ALL_SLOTS, Report, compose, denial, from_row, merge, report_labels
from experiments.embedded.language.findings import FINDINGS
from experiments.embedded.language.grammar import SHORT, Statement, expand, parse_labels
from experiments.embedded.language.normal import NORMALS
from experiments.embedded.language.other import OTHER
from experiments.embedded.train_labeler import IGNORE, Recipe, collate, encode, rate_at, stream, train
from mrg_grpo.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

ROWS = [row for rows in (*FINDINGS.values(), *OTHER.values(), NORMALS, CLINICAL) for row in rows]


def test_choices_slots_and_nesting():
    slots = {"side": ("left", "right"), "thing": ("[big |]{side} nodule",)}
    seen = {expand("a {thing}[| , stable]", slots, random.Random(seed)) for seed in range(200)}
    assert seen == {
        f"a {size}{side} nodule{end}" for size in ("", "big ") for side in ("left", "right") for end in ("", ", stable")
    }
    with pytest.raises(ValueError, match="unclosed"):
        expand("a [b|c", slots, random.Random(0))
    with pytest.raises(ValueError, match="unbalanced"):
        expand("a b] c", slots, random.Random(0))


def test_every_template_expands_to_clean_text():
    rng = random.Random(0)
    for row in ROWS:
        for _ in range(5):
            text = from_row(row, rng).text
            assert text and not re.search(r"[\[\]{}|<>]|  | ,", text), (row, text)
    for name, options in ALL_SLOTS.items():
        for option in options:
            assert not set(re.findall(r"{(\w+)}", option)) - set(ALL_SLOTS), (name, option)


def test_every_condition_is_affirmed_doubted_and_denied_somewhere():
    said = {(name, value) for row in ROWS for name, value in zip(SHORT, parse_labels(row[0])[0])}
    rng = random.Random(1)
    said |= {(name, value) for _ in range(2000) for name, value in zip(SHORT, denial(rng).labels)}
    for name in SHORT:
        assert (name, POSITIVE) in said
        assert (name, UNCERTAIN) in said
        assert (name, NEGATIVE) in said


def test_a_denial_labels_what_it_names():
    """An independent reader: the keyword of each condition must be in the text if and only if it is denied."""
    words = {"PX": "pneumothora", "PE": "effusion", "PN": "pneumoni", "ED": "edema", "AT": "atelectasis", "LL": "nodul"}
    rng = random.Random(2)
    for _ in range(3000):
        statement = denial(rng)
        labels = dict(zip(SHORT, statement.labels))
        assert set(statement.labels) <= {BLANK, NEGATIVE}
        for name, word in words.items():
            if word in statement.text.replace("pericardial effusion", ""):
                assert labels[name] == NEGATIVE, statement


def test_claims_label_what_they_name_by_negations_and_hedges():
    """An independent reader of one-name claims: the name says which condition, the cue words which class."""
    words = {"PX": "pneumothora", "PE": "effusion", "PN": "pneumonia", "ED": "edema", "AT": "atelecta"}
    doubt = re.compile(
        r"\b(possib|may|might|could|perhaps|question|equivocal|uncertain|not certain|can|suspec|suspic|exclud|rule"
        r"|concern|consider|conceiv|indeterminate|inconclusive|doubtful|versus|vs|query|probab|potential|differential"
        r"|worrisome|likel|suggestion|unable|difficult|hard|unclear|dismiss|tentative|presum|seeming|apparent)|\?"
    )
    deny = re.compile(
        r"\b(no|not|cannot|without|neither|nor|none|absent|absence|lacks?|lacking|free|devoid|clear|cleared|resol\w+"
        r"|negative|excludes?|excluded|rules? out|ruled out|nothing|fails?|disappeared|gone|nowhere|isn't|aren't)\b"
    )
    unchanged = re.compile(r"without significant interval change|not significantly changed")
    rng = random.Random(5)
    seen = dict.fromkeys((POSITIVE, NEGATIVE, UNCERTAIN), 0)
    for _ in range(6000):
        statement = claim(ALL_SLOTS, rng)
        labels = dict(zip(SHORT, statement.labels))
        for name, word in words.items():
            assert word not in statement.text.replace("pericardial effusion", "") or labels[name] != BLANK, statement
        said = set(statement.labels) - {BLANK}
        assert said, statement
        if len(said) > 1:
            continue
        (value,) = said
        seen[value] += 1
        assert value != NEGATIVE or deny.search(statement.text), statement
        assert value != UNCERTAIN or doubt.search(statement.text), statement
        if value == POSITIVE:
            text = unchanged.sub("", statement.text)
            assert not re.search(r"\b(no|without|neither|nor|possible|may|might|cannot)\b", text), statement
    assert min(seen.values()) > 1000


def test_bare_and_joint_names_are_claims_of_every_kind():
    """Each of the 13 conditions is stated bare, and each pair of the common ones in one breath in every class."""
    rng = random.Random(6)
    together = {value: set() for value in (POSITIVE, NEGATIVE, UNCERTAIN)}
    for _ in range(20000):
        statement = claim(ALL_SLOTS, rng)
        for value, pairs in together.items():
            names = [name for name, label in zip(SHORT, statement.labels) if label == value]
            pairs.update(itertools.combinations(names, 2))
    common = list(itertools.combinations(("CO", "PN", "PX", "PE"), 2))
    assert all(set(common) <= pairs for pairs in together.values())
    assert {name for name in SHORT if any(name in pair for pair in together[POSITIVE])} == set(SHORT)


def test_labels_merge_by_strength_and_no_finding_follows():
    assert merge([(0, 1, 2, 3), (2, 2, 3, 1)]) == (2, 1, 3, 1)
    quiet = Statement("the lungs are clear", (BLANK,) * 13)
    spine = Statement("scoliosis", (BLANK,) * 13, abnormal=True)
    line = Statement("picc line", (BLANK,) * 12 + (POSITIVE,))
    doubt = Statement("possible edema", tuple(UNCERTAIN if name == "ED" else BLANK for name in SHORT))
    assert report_labels([quiet])[13] == POSITIVE
    assert report_labels([quiet, line])[13] == POSITIVE  # devices alone do not end No Finding
    assert report_labels([quiet, spine])[13] == BLANK
    assert report_labels([quiet, doubt])[13] == BLANK


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The right PICC line has been removed.", ""),
        ("Coronary artery stent.", ""),
        ("Heart size is at the upper limits of normal.", "CM?"),
        ("Mediastinal shift to the left.", ""),
    ],
)
def test_conventions_the_grammar_takes_over_from_chexbert(labeler, text, code):
    """The packaged labeler reads them so; each was decided by how CheXbert reads most such sentences of IU X-Ray."""
    assert tuple(labeler.label([text])[0, :13].tolist()) == parse_labels(code)[0]


def test_the_rate_warms_up_and_ends_at_zero():
    recipe = Recipe(steps=1000, warm_up=100, learning_rate=2.0)
    rates = [rate_at(step, recipe) for step in range(1, 1001)]
    assert rates[0] == pytest.approx(0.02) and rates[49] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(rate_at(98, recipe), rel=0.01)
    assert rates[499] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.0, abs=1e-12)


def test_one_seed_trains_one_network(labeler, monkeypatch):
    """Steps, not minutes: two runs of a seed agree to the bit, and another seed does not."""
    tokenizer = labeler.tokenizer
    monkeypatch.setattr("experiments.embedded.train_labeler.make_tokenizer", lambda *_: tokenizer)

    def weights(seed: int) -> torch.Tensor:
        net = train(Recipe(seed=seed, hidden=12, layers=1, heads=2, steps=3, tokens=256)).net
        return torch.cat([parameter.flatten() for parameter in net.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0)) and torch.isfinite(first).all()
    assert not torch.equal(first, weights(1))


def test_reports_repeat_by_seed_and_their_sentences_carry_their_labels():
    first = list(itertools.islice(stream(5, 0.3), 40))
    assert first == list(itertools.islice(stream(5, 0.3), 40))
    assert first != list(itertools.islice(stream(6, 0.3), 40))
    rng = random.Random(3)
    for _ in range(300):
        report = compose(rng)
        assert merge([*report.sentence_labels]) == report.labels[:13]


def test_training_ids_are_those_of_the_whole_text(labeler):
    """Sentences are tokenised apart to know whose token is whose; joined they must be what the labeler will read."""
    tokenizer = labeler.tokenizer
    rng = random.Random(4)
    for _ in range(100):
        report = compose(rng)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in report.sentences]
        flat, labels, owners = encode(report, ids)
        whole = tokenizer("".join(report.sentences), truncation=True, max_length=512)["input_ids"]
        assert flat == whole
        assert labels == report.labels and len(owners) == len(flat)


def test_batches_pad_and_mask():
    rng = random.Random(0)
    report = Report(("a", "b"), ((1,) * 13, (2,) * 13), (1,) * 14)
    batch = collate([encode(report, [[7, 8], [9]]), encode(report, [[7], []])], rng)
    assert batch.ids.tolist() == [[2, 7, 8, 9, 3], [2, 7, 3, 0, 0]]
    assert batch.mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch.token_labels[..., 0].tolist() == [[IGNORE, 1, 1, 2, IGNORE], [IGNORE, 1, IGNORE, IGNORE, IGNORE]]
    assert torch.equal(batch.positions[0, 1:] - batch.positions[0, 1], torch.arange(4)) and batch.positions[0, 0] == 0
