"""What the policy is asked and how its answer is read: question, answer template, parser.

One file, so that the tags of the prompt and the tags of the parser cannot drift apart.

Deliberate choices (the paper states the tags, nothing else):
* `think` lists, per region, the conditions that the reference mentions with their sign, from its labels.
* The parser is strict about form and lenient about content: a report can be read out of any text, so the clinical
  reward does not silently become a format reward. What a model thought is no report, though, whatever marks it set.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, UNCERTAIN

QUESTION = "Write the findings of this chest X-ray study."
THINK_FORM = " First list what you see inside <think></think>, then write the report inside <report></report>."
REPORT_FORM = " Write the report inside <report></report>."

REGIONS = {
    "lungs": ("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis"),
    "pleura": ("Pneumothorax", "Pleural Effusion", "Pleural Other"),
    "heart": ("Enlarged Cardiomediastinum", "Cardiomegaly"),
    "bones": ("Fracture",),
    "devices": ("Support Devices",),
}
"""The regions of the think block, in reading order."""

_TAG = r"</?(?:think|report)>"
_INNER = rf"(?:(?!{_TAG}).)*?"
_THINK_REPORT = re.compile(rf"\s*<think>({_INNER})</think>\s*<report>({_INNER})</report>\s*", re.DOTALL)
_REPORT_ONLY = re.compile(rf"\s*<report>({_INNER})</report>\s*", re.DOTALL)
_FIRST_REPORT = re.compile(r"<report>(.*?)(?:</report>|\Z)", re.DOTALL)
_ANY_TAG = re.compile(_TAG)

_NAMES = "think|thinking|thoughts?|reasoning|reason|analysis|reflection|scratchpad|seed:think"
_OPENED = rf"<(?:{_NAMES})>|\[think\]|◁think▷|<\|begin_of_thought\|>|<\|start_thinking\|>|<unused94>"
_OPENED = rf"{_OPENED}|<\|channel\|>\s*(?:analysis|commentary)"
_CLOSED = rf"</(?:{_NAMES})>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<\|end_thinking\|>|<unused95>"
_CLOSED = rf"{_CLOSED}|<\|channel\|>\s*final|assistantfinal"
_WRAPPER = r"</?answer>|<\|(?:begin|end)_of_(?:box|solution)\|>|<\|(?:start|end)_response\|>"
_WRAPPER = rf"{_WRAPPER}|<\|(?:start|end|message|return)\|>"
_MARKER = re.compile(rf"(?P<open>{_OPENED})|(?P<close>{_CLOSED})|(?P<wrapper>{_WRAPPER})", re.IGNORECASE)
"""Marks that reasoning models set around their thoughts, whatever their family, and around what they answer."""


@dataclass(frozen=True)
class Completion:
    """A parsed answer. `report` is what gets labelled; `think` is "" where there is none."""

    think: str
    report: str
    compliant: bool


def question(text: str = "", think: bool = True) -> str:
    """The user's turn: the configured text, or ours, and the form of the answer."""
    return (text or QUESTION) + (THINK_FORM if think else REPORT_FORM)


NAMES = {
    "age": "Age",
    "sex": "Gender",
    "indication": "Indication",
    "history": "History",
    "comparison": "Comparison",
    "prior_report": "Prior report",
}
"""What each piece of context is called in the question; the first words and these names are ReXrank's."""


def context_line(known: Mapping[str, Any], asked: Collection[str], images: int = 0) -> str:
    """What stands in front of the question: "Context: Age: 67. Gender: F. Indication: cough.", "" where nothing asked
    for is known. known: by the names of NAMES, and prior_images, which stand behind the `images` of the study."""
    parts = [
        f"{said}: {text if text.endswith(('.', '?', '!')) else f'{text}.'}"
        for name, said in NAMES.items()
        if name in asked and (text := str(known.get(name, "")).strip())
    ]
    prior = len(known.get("prior_images", ())) if "prior_images" in asked else 0
    if prior:
        last = "the last is" if prior == 1 else f"the last {prior} are"
        parts.append(f"Prior study: of the {images + prior} images {last} from it.")
    return f"Context: {' '.join(parts)}\n" if parts else ""


