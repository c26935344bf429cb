"""Reports of the phantom: what a case mentions, written in varied radiology language.

Every phrase of `phantom_phrases` states exactly the labels it is filed under, so `case_labels` needs no reading; which
side and size it states follows from its placeholders and a few words, so `report_attributes` needs none either. A
labeler can be trained on reports of "train" phrases and tested on those of "heldout" ones; the data set uses "all".
Denials are joined first, then one sentence is written per condition that is left, then sentences without a label.
"""

from __future__ import annotations

import random
import re

from mrg_grpo.attributes import BOTH, LEFT, NO_SIDE, NO_SIZE, NOTHING, RIGHT, SMALL, Said
from mrg_grpo.data.phantom.case import Finding, PhantomCase
from mrg_grpo.data.phantom.heldout import HELDOUT, JOINT_HELDOUT
from mrg_grpo.data.phantom.phrases import FILLERS, INCIDENTAL, JOINT, PHRASES
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE

ORDER = (
    ("lungs", ("Lung Opacity", "Consolidation", "Pneumonia", "Edema", "Atelectasis", "Lung Lesion")),
    ("pleura", ("Pneumothorax", "Pleural Effusion", "Pleural Other")),
    ("heart", ("Cardiomegaly", "Enlarged Cardiomediastinum")),
    ("bones", ("Fracture",)),
    ("devices", ("Support Devices",)),
)
PLURAL_DEVICES = {"sternotomy wires"}
HABIT = {"technique": 0.25, "comparison": 0.1, "vessels": 0.2, "airways": 0.15, "hila": 0.2, "bones": 0.15,
         "soft tissues": 0.08, "abdomen": 0.12}  # fmt: skip
"""How often a report has a sentence of each kind of filler, where nothing it mentions speaks against it."""
INCIDENTAL_HABIT = {"spine": 0.25, "aorta": 0.16, "volumes": 0.16, "joints": 0.08, "abdomen and chest wall": 0.1}
"""The same for what no label stands for, in rare splits."""
SILENCED = {
    "vessels": {"Edema", "Cardiomegaly"},
    "hila": {"Enlarged Cardiomediastinum", "Lung Lesion"},
    "bones": {"Fracture"},
}
"""A filler is left out when one of these is mentioned as positive or uncertain, "bones" at any mention."""

SIDE_IDS = {"left": LEFT, "right": RIGHT, "both": BOTH}
SEVERITIES, EXTENTS = ("mild", "moderate", "severe"), ("small", "moderate", "large")
"""By `grade`, from 1."""
SIDE_PLACEHOLDER = re.compile(r"\{(?:side|on_side|lung|base)\}", re.IGNORECASE)
SIZE_PLACEHOLDER = re.compile(r"\{(?:sev|size)\}", re.IGNORECASE)
WRITTEN_BOTH = re.compile(r"\bbilateral\b", re.IGNORECASE)
WRITTEN_SMALL = re.compile(r"\b(?:mild(?:ly)?|small|tiny|trace|minimal|slight|minor|subtle)\b", re.IGNORECASE)
WELL_PLACED = re.compile(r"\bsatisfactory position\b")
"""What phrases say of side, size and position in words of their own."""

Phrased = tuple[str, str, Finding | None]
"""A condition that a report mentions, the phrase it has for it, and what is in the picture."""


def phrases(train: tuple[str, ...], heldout: tuple[str, ...], templates: str) -> tuple[str, ...]:
    """The phrases that `templates` ("all", "train" or "heldout") may use."""
    if templates == "train":
        return train
    if templates == "heldout":
        return heldout
    if templates == "all":
        return train + heldout
    raise ValueError(f'templates is {templates!r}; it must be "all", "train" or "heldout"')


def write_report(case: PhantomCase, templates: str = "all") -> str:
    """The findings section; words are drawn from the case's own stream."""
    return _write(case, templates)[0]


def report_attributes(case: PhantomCase, templates: str = "all") -> Said:
    """The sides, sizes and malposition that the same report states of what it states or doubts."""
    side, size, malposition = (list(NOTHING[0]), list(NOTHING[1]), BLANK)
    for name, phrase, finding in _write(case, templates)[1]:
        i = CONDITIONS.index(name)
        if case.mentions[i] != NEGATIVE:
            side[i], size[i] = phrase_side(phrase, finding), phrase_size(phrase, finding)
            malposition = NEGATIVE if WELL_PLACED.search(phrase) else malposition
    return tuple(side), tuple(size), malposition


def phrase_side(phrase: str, finding: Finding | None) -> int:
    """The side that a phrase states of a finding."""
    said = SIDE_IDS[_side(finding)] if SIDE_PLACEHOLDER.search(phrase) else NO_SIDE
    return said | (BOTH if WRITTEN_BOTH.search(phrase) else NO_SIDE)


def phrase_size(phrase: str, finding: Finding | None) -> int:
    """The size or severity that a phrase states of a finding."""
    said = grade(finding) if SIZE_PLACEHOLDER.search(phrase) else NO_SIZE
    return max(said, SMALL if WRITTEN_SMALL.search(phrase) else NO_SIZE)


