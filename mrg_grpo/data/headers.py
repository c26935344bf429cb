"""Which section a header of a MIMIC-CXR report opens: a rule over the words of the header.

Deliberate choices:
1. The published parser of the data set's own repository (MIT-LCP/mimic-cxr, txt/section_parser.py) is the measure, by
   what it does; tests hold a list of its headers against this rule. Findings often stand under the name of the
   examination ("CHEST, TWO VIEWS:", "PORTABLE AP CHEST:").
2. A word one slip away (a letter lost, doubled, wrong, or two changed about) from findings, impression or conclusion is
   that word.
3. Where the published parser is plainly wrong the rule is not: a header of a history, a comparison or a telephone call
   is none of findings, though it names the chest ("INDICATION FOR CHEST FILM:", "COMMUNICATION OF CRITICAL FINDINGS:").
"""

import re
from functools import lru_cache

COMBINED = "findings and impression"
EXAMINATION = "examination findings"
"""What stands under the name of an examination: findings, where no section has that name itself."""
SUB_HEADING = "sub-heading"
"""A part of the body inside a section ("LUNGS:"): the section goes on."""

FINDINGS = ("findings",)
IMPRESSION = ("impression", "conclusion")
NEVER = frozenset(
    (
        *(
            "notification",
            "communication",
            "communicated",
            "discussion",
            "discussed",
            "notified",
            "called",
            "telephone",
        ),
        *("recommendation", "recommendations"),
    )
)
"""Words of headers that open neither, though the header speaks of findings."""
NO_EXAMINATION = frozenset(
    (
        *("indication", "indications", "history", "comparison", "comparisons", "comparisions", "technique", "reason"),
        *("clinical", "type", "procedure", "procedures", "addendum", "date", "reference", "prior", "previous", "tube"),
        *("tubes", "drain", "drains", "pain", "wall", "question", "diagnosis", "number", "information", "symptoms"),
    )
)
"""Words of headers that name an examination and are about something else."""
SURE = frozenset(("chest", "portable", "ribs", "rib", "cxr", "babygram"))
"""Each of them alone names the examination that the text below is of."""
PARTS = frozenset(
    (
        *("pa", "ap", "lateral", "lat", "frontal", "oblique", "decubitus", "lordotic", "view", "views", "upright"),
        *(
            "semi",
            "supine",
            "erect",
            "radiograph",
            "radiographs",
            "film",
            "films",
            "xray",
            "ray",
            "one",
            "two",
            "three",
        ),
        *("four", "single", "bone", "window", "windows"),
    )
)
"""Two of them name it together, if one is a direction, a count of views or a window."""
DIRECTIONS = frozenset(("pa", "ap", "lateral", "frontal", "view", "views", "window", "windows"))
BODY = frozenset(
    (
        *(
            "lung",
            "lungs",
            "pleura",
            "pleural",
            "space",
            "spaces",
            "heart",
            "cardiac",
            "cardiomediastinal",
            "silhouette",
        ),
        *(
            "mediastinum",
            "mediastinal",
            "hila",
            "hilum",
            "hilar",
            "contours",
            "bone",
            "bones",
            "osseous",
            "bony",
            "soft",
        ),
        *("structures", "tissues", "tissue", "upper", "abdomen", "lines", "tubes", "devices", "support", "catheters"),
        *("airways", "airway", "trachea", "diaphragm", "vasculature", "vessels", "pulmonary", "parenchyma", "skeleton"),
        *("lower", "wall", "aorta", "and", "or", "the", "of"),
    )
)
"""A header of such words alone is a sub-heading."""
NO_SUB_HEADING = frozenset(
    ("abdomen", "pulmonary", "and", "or", "the", "of", "support", "space", "structures", "lines")
)
"""Of these words alone it is none: "ABDOMEN:" may begin another examination."""


@lru_cache(maxsize=100_000)
def section_of(header: str) -> str | None:
    """What a header opens: findings, impression, COMBINED, EXAMINATION, SUB_HEADING, or None for another section."""
    words = re.findall(r"[a-z]+", header.lower())
    known = set(words)
    if known & NEVER:
        return None
    findings = any(_slip(word, name) for word in words for name in FINDINGS)
    impression = any(_slip(word, name) for word in words for name in IMPRESSION)
    if findings or impression:
        return COMBINED if findings and impression else "findings" if findings else "impression"
    parts = known - {"chest"} if "wall" in known else known
    if known and parts <= BODY and not parts <= NO_SUB_HEADING:
        return SUB_HEADING
    if known & NO_EXAMINATION:
        return None
    pair = len(known & PARTS) >= 2 and bool(known & DIRECTIONS)
    return EXAMINATION if known & SURE or pair else None


@lru_cache(maxsize=100_000)
def context_of(header: str) -> str | None:
    """What a header says was known before the study was read: indication, history, comparison, or None."""
    if section_of(header) in (COMBINED, EXAMINATION, SUB_HEADING, *FINDINGS, IMPRESSION[0]):
        return None
    words = re.findall(r"[a-z]+", header.lower())
    known = set(words)
    if known & NEVER:
        return None
    for name in ("indication", "comparison", "history"):
        if any(_slip(word, name) for word in words):
            return name
    if "reason" in known:
        return "indication"
    return "history" if "clinical" in known and known & {"information", "data", "statement"} else None


def _slip(word: str, name: str) -> bool:
    """Whether a word is the name or its plural, or at most one slip away from the name."""
    if word in (name, f"{name}s", name.removesuffix("s")):
        return True
    if abs(len(word) - len(name)) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(word, name)) if a != b), min(len(word), len(name)))
    mine, its = word[at:], name[at:]
    one = mine[1:] == its[1:] or mine[1:] == its or mine == its[1:]  # a letter wrong, too much, or lost
    return one or (mine[2:] == its[2:] and mine[:2] == its[1::-1])