def parse_completion(text: str, think: bool = True) -> Completion:
    """Read a completion.

    compliant: white space, one <think> block, white space, one <report> block, white space, both non-empty, nothing
    else (think=False: the <report> block alone). Not compliant: report is the first closed or unclosed <report> block
    behind all thoughts, else the first anywhere, else the whole text without thoughts and tags. A thought ends at its
    closing mark, else with the text; what stands before a closing mark alone is thought too, since the chat templates
    of some reasoning models open it in the prompt. Marks of other families are read in the same way (`foreign_marks`).
    """
    whole = (_THINK_REPORT if think else _REPORT_ONLY).fullmatch(text)
    if whole and all(part.strip() for part in whole.groups()):
        *before, report = (part.strip() for part in whole.groups())
        return Completion(before[0] if before else "", report, True)
    thought, rest = _first_thought(text)
    opened = _FIRST_REPORT.search(rest) or _FIRST_REPORT.search(text)
    report = opened.group(1) if opened else rest
    return Completion(_without_marks(thought), _without_marks(report), False)


def without_form(completion: Completion) -> Completion:
    """The same, not compliant: it holds tokens that its text does not show."""
    return replace(completion, compliant=False)


def has_tags(text: str) -> bool:
    """Whether it is, or holds a piece of, a completion in this form or in that of another reasoning model."""
    return _ANY_TAG.search(text) is not None or _MARKER.search(text) is not None


def foreign_marks(texts: Sequence[str]) -> Counter[str]:
    """Marks of reasoning that are not this project's own tags, with the number of texts that hold each."""
    found: Counter[str] = Counter()
    for text in texts:
        marks = dict.fromkeys(" ".join(match.group().split()) for match in _MARKER.finditer(text))
        found.update(mark for mark in marks if not _ANY_TAG.fullmatch(mark))
    return found


def foreign_note(texts: Sequence[str]) -> str:
    """The line on such marks for the user, "" where there are none."""
    marks = foreign_marks(texts)
    if not marks:
        return ""
    named = ", ".join(f"{mark} {count}" for mark, count in marks.most_common(6))
    return f"marks of another reasoning model in the texts ({named}): what they enclose is thought, not report"


def _without_marks(text: str) -> str:
    """The text without tags and marks of any family."""
    return _MARKER.sub(" ", _ANY_TAG.sub(" ", text)).strip()


def _first_thought(text: str) -> tuple[str, str]:
    """The first thought between this project's own tags, and the text with a space in place of each thought.

    One pass from mark to mark, so in time linear in the text: a policy that repeats "<think>" without end must not be
    able to hold up its own reward.
    """
    first, rest, at = "", [], 0
    opened: re.Match[str] | None = None
    for mark in _MARKER.finditer(text):
        if mark.lastgroup == "open" and opened is None:
            rest.append(text[at : mark.start()])
            opened, at = mark, mark.end()
        elif mark.lastgroup == "close":
            if opened is None:  # nothing opened it here: all before it is thought
                rest.clear()
            if mark.group() == "</think>" and (opened is None or opened.group() == "<think>"):
                first = first or text[opened.end() if opened else 0 : mark.start()].strip()
            rest.append(" ")
            opened, at = None, mark.end()
    if opened is None:
        return first, "".join([*rest, text[at:]])
    own = opened.group() == "<think>"
    return first or (text[opened.end() :] if own else ""), "".join([*rest, " "])


def think_text(labels: Sequence[int]) -> str:
    """14 class ids -> "lungs: edema, no consolidation; pleura: possible pneumothorax", or "nothing" if all blank."""
    by_name = dict(zip(CONDITIONS, labels))
    parts = []
    for region, names in REGIONS.items():
        said = [_mention(name, by_name[name]) for name in names if by_name[name] != BLANK]
        if said:
            parts.append(f"{region}: {', '.join(said)}")
    return "; ".join(parts) or "nothing"


def _mention(name: str, label: int) -> str:
    prefix = {NEGATIVE: "no ", UNCERTAIN: "possible "}.get(label, "")
    return prefix + name.lower()


def target_text(report: str, labels: Sequence[int] | None, think: bool = True) -> str:
    """The answer that the warm start teaches; needs labels where think is on."""
    if not think:
        return f"<report>{report}</report>"
    if labels is None:
        raise ValueError("a think block is written from labels: label the reference first")
    return f"<think>{think_text(labels)}</think><report>{report}</report>"
