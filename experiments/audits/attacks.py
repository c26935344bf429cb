"""Attacks on a reward: what a report would have to say to be paid without, or against, the picture.

Each attack exists twice: on labels (class ids in, class ids out: what a perfect writer read by a perfect labeler would
reach) and on texts (sentences dropped, turned or written; what a labeler then reads is part of the finding).

* BLIND attacks know the training reports and no picture: a policy can learn them as they are.
* The others change the true report: what is lost or gained by one habit, all else being right.
* HARMLESS ones say the same in another way: a sound reward pays them like the true report.

Deliberate choices
* A sentence is a finding where the labeler reads anything positive or uncertain among the 13 conditions in it alone, a
  denial where it reads only negatives. Dropping "no effusion but a nodule" drops both.
* The negation flip takes the negation out and leaves the rest: "No pleural effusion" -> "Pleural effusion". "The heart
  is normal" holds no negation and stays. On labels it exists twice: every denial turned, and those alone that the text
  turns, so that the text can be held against what it says.
* What a blind attack writes is one plain sentence per condition ("There is cardiomegaly.").

S studies.
"""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, repeat

import torch
from torch import Tensor

from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN

BLIND = {
    "empty": "the empty report",
    "all_normal": "the most frequent normal training report",
    "five_negatives": "the five conditions most often denied, denied",
    "all_negative": "every condition denied",
    "all_positive": "every condition stated",
    "all_possible": "every condition as possible",
    "another_study": "the report of another study",
}
HARMLESS = {
    "copy": "the true report",
    "shuffled": "its sentences shuffled",
    "paraphrase": "the same findings in other words",
}
CHANGED = {
    "repeated": "the true report, three times over",
    "looped": "the true report, its last sentence said until the limit",
    "filled": "the true report, filled to the limit by sentences without a label",
    "hedged": "every finding hedged",
    "omit_findings": "every finding left out",
    "findings_only": "findings only, denials left out",
    "common_left_out": "the five common denials left out",
    "rare_left_out": "all other denials left out",
    "one_left_out": "its commonest denial left out",
    "one_turned": "its commonest denial turned into a finding",
    "negation_flip": "every denial turned into a finding",
    "negation_turned": 'every denial with a "no" turned into a finding',
}
TITLES = HARMLESS | CHANGED | BLIND

NOUNS = dict(
    zip(
        CONDITIONS[:13],
        ("mediastinal widening", "cardiomegaly", "airspace opacity", "pulmonary nodule", "pulmonary edema",
         "consolidation", "pneumonia", "atelectasis", "pneumothorax", "pleural effusion", "pleural thickening",
         "rib fracture", "central line"),
    )
)  # fmt: skip
FILLER = (
    "The trachea is midline.", "The soft tissues are unremarkable.", "The upper abdomen is unremarkable.",
    "The patient is slightly rotated.", "Two views of the chest were obtained.", "The technique is adequate.",
    "The visualized bowel gas pattern is normal.", "The clavicles are symmetric.", "Both shoulders are included.",
    "The liver shadow is in its usual place.", "The stomach bubble is on the left.", "The study is of good quality.",
    "The lower neck is included in the image.", "The scapulae are projected outside of the lungs.",
    "The inspiration is sufficient.", "The exposure is adequate.", "The ribs are symmetric.",
    "The breast shadows are symmetric.", "The position of the arms is usual.", "The side marker is visible.",
    "The spleen shadow is of usual form.", "The diaphragm has its usual form.", "The spine is straight.",
    "The azygos vein is of usual size.", "The aortic arch is on the left.", "The skin folds are unremarkable.",
    "The vessels of the neck are in their place.", "The bowel below the diaphragm is of usual width.",
)  # fmt: skip
"""Harmless sentences in which neither the embedded labeler nor the generator's reader reads any of the conditions."""
FORMS = {POSITIVE: "There is {}.", NEGATIVE: "No {}.", UNCERTAIN: "Possible {}."}

