"""Pages that programs write: tables, and sections between two markers of a name, `<!-- name -->`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mrg_grpo.files import write_whole


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def escaped(text: str) -> str:
    """Text in which Markdown sees no HTML: `<think>` outside of code is written as a reader should see it."""
    return "".join(part if part[:1] == "`" else part.replace("<", "&lt;") for part in re.split(r"(`[^`]*`)", text))


def marker(name: str) -> str:
    return f"<!-- {name} -->"


def placed(text: str, name: str, section: str) -> str:
    """The page with the section between its two markers, or at the end where it has none yet."""
    mark = marker(name)
    if text.count(mark) != 2:
        text = f"{text.rstrip()}\n\n{mark}\n{mark}\n"
    before, _, after = text.split(mark)
    return mark.join((before, f"\n\n{section.strip()}\n\n", after))


def rewrite(page: Path, sections: Mapping[str, str]) -> None:
    """Put every section in place; the rest of the page stays as it is."""
    text = page.read_text(encoding="utf-8")
    for name, section in sections.items():
        text = placed(text, name, section)
    write_whole(page, text)
