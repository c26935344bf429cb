"""The phantom's own reader of labels and attributes: a judge that is not the neural labeler.

Keywords, words of side and size, normality phrases, negation and uncertainty cues, sentence by sentence. It knows the
phantom's vocabulary, not its templates, so it also reads what a small language model makes of them. Not for real
reports.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mrg_grpo.attributes import BOTH, LARGE, LEFT, MODERATE, RIGHT, SMALL, Attributes, Said, join_malposition
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN

KEYWORDS = {
    "Enlarged Cardiomediastinum": r"(?:cardio)?mediastin\w+",
    "Cardiomegaly": r"cardiomegaly|heart|cardiac|cardiothoracic",
    "Lung Opacity": r"opaci\w+|infiltrat\w+|airspace disease|increased density",
    "Lung Lesion": r"nodul\w+|mass(?:es)?|lesions?",
    "Edema": r"edema",
    "Consolidation": r"consolidat\w+",
    "Pneumonia": r"(?:broncho)?pneumonia|infectio\w+",
    "Atelectasis": r"atelecta\w+",
    "Pneumothorax": r"pneumothora(?:x|ces)",
    "Pleural Effusion": r"effusions?|pleural fluid",
    "Pleural Other": r"pleural (?:thickening|scar\w*)|pleura|plaques?",
    "Fracture": r"fractur\w+|broken",
    "Support Devices": r"pacemakers?|central lines?|endotracheal tubes?|sternotomy wires|(?:support|medical) devices"
    r"|lines or tubes|catheters?",
}
"""What names each condition. "Cardiomediastinal" names the first alone, as CheXbert has it."""

DENIED = re.compile(r"\b(?:no|not|nothing|without|(?:free|clear) of|negative for|neither|nor|absent|absence)\b")
NORMAL = re.compile(r"\b(?:normal|unremarkable|within normal limits|clear|stable)\b")
UNSURE = re.compile(
    r"\b(?:possibl[ey]|may|might|could|questionable|question of|equivocal|suspected|versus"
    r"|(?:not|cannot be|can not be) (?:excluded|ruled out))\b"
)
NORMAL_MEANS_NEGATIVE = {"Enlarged Cardiomediastinum", "Cardiomegaly"}
ABNORMAL = re.compile(r"\b(?:enlarged|enlargement|wide|widen\w+|broad\w*|increased|cardiomegaly)\b")
SIDE_WORDS = {LEFT: r"left", RIGHT: r"right", BOTH: r"bilateral(?:ly)?|both"}
SIZE_WORDS = {
    SMALL: r"mild(?:ly)?|small|tiny|trace|minimal|slight|minor|subtle",
    MODERATE: r"moderate(?:ly)?",
    LARGE: r"severe(?:ly)?|large",
}
POSITION_WORDS = {POSITIVE: r"malposition\w*", NEGATIVE: r"(?:satisfactory|good) position"}
_SIDES, _SIZES, _POSITIONS = (
    {value: re.compile(rf"\b(?:{pattern})\b") for value, pattern in words.items()}
    for words in (SIDE_WORDS, SIZE_WORDS, POSITION_WORDS)
)
_KEYWORDS = {name: re.compile(rf"\b(?:{pattern})\b") for name, pattern in KEYWORDS.items()}
_SENTENCE = re.compile(r"[.;\n]+|\bbut\b")
_PRIORITY = {BLANK: 0, NEGATIVE: 1, UNCERTAIN: 2, POSITIVE: 3}


def read_labels(reports: list[str]) -> Tensor:
    """B reports -> class ids (B, 14). Of several mentions positive outranks uncertain, and that negative."""
    return torch.tensor([_read(report) for report in reports], dtype=torch.long).reshape(-1, 14)


def _read(report: str) -> list[int]:
    labels = [BLANK] * 14
    for sentence in _SENTENCE.split(report.lower()):
        for i, name in enumerate(CONDITIONS[:13]):
            if _KEYWORDS[name].search(sentence):
                label = _class_of(name, sentence)
                if _PRIORITY[label] > _PRIORITY[labels[i]]:
                    labels[i] = label
    ill = any(label in (POSITIVE, UNCERTAIN) for label in labels[:12])
    labels[13] = POSITIVE if report.strip() and not ill else BLANK
    return labels


def read_attributes(reports: list[str]) -> Attributes:
    """B reports -> side (B, 13), size (B, 13) and malposition (B,) of what they state or doubt."""
    return Attributes.of([_read_attributes(report) for report in reports])


def _read_attributes(report: str) -> Said:
    """A sentence's sides and sizes belong to every condition that it states or doubts."""
    side, size, malposition = [0] * 13, [0] * 13, BLANK
    for sentence in _SENTENCE.split(report.lower()):
        sides = [value for value, words in _SIDES.items() if words.search(sentence)]
        sizes = [value for value, words in _SIZES.items() if words.search(sentence)]
        for i, name in enumerate(CONDITIONS[:13]):
            if _KEYWORDS[name].search(sentence) and _class_of(name, sentence) in (POSITIVE, UNCERTAIN):
                for value in sides:
                    side[i] |= value
                size[i] = max([size[i], *sizes])
                if name == "Support Devices":
                    placed = [value for value, words in _POSITIONS.items() if words.search(sentence)]
                    malposition = join_malposition(malposition, min(placed, default=BLANK))
    return tuple(side), tuple(size), malposition


def _class_of(name: str, sentence: str) -> int:
    if UNSURE.search(sentence):
        return UNCERTAIN
    if name in NORMAL_MEANS_NEGATIVE and NORMAL.search(sentence):
        return NEGATIVE
    if DENIED.search(sentence):
        return NEGATIVE
    if name in NORMAL_MEANS_NEGATIVE and not ABNORMAL.search(sentence):
        return BLANK
    return POSITIVE