_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
_DOUBT = re.compile(r"\bnot (?:be )?(?:excluded|ruled out)\b", re.IGNORECASE)
_NEGATIONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), new)
    for pattern, new in (
        (r"\b(there (?:is|are)) (?:no|neither)\b", r"\1"),
        (r"\b(is|are|was|were) (?:not|without)\b", r"\1"),
        (r"\b(?:free|clear) of\b", "showing"),
        (r"\bwithout\b", "with"),
        (r"\bnegative for\b", "positive for"),
        (r"\babsent\b", "present"),
        (r"\babsence of\b", "presence of"),
        (r"\bneither\b\s*", ""),
        (r"\bnor\b", "and"),
        (r"\b(?:no|not)\b\s*", ""),
    )
)


_OTHER_WORDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), new)
    for pattern, new in (
        (r"\bthere (?:is|are) no (?:evidence of )?", "no "),
        (r"\b(?:without|no) evidence (?:of|for) ", "no "),
        (r"\b(?:is|are) (?:seen|identified|noted|demonstrated|visualized)\b", "can be made out"),
        (r"\bwithin normal limits\b", "normal"),
        (r"\bunremarkable\b", "normal"),
        (r"\bheart size\b", "size of the heart"),
        (r"\bcardiomediastinal silhouette\b", "cardiomediastinal contour"),
        (r"\bpleural effusions?\b", "pleural fluid"),
        (r"\bfocal consolidation\b", "focal area of consolidation"),
        (r"\bairspace disease\b", "airspace opacity"),
        (r"\bopacities\b", "opacification"),
        (r"\bcardiomegaly\b", "enlarged heart"),
        (r"\b(?:mild|minimal) ", "slight "),
        (r"\bdegenerative changes\b", "degenerative disease"),
        (r"\bosseous structures\b", "bones"),
        (r"\bbony (?:structures|thorax)\b", "bones of the thorax"),
        (r"\bconsistent with\b", "in keeping with"),
    )
)
"""Common phrases of real reports, and others of the same meaning."""


# ---- labels: class ids (S, 14) -> class ids (S, 14)


def findings(labels: Tensor) -> Tensor:
    """(S, 14) -> (S, 13) bool: positive or uncertain."""
    return (labels[:, :13] == POSITIVE) | (labels[:, :13] == UNCERTAIN)


def omit_findings(labels: Tensor) -> Tensor:
    return _with(labels, labels[:, :13].masked_fill(findings(labels), BLANK))


def findings_only(labels: Tensor) -> Tensor:
    return _with(labels, labels[:, :13].masked_fill(labels[:, :13] == NEGATIVE, BLANK))


def negation_flip(labels: Tensor) -> Tensor:
    return _with(labels, labels[:, :13].masked_fill(labels[:, :13] == NEGATIVE, POSITIVE))


