"""One phantom case: which conditions, how severe, where, at which hospital, and what the report will say of each.

Picture (`phantom_draw`) and report (`phantom_text`) are both made from it; `phantom` makes data sets of cases.

Deliberate choices
* Conditions come in four clinical pictures (heart failure, infection, chest mass, trauma), so that they co-occur as in
  life; prevalence is raised to 5-30 % so that each can be learned.
* Severity goes down to invisible, and what is barely visible is reported as uncertain, or not at all: a perfect score
  is out of reach.
* How often an absent condition is mentioned as negative follows real reports (docs/results/built-in.md); site B is
  terser.
* Everything follows from (seed, split, index), so any study of any split can be had at once, and nothing is stored.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace

from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN

SEED = 7

PICTURES: tuple[tuple[float, dict[str, float]], ...] = (
    (0.28, {}),
    (0.20, {"Cardiomegaly": 0.75, "Edema": 0.65, "Pleural Effusion": 0.55, "Enlarged Cardiomediastinum": 0.2,
            "Support Devices": 0.35, "Atelectasis": 0.15}),
    (0.22, {"Pneumonia": 0.5, "Consolidation": 0.5, "Lung Opacity": 0.5, "Pleural Effusion": 0.2, "Atelectasis": 0.1}),
    (0.15, {"Lung Lesion": 0.65, "Pleural Other": 0.35, "Enlarged Cardiomediastinum": 0.3, "Pleural Effusion": 0.2,
            "Atelectasis": 0.25, "Support Devices": 0.15, "Lung Opacity": 0.2}),
    (0.15, {"Fracture": 0.5, "Pneumothorax": 0.5, "Support Devices": 0.35, "Atelectasis": 0.3, "Pleural Effusion": 0.15,
            "Pleural Other": 0.15}),
)  # fmt: skip
"""Weight of each clinical picture and how often it brings each condition; the first is the normal chest."""
STRAY = 0.025
"""How often any condition comes on its own, outside the normal picture."""

NEGATED = {
    "Enlarged Cardiomediastinum": 0.62, "Cardiomegaly": 0.75, "Lung Opacity": 0.19, "Lung Lesion": 0.045, "Edema": 0.06,
    "Consolidation": 0.37, "Pneumonia": 0.034, "Atelectasis": 0.001, "Pneumothorax": 0.75, "Pleural Effusion": 0.78,
    "Pleural Other": 0.0, "Fracture": 0.07, "Support Devices": 0.0,
}  # fmt: skip
"""P(mentioned as negative | absent), from the label counts of 2,365 real IU X-Ray reports:
negative / (negative + blank)."""
SITE_HABIT = {"A": 1.12, "B": 0.88}
"""Factor on NEGATED."""

RARE = "rare-"
"""Splits whose name begins so make the data set `phantom_rare`: findings as rare as in real reports, and reports that
also speak of what no label stands for."""
ROOM = "room-"
"""Splits whose name begins so make `phantom_room`: half of the findings, and what no label stands for as in RARE."""
HASTY = f"{ROOM}hasty"
"""The split that `phantom_hasty` trains on: studies of `phantom_room` with reports written in haste."""
KEPT = {
    "Enlarged Cardiomediastinum": 0.79, "Cardiomegaly": 0.77, "Lung Opacity": 0.96, "Lung Lesion": 0.40, "Edema": 0.10,
    "Consolidation": 0.07, "Pneumonia": 0.08, "Atelectasis": 0.46, "Pneumothorax": 0.06, "Pleural Effusion": 0.16,
    "Pleural Other": 0.20, "Fracture": 0.42, "Support Devices": 0.33,
}  # fmt: skip
"""P(a drawn finding is there) in rare splits: positive or uncertain in the 2,365 real reports, over the same here."""

HASTE = {
    "Enlarged Cardiomediastinum": (0.5, 0.8, 0.0), "Cardiomegaly": (0.6, 0.9, 0.0), "Lung Opacity": (0.7, 0.2, 0.0),
    "Lung Lesion": (0.5, 0.1, 0.0), "Edema": (0.3, 0.1, 0.06), "Consolidation": (0.5, 0.8, 0.0),
    "Pneumonia": (0.2, 0.1, 0.12), "Atelectasis": (0.7, 0.1, 0.0), "Pneumothorax": (0.6, 0.9, 0.0),
    "Pleural Effusion": (0.6, 0.9, 0.0), "Pleural Other": (0.2, 0.0, 0.06), "Fracture": (0.2, 0.1, 0.12),
    "Support Devices": (0.3, 0.0, 0.08),
}  # fmt: skip
"""What a hasty report makes of each condition: P(left out | stated), P(denied | left out), P(stated | not stated)."""

BILATERAL = {"Edema": 1.0, "Cardiomegaly": 0.0, "Enlarged Cardiomediastinum": 0.0, "Pleural Effusion": 0.3,
             "Atelectasis": 0.25, "Lung Opacity": 0.15, "Pneumonia": 0.15, "Pleural Other": 0.15}  # fmt: skip
"""P(both sides) of conditions that can be."""
ZONES = {"Lung Opacity": ("upper", "mid", "lower"), "Lung Lesion": ("upper", "mid", "lower"),
         "Consolidation": ("upper", "lower"), "Pneumonia": ("upper", "mid", "lower"),
         "Atelectasis": ("lower",), "Fracture": ("upper", "mid", "lower")}  # fmt: skip
DEVICES = ("pacemaker", "central line", "endotracheal tube", "sternotomy wires")


@dataclass(frozen=True)
class Finding:
    """Something in the picture. severity in (0, 1]: below 0.15 invisible, below 0.3 subtle."""

    condition: str
    severity: float
    side: str  # "left", "right", "both" or "" (midline)
    zone: str  # "upper", "mid", "lower" or ""
    device: str = ""


@dataclass(frozen=True)
class PhantomCase:
    """One study: what is in the picture, and what its report says of each condition."""

    seed: int
    split: str
    index: int
    site: str  # "A" or "B"
    findings: tuple[Finding, ...]
    mentions: tuple[int, ...]  # class id of the 13 conditions as the report states them

    @property
    def key(self) -> str:
        return f"{self.seed}/{self.split}/{self.index}"

    @property
    def incidental(self) -> bool:
        """Whether the report also speaks of what no label stands for."""
        return self.split.startswith((RARE, ROOM))

    def kept(self, name: str) -> float:
        """P(a drawn finding of this condition is there)."""
        return KEPT[name] if self.split.startswith(RARE) else 0.5 if self.split.startswith(ROOM) else 1.0

    def rng(self, purpose: str) -> random.Random:
        """An independent stream per purpose: the same on every platform."""
        digest = hashlib.sha256(f"{self.key}/{purpose}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))


def sample_case(split: str, index: int, seed: int = SEED) -> PhantomCase:
    """Study `index` of `split`; any split name is an independent stream."""
    blank = PhantomCase(seed, split, index, "A", (), ())
    rng = blank.rng("case")
    site = rng.choice("AB")
    findings = _findings(rng)
    if blank.incidental:
        findings = tuple(finding for finding in findings if rng.random() < blank.kept(finding.condition))
    present = {finding.condition: finding for finding in findings}
    mentions = tuple(_mention(rng, name, present.get(name), site) for name in CONDITIONS[:13])
    return PhantomCase(seed, split, index, site, findings, mentions)


def _findings(rng: random.Random) -> tuple[Finding, ...]:
    odds = rng.choices([picture for _, picture in PICTURES], [weight for weight, _ in PICTURES])[0]
    if not odds:
        return ()
    names = [name for name in CONDITIONS[:13] if rng.random() < odds.get(name, STRAY)]
    names = names or [rng.choice(sorted(odds))]
    return tuple(_finding(rng, name) for name in names)


def _finding(rng: random.Random, name: str) -> Finding:
    severity = rng.uniform(0.3, 1.0) if rng.random() < 0.84 else rng.uniform(0.05, 0.3)
    if name in ("Cardiomegaly", "Enlarged Cardiomediastinum"):
        side = ""
    else:
        side = "both" if rng.random() < BILATERAL.get(name, 0.0) else rng.choice(("left", "right"))
    device = rng.choice(DEVICES) if name == "Support Devices" else ""
    if device:
        severity, side = max(severity, 0.4), "" if device != "central line" else side
    return Finding(name, severity, side, rng.choice(ZONES.get(name, ("",))), device)


def _mention(rng: random.Random, name: str, finding: Finding | None, site: str) -> int:
    """How the report speaks of a condition: by severity if it is there, by habit if it is not."""
    draw = rng.random()
    if finding is None:
        return NEGATIVE if draw < min(0.97, NEGATED[name] * SITE_HABIT[site]) else BLANK
    if finding.severity >= 0.3:
        sure = 0.93
    elif finding.severity >= 0.15:
        sure = 0.35
    else:
        sure = 0.15
    if name in ("Support Devices", "Fracture"):
        sure = max(sure, 0.6)
    if draw < sure:
        return POSITIVE
    unsure = sure + (0.06 if finding.severity >= 0.3 else 0.45)
    if draw < unsure and name != "Support Devices":
        return UNCERTAIN
    return NEGATIVE if rng.random() < NEGATED[name] else BLANK


def hasty(case: PhantomCase) -> PhantomCase:
    """The case as a hasty report tells it: by condition, findings are left out, denied or invented (HASTE). The picture
    stays what it is."""
    rng = case.rng("haste")
    mentions, findings = list(case.mentions), case.findings
    for i, (name, (left_out, denied, invented)) in enumerate(HASTE.items()):
        draw, deny = rng.random(), rng.random()
        made_up = _finding(rng, name)
        if mentions[i] in (POSITIVE, UNCERTAIN):
            if draw < left_out:
                mentions[i] = NEGATIVE if deny < denied else BLANK
        elif draw < invented:
            mentions[i] = POSITIVE
            findings = (*(finding for finding in findings if finding.condition != name), made_up)
    return replace(case, mentions=tuple(mentions), findings=findings)


def case_labels(case: PhantomCase) -> tuple[int, ...]:
    """The 14 class ids the report carries. No Finding: nothing but devices is positive or uncertain."""
    ill = any(label in (POSITIVE, UNCERTAIN) for label in case.mentions[:12])
    return (*case.mentions, BLANK if ill else POSITIVE)
