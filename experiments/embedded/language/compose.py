"""Statements -> reports with 14 labels and marks, and the noise of real text. The same seed gives the same stream."""

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from experiments.embedded.language.claims import CLAIM_SLOTS, claim
from experiments.embedded.language.clinical import CLINICAL, CLINICAL_SLOTS, CLOSERS, OPENERS
from experiments.embedded.language.findings import FINDINGS
from experiments.embedded.language.grammar import SHORT, Mark, Statement, expand, parse_labels
from experiments.embedded.language.marks import said_by, statement
from experiments.embedded.language.normal import DENIABLE, DENIABLE_WEIGHTS, NORMAL_SLOTS, NORMALS
from experiments.embedded.language.other import OTHER, SALAD
from experiments.embedded.language.slots import SLOTS
from mrg_grpo.attributes import Said
from mrg_grpo.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

STRENGTH = {BLANK: 0, NEGATIVE: 1, UNCERTAIN: 2, POSITIVE: 3}
"""Which of two statements about one condition wins in a report, as CheXbert reads it."""

CLAIMING = (
    "or",
    "and",
    "with",
    "of",
    "to",
    "from",
    "by",
    "as",
    "that",
    "which",
    "normal",
    "stable",
    "likely",
    "positive",
    "contour",
)
STRAY = sorted(set(SALAD) - set(CLAIMING))
"""Words strewn into sentences; none that could change what a sentence claims."""

ALL_SLOTS = SLOTS | NORMAL_SLOTS | CLINICAL_SLOTS | CLAIM_SLOTS | {"word": tuple(STRAY)}

SENTENCE_COUNTS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 9, 11, 16)
MASKABLE = {"left", "right", "mild", "likely", "angle", "angles", "nodes", "wires", "major", "clips", "bones", "hila"}


@dataclass(frozen=True)
class Report:
    """Sentences as they are written, the labels of each (13 class ids), the 14 labels of the whole, and the words of
    each sentence that say sides and sizes."""

    sentences: tuple[str, ...]
    sentence_labels: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...] = field(default=())
    marks: tuple[tuple[Mark, ...], ...] = ()

    @property
    def said(self) -> Said:
        """The attributes of the whole."""
        return said_by(tuple(mark for own in self.marks for mark in own))


