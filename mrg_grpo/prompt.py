"""What the policy is asked and how its answer is read: question, answer template, parser.

One file, so that the tags of the prompt and the tags of the parser cannot drift apart.

Deliberate choices (the paper states the tags, nothing else):
* `think` lists, per region, the conditions that the reference mentions with their sign, from its labels.
* The parser is strict about form and lenient about content: a report can be read out of any text, so the clinical
  reward does not silently become a format reward.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Completion:
    """A parsed answer. `report` is what gets labelled; `think` is "" where there is none."""

    think: str
    report: str
    compliant: bool


def question(text: str = "", think: bool = True) -> str:
    """The user's turn: the configured text, or ours, and the form of the answer."""
    return (text or QUESTION) + (THINK_FORM if think else REPORT_FORM)


def parse_completion(text: str, think: bool = True) -> Completion:
    """Read a completion.

    compliant: white space, one <think> block, white space, one <report> block, white space, both non-empty, nothing
    else (think=False: the <report> block alone). Not compliant: report is the text of the first closed or unclosed
    <report> block if there is one, else the whole text without think blocks and tags.
    """
    whole = (_THINK_REPORT if think else _REPORT_ONLY).fullmatch(text)
    if whole and all(part.strip() for part in whole.groups()):
        *before, report = (part.strip() for part in whole.groups())
        return Completion(before[0] if before else "", report, True)
    thought, rest = _first_thought(text)
    opened = _FIRST_REPORT.search(text)
    report = opened.group(1) if opened else rest
    return Completion(_ANY_TAG.sub(" ", thought).strip(), _ANY_TAG.sub(" ", report).strip(), False)


def without_form(completion: Completion) -> Completion:
    """The same, not compliant: it holds tokens that its text does not show."""
    return replace(completion, compliant=False)


def has_tags(text: str) -> bool:
    """Whether it is, or holds a piece of, a completion in this form."""
    return _ANY_TAG.search(text) is not None


def _first_thought(text: str) -> tuple[str, str]:
    """The first closed think block, and the text with a space in place of each of them.

    What re.sub(r"<think>.*?</think>", " ", text) does, but in time linear in the text: a policy that repeats "<think>"
    without end must not be able to hold up its own reward.
    """
    first, rest, at = "", [], 0
    while (start := text.find("<think>", at)) >= 0 and (end := text.find("</think>", start)) >= 0:
        end += len("</think>")
        first = first or text[start:end]
        rest += [text[at:start], " "]
        at = end
    return first, "".join([*rest, text[at:]])


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
