"""The sections of a report, by name, and the little cleaning that a report gets.

Deliberate choices:
1. Cleaning is what CheXbert itself does, and nothing more: white space collapses to single spaces. Lower-casing or
   cutting references changes a score and belongs to a named mode of the metrics.
2. De-identified tokens (XXXX in IU X-Ray, ___ in MIMIC-CXR) are kept unless the caller drops them by name. A dropped
   token goes with the word it is part of ("x-XXXX", "XXXX-year-old"), and punctuation left alone is tidied.
3. A section is what stands between its header and the next one. Headers are lines that begin with capitals and a colon,
   with white space behind it ("AT 10:30 ON ROUNDS." is none); `headers.py` says which section each opens.
   A combined header ("FINDINGS AND IMPRESSION:") answers for either name, and once if both are asked for. What stands
   under the name of an examination ("CHEST, TWO VIEWS:") is the findings where no section is called so; of several the
   last that is not empty, as in the published parser.
4. What was known before a study was read ends at the first blank line behind its first paragraph, too: many reports of
   MIMIC-CXR have their findings in a paragraph without a header below the indication, and findings are the answer.
5. The hand-made corrections of the MIMIC-CXR authors' own parser, a list of single studies, are not reproduced.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from mrg_grpo.data.headers import COMBINED, EXAMINATION, SUB_HEADING, context_of, section_of
from mrg_grpo.errors import UserError

SECTIONS = ("findings", "impression")
# A time of day may stand in a header; behind the colon of a header no digit does.
HEADER_LINE = re.compile(
    r"^[ \t]*([A-Z](?:[A-Z0-9_ ()/,&.-]|(?<=\d):(?=\d\d)){1,70}?|(?:Findings?|Impressions?|Conclusions?))[ \t]*:(?!\d)",
    re.MULTILINE,
)
ODD = re.compile(r"[0-9_]")

BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
WORD = re.compile(r"[\w/'-]+")
STRANDED = re.compile(r"[.,;:](?:\s+[.,;:])+")
EMPTY_BRACKETS = re.compile(r"\(\s*\)")
SPACE_BEFORE = re.compile(r"\s+([.,;:!?)])")


def checked_sections(sections: Sequence[str]) -> tuple[str, ...]:
    """The section names as a tuple; UserError unless each is known and none is named twice."""
    names = (sections,) if isinstance(sections, str) else tuple(sections)
    if not names or len(set(names)) != len(names) or any(name not in SECTIONS for name in names):
        raise UserError(f'data.sections is {list(names)!r}; name one or both of "findings" and "impression", each once')
    return names


def clean(text: str, keep_xxxx: bool = True) -> str:
    """White space collapsed; with `keep_xxxx=False` de-identified words are gone too."""
    text = " ".join(text.split())
    if keep_xxxx or not ("XXXX" in text or "___" in text):
        return text
    text = WORD.sub(lambda word: " " if "XXXX" in word.group() or "___" in word.group() else word.group(), text)
    # "Clear. XXXX. Stable" leaves ". ." behind: keep the mark that ends the sentence, if there is one
    text = STRANDED.sub(lambda run: "." if "." in run.group() else run.group()[0], " ".join(text.split()))
    text = SPACE_BEFORE.sub(r"\1", EMPTY_BRACKETS.sub(" ", text)).lstrip(" .,;:")
    return " ".join(text.split())


def joined(texts: Mapping[str, str], sections: Sequence[str], keep_xxxx: bool = True) -> str:
    """The named sections in the order named, cleaned and joined by a space; absent ones add nothing."""
    # a combined section answers for either name; as a key of its own it is said once
    keys = dict.fromkeys(name if texts.get(name) else COMBINED for name in sections)
    parts = [part for part in (clean(texts.get(key, ""), keep_xxxx) for key in keys) if part]
    return " ".join(parts)


def parse_report(text: str) -> dict[str, str]:
    """The findings and impression of a report with header lines, as MIMIC-CXR's text files have them.

    Keys are "findings", "impression" or "findings and impression"; a section that comes twice (an addendum) is joined.
    """
    found: dict[str, str] = {}
    opened = [header for header in headers(text) if header[0] != SUB_HEADING]
    for (section, _, end), (_, following, _) in zip(opened, [*opened[1:], (None, len(text), 0)]):
        body = " ".join(text[end:following].split()) if section else ""
        if section and body:
            found[section] = f"{found[section]} {body}" if section in found and section != EXAMINATION else body
    under_examination = found.pop(EXAMINATION, None)
    if under_examination and not (found.get("findings") or found.get(COMBINED)):
        found["findings"] = under_examination
    return found


def parse_context(text: str) -> dict[str, str]:
    """The indication, history and comparison of a report with header lines: of each the first that is not empty."""
    found: dict[str, str] = {}
    opened = list(headers(text))
    ends = [start for _, start, _ in opened[1:]] + [len(text)]
    for (_, start, begin), end in zip(opened, ends):
        field = context_of(text[start:begin].strip().rstrip(":"))
        body = BLANK_LINE.split(text[begin:end].strip(), maxsplit=1)[0]
        if field and body:
            found.setdefault(field, body)
    return found


def headers(text: str) -> Iterator[tuple[str | None, int, int]]:
    """Of each header of a report: its section (see `section_of`), where it begins, and where its text begins.

    A line that is odd for a header (a digit, a blank of de-identification, no white space behind the colon) is one
    only where the rule knows it: otherwise it is a line of the text.
    """
    for match in HEADER_LINE.finditer(text):
        section = section_of(match.group(1))
        glued = match.end() < len(text) and not text[match.end()].isspace()
        if section not in (None, SUB_HEADING) or not (glued or ODD.search(match.group(1))):
            yield section, match.start(), match.end()


def header_names(text: str) -> list[str]:
    """The headers of a report as they stand there, white space collapsed, without digits and blanks."""
    names = (text[start:end].strip().rstrip(":") for _, start, end in headers(text))
    return [" ".join(re.sub(r"[0-9_:]+", " ", name).split()) for name in names]
