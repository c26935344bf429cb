"""An extension of Griffe, which reads the package for the Python reference: docstrings as Markdown.

Docstrings here are plain text for the eye: names and meanings in aligned columns, lists right below their heading,
`<report>` without quotes. As Markdown these would be one paragraph, or HTML.
"""

import re
from textwrap import indent
from typing import Any

from griffe import Extension, Object

from experiments.docs.sections import escaped

ROW = re.compile(r"(\S+(?: \S+)*) {2,}(\S+(?: \S+)*)")
"""A name, a gap, and what it means."""
ITEM = re.compile(r"(\*|-|\d+\.) ")


class PlainDocstrings(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    return "\n\n".join(paragraph(lines) for lines in re.split(r"\n[ \t]*\n", text))


def paragraph(text: str) -> str:
    """Two aligned columns become a list, any other alignment becomes code, and code stays code."""
    lines = text.split("\n")
    if lines[0].startswith("    "):
        return text
    rows = [ROW.fullmatch(line) for line in lines]
    if rows[0] and all(row or line.startswith("    ") for row, line in zip(rows, lines)):
        return escaped("\n".join(f"* `{row[1]}`: {row[2]}" if row else line for row, line in zip(rows, lines)))
    if re.search(r"\S {3,}\S", text):
        return indent(text, "    ")
    first = next((i for i, line in enumerate(lines) if ITEM.match(line)), 0)
    return escaped("\n".join([*lines[:first], *([""] if first else []), *lines[first:]]))