def turned_by_text(labels: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """(S, 13) bool: denials that a reader of the texts saw denied before the negations went, and stated after."""
    return (labels[:, :13] == NEGATIVE) & (before[:, :13] == NEGATIVE) & (after[:, :13] == POSITIVE)


def stated(labels: Tensor, where: Tensor) -> Tensor:
    """Positive where (S, 13) is True."""
    return _with(labels, labels[:, :13].masked_fill(where, POSITIVE))


def left_out(labels: Tensor, where: Tensor) -> Tensor:
    """Blank where (S, 13) is True."""
    return _with(labels, labels[:, :13].masked_fill(where, BLANK))


def denials(labels: Tensor, train: Tensor) -> dict[str, Tensor]:
    """Which denials (S, 13): the five conditions most often denied in training, the others, a report's commonest."""
    denied = labels[:, :13] == NEGATIVE
    common = torch.tensor(most_denied(train)) == NEGATIVE
    counts = (train[:, :13] == NEGATIVE).sum(dim=0)
    first = (denied * (counts + 1)).argmax(dim=1, keepdim=True)
    return {
        "common": denied & common,
        "rare": denied & ~common,
        "one": denied & (torch.arange(13) == first),
    }


def hedged(labels: Tensor) -> Tensor:
    return _with(labels, labels[:, :13].masked_fill(labels[:, :13] == POSITIVE, UNCERTAIN))


def constant(row: Sequence[int], studies: int) -> Tensor:
    """13 class ids -> the same for every study, (S, 14)."""
    return _with(torch.zeros(studies, 14, dtype=torch.long), torch.tensor(row).expand(studies, 13))


def most_denied(labels: Tensor, count: int = 5) -> list[int]:
    """Training labels (R, 14) -> 13 class ids: the `count` most often denied conditions negative, the rest blank."""
    rows = (labels[:, :13] == NEGATIVE).sum(dim=0).topk(count).indices.tolist()
    return [NEGATIVE if i in rows else BLANK for i in range(13)]


def blind_rows(train: Tensor) -> dict[str, list[int]]:
    """Training labels (R, 14) -> the 13 class ids of each blind attack that is one constant list of conditions."""
    everywhere = {"all_negative": NEGATIVE, "all_positive": POSITIVE, "all_possible": UNCERTAIN, "empty": BLANK}
    return {"five_negatives": most_denied(train), **{name: [label] * 13 for name, label in everywhere.items()}}


def _with(labels: Tensor, conditions: Tensor) -> Tensor:
    """13 conditions put into (S, 14); No Finding follows from them: nothing but devices is a finding."""
    changed = labels.clone()
    changed[:, :13] = conditions
    changed[:, 13] = torch.where(findings(changed)[:, :12].any(dim=1), BLANK, POSITIVE)
    return changed


# ---- texts


def sentences(report: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(report.strip()) if sentence]


def without_negation(report: str) -> str:
    """The report with its negations taken out, sentence by sentence, capitals kept at the start."""
    return " ".join(_unnegated(sentence) for sentence in sentences(report))


def _unnegated(sentence: str) -> str:
    if _DOUBT.search(sentence):  # "is not excluded" doubts, it does not deny
        return sentence
    turned = sentence
    for pattern, new in _NEGATIONS:
        turned = pattern.sub(new, turned)
    return turned if turned == sentence else turned[:1].upper() + turned[1:]


def shuffled(report: str, key: str) -> str:
    """The same sentences in an order drawn from `key`."""
    parts = sentences(report)
    random.Random(key).shuffle(parts)
    return " ".join(parts)


def reworded(report: str) -> str:
    """The same findings in other words, by _OTHER_WORDS."""
    return " ".join(_other_words(sentence) for sentence in sentences(report))


def _other_words(sentence: str) -> str:
    turned = sentence
    for pattern, new in _OTHER_WORDS:
        turned = pattern.sub(new, turned)
    return turned[:1].upper() + turned[1:]


def keep_sentences(reports: list[str], labels_of: dict[str, Sequence[int]], kind: str) -> list[str]:
    """Drop sentences by their own labels. kind: "omit_findings" or "findings_only"."""

    def kept(sentence: str) -> bool:
        finding = any(label in (POSITIVE, UNCERTAIN) for label in labels_of[sentence][:13])
        return not finding if kind == "omit_findings" else finding

    return [" ".join(sentence for sentence in sentences(report) if kept(sentence)) for report in reports]


def looped(report: str, size: Callable[[str], int], limit: int) -> str:
    """The report, its last sentence said again until its size reaches the limit."""
    return _until(report, repeat(sentences(report)[-1]), size, limit)


def filled(report: str, size: Callable[[str], int], limit: int) -> str:
    """The report, followed by FILLER until its size reaches the limit."""
    return _until(report, cycle(FILLER), size, limit)


def _until(report: str, more: Iterable[str], size: Callable[[str], int], limit: int) -> str:
    """Whole sentences: the last one may cross the limit."""
    for sentence in more:
        if size(report) >= limit:
            break
        report = f"{report} {sentence}"
    return report


def write_labels(row: Sequence[int]) -> str:
    """13 class ids -> one plain sentence per mentioned condition."""
    return " ".join(FORMS[label].format(NOUNS[name]) for name, label in zip(CONDITIONS, row) if label != BLANK)


def others(count: int, seed: int = 0) -> list[int]:
    """For each of `count` studies the place of another one, drawn evenly."""
    rng = random.Random(seed)
    return [(i + rng.randrange(1, count)) % count for i in range(count)]


def hedged_text(reports: list[str], labels_of: dict[str, Sequence[int]]) -> list[str]:
    """Every sentence that states a finding begins with "Possible"."""

    def hedge(sentence: str) -> str:
        if not any(label == POSITIVE for label in labels_of[sentence][:13]):
            return sentence
        rest = re.sub(r"^there (?:is|are) (?:an? )?", "", sentence, flags=re.IGNORECASE)
        return f"Possible {rest[:1].lower()}{rest[1:]}"

    return [" ".join(hedge(sentence) for sentence in sentences(report)) for report in reports]
