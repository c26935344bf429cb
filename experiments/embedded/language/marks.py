"""Which words of a statement say a side, a size or a malposition, and of which condition: attributes by construction.

A template says whose a word is: within `<PE:small left effusion>` words speak of pleural effusion, within `<:...>` of
nothing; everywhere else of all conditions that the statement states or doubts. Scopes nest, the innermost counts.
Deliberate choices:

* Two names of one thing ("opacity consistent with atelectasis") share all its words; two things that are joined
  ("cardiomegaly and small effusion") have a scope each, and what is said of the whole sentence belongs to both.
* Heart and mediastinum have no side, and a "large heart" is the condition, not its size.
* Places in pairs are both sides: bases, apices, upper or lower lobes. The lingula is left, the middle lobe right.
* Change is no size: "slightly improved", "markedly worse". Faint, focal, diffuse and borderline are none either.
* A place within the heart or the great vessels, where a tube ends, is no side.
"""

import re

from experiments.embedded.language.grammar import SHORT, Mark, Statement
from mrg_grpo.attributes import BOTH, LARGE, LEFT, MODERATE, NOTHING, RIGHT, SMALL, Said, join
from mrg_grpo.labels import NEGATIVE, POSITIVE, UNCERTAIN

SCOPE = re.compile(r"<([A-Z ]*):|>")
NO_SIDE_OF = {"ECM", "CM"}
NOT_HERE = re.compile(
    r"\b(?:left|right) (?:atri\w+|ventric\w+|brachiocephalic|upper quadrant)|\b(?:left|right) (?=main)"
    r"|\b(?:slightly|mildly|moderately|markedly|minimally|severely|massively|significantly)"
    r" (?:worse\w*|improv\w+|better|larger|smaller|more|less|decreas\w+)|\b(?:small|large) bowel"
)
WORDS: tuple[tuple[str, int, re.Pattern[str]], ...] = tuple(
    (kind, value, re.compile(rf"\b(?:{pattern})\b"))
    for kind, value, pattern in (
        ("side", LEFT, r"left|lingular?"),
        ("side", RIGHT, r"right|middle lobe"),
        ("side", BOTH, r"bilateral(?:ly)?|bibasilar|bibasal|biapical|both|either (?:side|lung)|bases|apices"
                       r"|(?:upper|lower) lobes"),
        ("size", SMALL, r"small|mild(?:ly)?|minimal(?:ly)?|tiny|trace|slight(?:ly)?|subtle|minor|minute"),
        ("size", MODERATE, r"moderate(?:ly)?"),
        ("size", LARGE, r"large|severe(?:ly)?|marked(?:ly)?|massive(?:ly)?|extensive(?:ly)?|huge|sizable"),
        ("malposition", POSITIVE, r"malposition\w*|mispositioned|misplaced|dislodged|kinked|coiled"
                                  r"|too (?:high|low|deep|far)"
                                  r"|(?:should|needs to|must) be (?:\w+ )?(?:withdrawn|advanced|retracted|repositioned)"
                                  r"|recommend (?:withdrawal|advancement|repositioning|retraction)"
                                  r"|main ?stem bronchus|in the (?:distal )?esophagus|into the (?:neck|azygos)"
                                  r"|outside the stomach"),
        ("malposition", NEGATIVE, r"(?:good|satisfactory|standard|appropriate|proper|correct|adequate|expected"
                                  r"|acceptable) position|(?:well|appropriately|satisfactorily|adequately) positioned"),
    )
)  # fmt: skip


def statement(written: str, labels: tuple[int, ...], abnormal: bool = False) -> Statement:
    """An expanded template with its scopes, and its 13 class ids -> the statement with its marks."""
    text, owners = _without_scopes(written)
    claimed = {name for name, label in zip(SHORT, labels) if label in (POSITIVE, UNCERTAIN)}
    hidden = NOT_HERE.sub(lambda match: " " * len(match.group()), text)
    marks = []
    for kind, value, pattern in WORDS:
        for match in pattern.finditer(hidden):
            start = text.rfind(" ", 0, match.end()) + 1  # the last word of a phrase carries it
            own = claimed if owners[start] is None else claimed & owners[start]
            conditions = tuple(SHORT.index(name) for name in SHORT if name in own and _takes(name, kind, match.group()))
            if conditions:
                marks.append(Mark(max(start, match.start()), match.end(), kind, value, conditions))
    return Statement(text, labels, abnormal, tuple(marks))


def said_by(marks: tuple[Mark, ...]) -> Said:
    """Marks -> what they say together."""
    said = NOTHING
    for mark in marks:
        row = tuple(mark.value if index in mark.conditions else 0 for index in range(13))
        one = {"side": (row, NOTHING[1], 0), "size": (NOTHING[0], row, 0)}.get(mark.kind, (*NOTHING[:2], mark.value))
        said = join(said, one)
    return said


def _takes(name: str, kind: str, word: str) -> bool:
    """Whether a condition can have such an attribute."""
    if kind == "malposition":
        return name == "SD"
    return name not in NO_SIDE_OF or (kind == "size" and word not in ("large", "huge"))


def _without_scopes(written: str) -> tuple[str, list[set[str] | None]]:
    """The text, and who owns each of its characters: None outside of all scopes."""
    text, owners, stack, at = [], [], [None], 0
    for match in SCOPE.finditer(written):
        part = written[at : match.start()]
        text.append(part)
        owners += [stack[-1]] * len(part)
        at = match.end()
        if match.group() == ">":
            stack.pop()
        else:
            stack.append(set(match.group(1).split()))
    text.append(written[at:])
    return "".join(text), owners + [stack[-1]] * len(written[at:])
