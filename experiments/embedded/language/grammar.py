"""A small text grammar: `[a|b|]` picks one alternative (an empty one too), `{name}` expands a slot. Both nest."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from mrg_grpo.labels import NEGATIVE, POSITIVE, UNCERTAIN

SHORT = ("ECM", "CM", "LO", "LL", "ED", "CO", "PN", "AT", "PX", "PE", "PO", "FX", "SD")
"""Short names of the 13 conditions, in CheXbert's order."""

CLASS_OF_SIGN = {"+": POSITIVE, "-": NEGATIVE, "?": UNCERTAIN}
SPACES = re.compile(r"\s+([,.;:])|\s+")

Node = str | tuple  # a literal, ("slot", name), ("seq", nodes) or ("pick", nodes)


@dataclass(frozen=True)
class Mark:
    """Characters [start, end) of a text that say a "side", a "size" or a "malposition" of conditions."""

    start: int
    end: int
    kind: str
    value: int
    conditions: tuple[int, ...]

    def moved(self, by: int) -> "Mark":
        """The same in a text that begins `by` characters earlier."""
        return replace(self, start=self.start + by, end=self.end + by)


@dataclass(frozen=True)
class Statement:
    """One clause and what it says.

    `labels` are 13 class ids; `abnormal` is true where it names a finding outside the 13, which blanks No Finding;
    `marks` are the words that say sides and sizes.
    """

    text: str
    labels: tuple[int, ...]
    abnormal: bool = False
    marks: tuple[Mark, ...] = ()


def parse_labels(code: str) -> tuple[tuple[int, ...], bool]:
    """ "LO+ AT? !" -> 13 class ids, and whether `!` marks an abnormality outside them."""
    labels = [0] * 13
    for word in code.replace("!", " ").split():
        labels[SHORT.index(word[:-1])] = CLASS_OF_SIGN[word[-1]]
    return tuple(labels), "!" in code


def expand(template: str, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """Template -> one text, white space tidied."""
    text = _write(_parse(template), slots, rng)
    return SPACES.sub(lambda match: match.group(1) or " ", text).strip()


def _write(node: Node, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    if isinstance(node, str):
        return node
    kind, value = node
    if kind == "slot":
        return _write(_parse(rng.choice(slots[value])), slots, rng)
    if kind == "pick":
        return _write(rng.choice(value), slots, rng)
    return "".join(_write(part, slots, rng) for part in value)


@cache
def _parse(template: str) -> Node:
    node, end = _sequence(template, 0)
    if end != len(template):
        raise ValueError(f"unbalanced bracket at {end} of template {template!r}")
    return node


def _sequence(text: str, at: int) -> tuple[Node, int]:
    """Parse from `at` to the end, or to an unmatched `|` or `]`."""
    parts: list[Node] = []
    while at < len(text) and text[at] not in "|]":
        if text[at] == "[":
            choices, at = [], at + 1
            while True:
                node, at = _sequence(text, at)
                choices.append(node)
                if at >= len(text):
                    raise ValueError(f"unclosed [ in template {text!r}")
                at += 1
                if text[at - 1] == "]":
                    break
            parts.append(("pick", tuple(choices)))
        elif text[at] == "{":
            end = text.index("}", at)
            parts.append(("slot", text[at + 1 : end]))
            at = end + 1
        else:
            start = at
            while at < len(text) and text[at] not in "[]{|":
                at += 1
            parts.append(text[start:at])
    return (parts[0] if len(parts) == 1 else ("seq", tuple(parts))), at
