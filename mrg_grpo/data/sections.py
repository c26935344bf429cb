"""The sections of a report, by name, and the little cleaning that a report gets.

Deliberate choices:
1. Cleaning is what CheXbert itself does, and nothing more: white space collapses to single spaces. Lower-casing or
   cutting references changes a score and belongs to a named mode of the metrics.
2. De-identified tokens (XXXX in IU X-Ray, ___ in MIMIC-CXR) are kept unless the caller drops them by name. A dropped
   token goes with the word it is part of ("x-XXXX", "XXXX-year-old"), and punctuation left alone is tidied.
3. A section is what stands between its header and the next one. Headers are lines that begin with capitals and a colon.
   A combined header ("FINDINGS AND IMPRESSION:") answers for either name, and once if both are asked for.
4. The hand-made corrections of the MIMIC-CXR authors' own parser, a list of single studies, are not reproduced.
"""

import re
from collections.abc import Mapping, Sequence

from mrg_grpo.errors import UserError

SECTIONS = ("findings", "impression")
COMBINED = "findings and impression"

# Header texts of MIMIC-CXR, lower-cased; every other header ends a section and is not read.
HEADERS = {
    "findings": "findings",
    "finding": "findings",
    "chest findings": "findings",
    "impression": "impression",
    "impressions": "impression",
    "impresson": "impression",
    "impession": "impression",
    "conclusion": "impression",
    "conclusions": "impression",
    "findings and impression": COMBINED,
    "findings/impression": COMBINED,
    "findings & impression": COMBINED,
    "impression and findings": COMBINED,
}
HEADER_LINE = re.compile(r"^[ \t]*([A-Z][A-Z0-9 ()/,&.-]{1,60}|(?:Findings?|Impressions?|Conclusions?))[ \t]*:", re.M)

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
    headers = list(HEADER_LINE.finditer(text))
    for header, following in zip(headers, [*headers[1:], None]):
        name = HEADERS.get(" ".join(header.group(1).lower().split()))
        if name is None:
            continue
        body = " ".join(text[header.end() : following.start() if following else len(text)].split())
        if body:
            found[name] = f"{found[name]} {body}" if name in found else body
    return found