def merge(rows: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Class ids of several statements -> of their union; the stronger claim wins."""
    return tuple(max(column, key=STRENGTH.__getitem__) for column in zip(*rows))


def report_labels(statements: list[Statement]) -> tuple[int, ...]:
    """14 class ids. No Finding is positive where no condition but devices is claimed and nothing else is abnormal."""
    labels = merge([statement.labels for statement in statements])
    claimed = any(value in (POSITIVE, UNCERTAIN) for value in labels[:12])
    abnormal = claimed or any(statement.abnormal for statement in statements)
    return (*labels, BLANK if abnormal else POSITIVE)


def from_row(row: tuple[str, str], rng: random.Random) -> Statement:
    """(labels, template) -> one statement."""
    labels, abnormal = parse_labels(row[0])
    return statement(expand(row[1], ALL_SLOTS, rng), labels, abnormal)


def finding(rng: random.Random) -> Statement:
    """A condition affirmed or doubted; each group of templates is equally likely."""
    return from_row(rng.choice(FINDINGS[rng.choice(tuple(FINDINGS))]), rng)


def other(rng: random.Random) -> Statement:
    """A statement about none of the 13 conditions."""
    common = ("clear", "bones", "chronic", "frame")
    return from_row(rng.choice(OTHER[rng.choice((*OTHER, *common))]), rng)


def normal(rng: random.Random) -> Statement:
    """A fixed form that denies."""
    return from_row(rng.choice(NORMALS), rng)


def clinical(rng: random.Random) -> Statement:
    """A sentence of history or course."""
    return from_row(rng.choice(CLINICAL), rng)


def salad(rng: random.Random) -> Statement:
    """Words without a claim."""
    words = rng.choices(SALAD, k=rng.randint(3, 14))
    return Statement(" ".join(words), (BLANK,) * 13)


def denial(rng: random.Random) -> Statement:
    """One to five conditions denied in one breath: "no focal consolidation, effusion, or pneumothorax"."""
    count = rng.choices((1, 2, 3, 4, 5), (8, 9, 7, 3, 1))[0]
    names: list[str] = []
    while len(names) < count:
        name = rng.choices(tuple(DENIABLE_WEIGHTS), tuple(DENIABLE_WEIGHTS.values()))[0]
        if name not in names or name == "none":
            names.append(name)
    nouns = [expand(rng.choice(DENIABLE[name]), ALL_SLOTS, rng) for name in names]
    opening = expand("{no}", ALL_SLOTS, rng)
    style = rng.random()
    if count == 1:
        body = nouns[0]
    elif style < 0.72:
        last = rng.choice((" or ", " or ", ", or ", " and ", ", and ", ", "))
        body = ", ".join(nouns[:-1]) + last + nouns[-1]
    elif style < 0.80:
        body = " or ".join(nouns)
    elif style < 0.83:
        return _denied(f"neither {nouns[0]} nor {' nor '.join(nouns[1:])} is seen", names)
    else:
        body = ", no ".join(nouns) if rng.random() < 0.6 else " and no ".join(nouns)
    text = f"{opening} {body} {expand('{nopost}', ALL_SLOTS, rng)}"
    if style > 0.97:  # the passive order: "pneumothorax is not seen"
        text = f"{body} [is|are] not [seen|identified|visualized|present|demonstrated|evident]"
        text = expand(text, ALL_SLOTS, rng)
    return _denied(text, names)


def _denied(text: str, names: list[str]) -> Statement:
    return Statement(" ".join(text.split()), tuple(NEGATIVE if name in names else BLANK for name in SHORT))


def any_claim(rng: random.Random) -> Statement:
    """Any name in any frame, stated, denied or doubted."""
    return claim(ALL_SLOTS, rng)


def denying_claim(rng: random.Random) -> Statement:
    """Any name in any frame that denies."""
    return claim(ALL_SLOTS, rng, denials_only=True)


Makers = Sequence[tuple[Callable[[random.Random], Statement], float, float]]
MAKERS: Makers = (
    # maker, share in a normal report, share in any other
    (normal, 0.28, 0.13),
    (denial, 0.28, 0.14),
    (other, 0.33, 0.19),
    (salad, 0.04, 0.02),
    (clinical, 0.0, 0.04),
    (finding, 0.0, 0.28),
    (any_claim, 0.0, 0.20),
    (denying_claim, 0.07, 0.0),
)


def compose(rng: random.Random, choice: Makers = MAKERS) -> Report:
    """One report of the grammar: a quarter say nothing but normal things, the rest mix."""
    calm = rng.random() < 0.25
    makers = [maker for maker, _, _ in choice]
    weights = [normal_share if calm else mixed_share for _, normal_share, mixed_share in choice]
    count = rng.choice(SENTENCE_COUNTS)
    if rng.random() < 0.01:
        statements = [Statement("", (BLANK,) * 13)]  # an empty report
    else:
        statements = [maker(rng) for maker in rng.choices(makers, weights, k=count)]
    labels = report_labels(statements)
    groups: list[list[Statement]] = []
    for each in statements:  # now and then two statements share a sentence
        if groups and rng.random() < 0.12:
            groups[-1].append(each)
        else:
            groups.append([each])
    end = rng.choices((". ", ".", " . ", " ", "; "), (84, 2, 8, 3, 3))[0]
    numbered = rng.random() < 0.06
    header = rng.choice(("findings: ", "impression: ", "findings : ", "chest: ")) if rng.random() < 0.05 else ""
    sentences, rows, marks = [], [], []
    for index, group in enumerate(groups):
        denies = any(NEGATIVE in statement.labels for statement in group[:-1])  # "no effusion, nodule" would deny both
        joint = rng.choice((". ", "; ", ", but ", ".") if denies else (", ", ". ", "; ", " and ", ".", ", and "))
        text, own = noise(*joined(group, joint), rng)
        prefix = f"{index + 1}. " if numbered else (header if index == 0 else "")
        sentences.append(f"{prefix}{text}{end}" if text else "")
        rows.append(merge([statement.labels for statement in group]))
        marks.append(tuple(mark.moved(len(prefix)) for mark in own))
    return Report(tuple(sentences), tuple(rows), labels, tuple(marks))


def joined(group: list[Statement], joint: str) -> tuple[str, list[Mark]]:
    """Statements of one sentence -> its text and marks."""
    marks, at = [], 0
    for each in group:
        marks += [mark.moved(at) for mark in each.marks]
        at += len(each.text) + len(joint)
    return joint.join(each.text for each in group), marks


def noise(text: str, marks: list[Mark], rng: random.Random) -> tuple[str, list[Mark]]:
    """Openers, closers, masks, slips of the key and dropped words, seldom; the claim survives, and every mark but one
    that is masked."""
    dress = rng.random()
    if dress < 0.08 and text:
        if dress < 0.05:
            opener = rng.choice(OPENERS)
            text, marks = opener + text, [mark.moved(len(opener)) for mark in marks]
        else:
            text += rng.choice(CLOSERS)
    roll = rng.random()
    if roll > 0.22:
        return text, marks
    words = text.split()
    if not words:
        return text, marks
    origin = list(range(len(words)))  # of each word its place in the text, -1 where it is new
    if roll < 0.05:  # a stray word, not at the front, where a negation may stand
        at = rng.randint(min(2, len(words)), len(words))
        words.insert(at, rng.choice(STRAY))
        origin.insert(at, -1)
    elif roll < 0.12:
        words = ["xxxx" if word in MASKABLE and rng.random() < 0.5 else word for word in words]
    elif roll < 0.17:
        left_out = {"the", "is", "are", "there", "a"}
        origin = [place for place in origin if words[place] not in left_out or rng.random() < 0.5] or origin
        words = [words[place] for place in origin]
    else:
        at = rng.randrange(len(words))
        if len(words[at]) > 5:
            words[at] = _slip(words[at], rng)
    return " ".join(words), kept(marks, text, words, origin)


def kept(marks: list[Mark], text: str, words: list[str], origin: list[int]) -> list[Mark]:
    """The marks of a text that became these words; `origin` says which word of the text each was, -1 for none."""
    begins = [match.start() for match in re.finditer(r"\S+", text)]
    moved, at = {}, 0  # of each word that is still to be read: how far it moved, and where it ends
    for word, place in zip(words, origin):
        if place >= 0 and word != "xxxx":
            moved[place] = at - begins[place], at + len(word)
        at += len(word) + 1
    found = []
    for mark in marks:
        place = bisect_right(begins, mark.start) - 1
        if place in moved:
            by, end = moved[place]
            found.append(replace(mark.moved(by), end=min(mark.end + by, end)))
    return found


def _slip(word: str, rng: random.Random) -> str:
    """Swap, drop or double one inner letter."""
    at = rng.randrange(1, len(word) - 2)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind == 1 else word[:at] + word[at] + word[at:]
