"""Reports of the phantom: what a case mentions, written in varied radiology language.

Every phrase of `phantom_phrases` states exactly the labels it is filed under, so `case_labels` needs no reading. A
labeler can be trained on reports of "train" phrases and tested on those of "heldout" ones; the data set uses "all".
Denials are joined first, then one sentence is written per condition that is left, then sentences without a label.
"""

from __future__ import annotations

import random

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
    rng = case.rng("report")
    said = {name: label for name, label in zip(CONDITIONS, case.mentions) if label != BLANK}
    findings = {finding.condition: finding for finding in case.findings}
    joint, single = _join_negatives(rng, said, templates)
    regions = {region: _region(rng, names, single, findings, templates) for region, names in ORDER}
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
    return " ".join(fillers["technique"] + fillers["comparison"] + body)


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
) -> list[str]:
    """One sentence per mentioned condition: findings first, then what is denied."""
    ranked = sorted((name for name in names if name in said), key=lambda name: said[name] == NEGATIVE)
    options = {name: phrases(PHRASES[name][said[name]], HELDOUT[name][said[name]], templates) for name in ranked}
    return [_fill(rng.choice(options[name]), findings.get(name)) for name in ranked]


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
    severity = finding.severity if finding else 0.2
    side = finding.side if finding and finding.side else "left"
    zone = finding.zone if finding else "lower"
    device = finding.device if finding and finding.device else "central line"
    plural, article = device in PLURAL_DEVICES, "an" if device[0] in "aeiou" else "a"
    words = {
        "sev": "mild" if severity < 0.5 else "moderate" if severity < 0.8 else "severe",
        "size": "small" if severity < 0.5 else "moderate" if severity < 0.8 else "large",
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
