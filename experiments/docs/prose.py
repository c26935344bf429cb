"""A linter for the prose of README and docs, part of `make lint`: python -m experiments.docs.prose [FILE ...]

It runs proselint's checks of English, and looks for WORDS, which are clear to those who wrote this project and to no
one else. Code and addresses are not read, and tables for WORDS alone, since their cells are not sentences.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from proselint.checks import __register__ as checks
from proselint.config import DEFAULT, Config
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("*.md", "docs/**/*.md", ".github/**/*.md")
OFF = ("typography", "dates_times")
"""Groups of proselint's checks that are wrong here: quotes are straight, and numbers in a row are no dates."""
CHECKS = Config(max_errors=1000, checks={**DEFAULT["checks"], **dict.fromkeys(OFF, False)})
CheckRegistry().register_many(checks)

WORDS = {
    r"asked(?::| for\b)": "say what the target is, or leave it out",
    r"not reached": "say by how much the target is missed, or leave it out",
    r"hangs? (?:on|upon|from)|hang together": "depends on",
    r"commit `?[0-9a-f]{7,40}": "leave commit hashes to git",
    r"busy machines?|busy cores?": "leave it out, or repeat the measurement on an idle machine",
    r"this page (?:once|said|used to)": "say what is true now",
    r"(?:an|the|in) earlier versions?": "put history into docs/log.md or CHANGELOG.md",
    r"drawn weights?": "random weights",
    r"of ours": "our, or name it",
    r"nobody|no-one": "no one, or say who",
    r"(?:may|can|could|to) be had": "is available",
    r"not shown": "not significant",
    r"as much as pairs": "give the standard deviation or the interval",
    r"anew": "again",
    r"mend(?:s|ed|ing)?": "fix",
    r"wished": "wanted, requested",
}
"""Pattern -> what to write instead."""

CODE = re.compile(
    r"^(?P<fence> *```).*?^(?P=fence)[^\n]*$"  # fenced code
    r"|<!--.*?-->"
    r"|^ {4,}\S[^\n]*$"  # indented code
    r"|^:::[^\n]*$"
    r"|`[^`\n]+`"
    r"|(?<=\])\([^)\s]*\)"  # addresses of links
    r"|https?://\S+",
    re.MULTILINE | re.DOTALL,
)
TABLE = re.compile(r"^\|[^\n]*$", re.MULTILINE)
HEADING = re.compile(r"^#.*$", re.MULTILINE)


def dotted(text: str, kind: re.Pattern) -> str:
    """The text with dots in place of what is of a kind, so that lines stay lines."""
    return kind.sub(lambda found: re.sub(r"\S", ".", found[0]), text)


def findings(markdown: str) -> list[tuple[int, str]]:
    """Lines and what is wrong there, in order."""
    text = dotted(markdown, CODE)
    found = [
        (text.count("\n", 0, match.start()) + 1, f'"{match[0]}": {instead}')
        for pattern, instead in WORDS.items()
        for match in re.finditer(rf"\b(?:{pattern})(?!\w)", text, re.IGNORECASE)
    ]
    sentences = HEADING.sub(r"\g<0>.", dotted(text, TABLE))
    for result in LintFile("page", sentences or " ").lint(CHECKS):
        words = " ".join(result.check_result.message.split())
        found.append((result.pos[0], f"{words} ({result.check_result.check_path})"))
    return sorted(found)


def pages(root: Path) -> list[Path]:
    """Every page of the repository that people write or read."""
    return sorted({page for pattern in PAGES for page in root.glob(pattern)})


def main(files: list[str]) -> int:
    count = 0
    for page in [Path(file) for file in files] or pages(ROOT):
        for line, words in findings(page.read_text(encoding="utf-8")):
            print(f"{page.relative_to(ROOT) if page.is_relative_to(ROOT) else page}:{line}: {words}")
            count += 1
    if count:
        print(f"{count} findings; experiments/docs/prose.py has the word list")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