def grade(finding: Finding | None) -> int:
    """1 small or mild, 2 moderate, 3 large or severe."""
    severity = finding.severity if finding else 0.2
    return 1 if severity < 0.5 else 2 if severity < 0.8 else 3


def _side(finding: Finding | None) -> str:
    return finding.side if finding and finding.side else "left"


def _write(case: PhantomCase, templates: str) -> tuple[str, list[Phrased]]:
    """The report, and the phrase of each condition that has a sentence of its own."""
    rng = case.rng("report")
    said = {name: label for name, label in zip(CONDITIONS, case.mentions) if label != BLANK}
    findings = {finding.condition: finding for finding in case.findings}
    joint, single = _join_negatives(rng, said, templates)
    phrased = {region: _region(rng, names, single, findings, templates) for region, names in ORDER}
    regions = {region: [_fill(phrase, finding) for _, phrase, finding in own] for region, own in phrased.items()}
    for names, sentence in joint.items():
        regions["heart" if "Cardiomegaly" in names else "pleura"].append(sentence)
    ill = any(label != NEGATIVE for name, label in said.items() if name != "Support Devices")
    if not ill and rng.random() < 0.75:
        regions["lungs"].insert(0, rng.choice(FILLERS["clear lungs"]))
    fillers = {kind: _filler(rng, kind, said) for kind in HABIT}
    regions["lungs"] += fillers["vessels"]
    regions["heart"] += fillers["hila"] + fillers["airways"]
    regions["bones"] += fillers["bones"]
    order = [region for region, _ in ORDER]
    if rng.random() < 0.3:  # heart first is the other convention
        order.remove("heart")
        order.insert(0, "heart")
    body = [sentence for region in order for sentence in regions[region]] + fillers["soft tissues"] + fillers["abdomen"]
    if case.incidental:
        body += _incidental(case)
    body = body or [rng.choice(FILLERS["clear lungs"])]
    report = " ".join(fillers["technique"] + fillers["comparison"] + body)
    return report, [row for own in phrased.values() for row in own]


def _join_negatives(
    rng: random.Random, said: dict[str, int], templates: str
) -> tuple[dict[frozenset[str], str], dict[str, int]]:
    """Mostly, deny together what can be: (a sentence per set of conditions, the mentions that remain)."""
    joint: dict[frozenset[str], str] = {}
    single = dict(said)
    for names, train in JOINT.items():
        if all(single.get(name) == NEGATIVE for name in names) and rng.random() < 0.7:
            joint[names] = rng.choice(phrases(train, JOINT_HELDOUT[names], templates))
            single = {name: label for name, label in single.items() if name not in names}
    return joint, single


def _region(
    rng: random.Random, names: tuple[str, ...], said: dict[str, int], findings: dict[str, Finding], templates: str
) -> list[Phrased]:
    """One phrase per mentioned condition: findings first, then what is denied."""
    ranked = sorted((name for name in names if name in said), key=lambda name: said[name] == NEGATIVE)
    options = {name: phrases(PHRASES[name][said[name]], HELDOUT[name][said[name]], templates) for name in ranked}
    return [(name, rng.choice(options[name]), findings.get(name)) for name in ranked]


def _filler(rng: random.Random, kind: str, said: dict[str, int]) -> list[str]:
    """One sentence without a label, or none. The stream moves on equally either way."""
    wanted, sentence = rng.random() < HABIT[kind], rng.choice(FILLERS[kind])
    against = {name for name, label in said.items() if label != NEGATIVE or kind == "bones"}
    return [sentence] if wanted and not against & SILENCED.get(kind, set()) else []


def _incidental(case: PhantomCase) -> list[str]:
    """What a radiologist also sees and CheXbert has no name for."""
    rng = case.rng("incidental")
    said = []
    for kind, share in INCIDENTAL_HABIT.items():
        if rng.random() < share:
            words = {"sev": rng.choice(("mild", "moderate", "severe")), "side": rng.choice(("left", "right"))}
            words |= {"Sev": words["sev"].capitalize(), "spine": rng.choice(("thoracic", "lower thoracic", "lumbar"))}
            said.append(rng.choice(INCIDENTAL[kind]).format(**words))
    return said


def _fill(template: str, finding: Finding | None) -> str:
    """Fill severity, side, zone and device from the finding; a denial has no placeholders."""
    side = _side(finding)
    zone = finding.zone if finding else "lower"
    device = finding.device if finding and finding.device else "central line"
    plural, article = device in PLURAL_DEVICES, "an" if device[0] in "aeiou" else "a"
    words = {
        "sev": SEVERITIES[grade(finding) - 1],
        "size": EXTENTS[grade(finding) - 1],
        "side": "bilateral" if side == "both" else side,
        "on_side": "bilaterally" if side == "both" else f"on the {side}",
        "zone": zone,
        "lung": f"both {zone} lungs" if side == "both" else f"the {side} {zone} lung",
        "base": "both lung bases" if side == "both" else f"the {side} lung base",
        "device": device,
        "a_device": device if plural else f"{article} {device}",
        "is": "are" if plural else "is",
    }
    words |= {word.capitalize(): text.capitalize() for word, text in words.items()}
    return template.format(**words)
