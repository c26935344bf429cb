"""Findings with a side and a size in the ways that reports say them, two of them side by side, and where devices lie.

Only the reader of attributes learns from these (train_attributes.py); the labels' own stream stays what it was.
"""
# ruff: noqa: E501 - a template is one line, however long

import random

from experiments.embedded.language.claims import WEIGHTS, fill
from experiments.embedded.language.grammar import SHORT, Statement
from experiments.embedded.language.marks import statement
from experiments.embedded.language.names import NAMES
from mrg_grpo.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

PLACED_SLOTS: dict[str, tuple[str, ...]] = {
    "sz": ("small", "small", "mild", "mild", "minimal", "tiny", "trace", "slight", "subtle", "minor", "moderate", "moderate", "moderate", "moderate-sized", "moderately sized", "mild to moderate", "small to moderate", "small-to-moderate",
           "moderate to large", "moderate to severe", "large", "large", "severe", "severe", "marked", "massive", "extensive", "huge", "mild-to-moderate", "very small", "fairly large", "relatively small", "quite extensive"),
    "szly": ("mildly", "slightly", "minimally", "moderately", "severely", "markedly", "massively", "extensively"),
    "sd": ("left", "right", "left", "right", "bilateral", "left-sided", "right-sided", "left sided", "right sided", "left basilar", "right basilar", "bibasilar", "left lower lobe", "right upper lobe", "left upper lobe", "right lower lobe",
           "right middle lobe", "lingular", "left apical", "right apical", "biapical", "left basal", "right perihilar", "left retrocardiac", "bilateral lower lobe", "left lateral", "right posterior"),
    "at": ("on the left", "on the right", "on the left side", "on the right side", "bilaterally", "at the left base", "at the right base", "at both bases", "in both bases", "at the lung bases", "in the left lower lobe", "in the right upper lobe",
           "in the left lung", "in the right lung", "in both lungs", "in the right middle lobe", "in the lingula", "in the left hemithorax", "in the right hemithorax", "at the left apex", "at the right apex", "at the apices", "in the bases",
           "within the left mid lung", "in the right lower lung zone", "in the left upper lung", "in the lower lobes", "on both sides", "in the {lr} lung base", "over the {lr} lower lung", "along the {lr} chest wall", "in the upper lobes", "at the {lr} costophrenic angle"),
    "also": (" and ", " with ", ", ", "; ", ". ", " and also ", " as well as ", ", and ", " along with ", ". there is also "),
    "opening": ("", "", "", "there is ", "there are ", "there is a ", "a ", "again seen is ", "interval development of ", "stable ", "persistent ", "unchanged "),
}  # fmt: skip

ONE = (
    "{sz} {sd} {x}", "{sz} {sd} {x}", "{sd} {x}", "{sd} {x}, {sz}", "{sz} {x} {at}", "{sz} {x} {at}", "{x} {at}", "{x} {at}, {sz}", "{x} {at} [is|are] {sz}", "{sd} {x} [is|are] {sz}{chg}", "{sz} {x}", "{x}, {sz} in [degree|size|extent]",
    "{sd} {sz} {x}", "{sz} [amount|degree] of {x} {at}", "{sz} [amount|degree] of {sd} {x}", "{x} [is|are] [seen|noted|present|identified] {at}", "{sz} {x} [is|are] [seen|noted|present|again seen] {at}", "the {lr} [lung|hemithorax|base|apex] [shows|demonstrates|contains] [a |]{sz} {x}",
    "the {x} {at} [has|have] [increased|decreased|improved|progressed] and [is|are] now {sz}", "{sz} {x} [is|are] [larger|greater|more pronounced|worse] on the [left|right]", "{x}, [left [greater|more|larger|worse] than right|right [greater|more|larger|worse] than left]",
    "bilateral {x}, {sz} on the [left|right]", "{szly} [increased|prominent|worsened] {sd} {x}", "{x} {at} [has|have] [slightly|markedly] [improved|worsened|decreased]", "[known|chronic|stable|old] {sd} {x}{chg}", "{x} of the {lr} [lung|side|chest|hemithorax], {sz}", "[left and right|right and left] {x}",
)  # fmt: skip
DOUBTS = ("possible ", "{hedgepre}", "there may be [a |]", "cannot exclude [a |]", "questionable ", "suspected ")

DEVICES = (
    "[right|left|] {dev} {tip} in [the right mainstem bronchus|the right main stem bronchus|the esophagus|the distal esophagus]", "{dev} is [malpositioned|misplaced|mispositioned|kinked|coiled in the neck|coiled in the pharynx|dislodged|too high|too low|in malposition]",
    "[malpositioned|misplaced|kinked|dislodged] [left |right |]{dev}", "{dev} tip [is too high|is too low|is too deep|lies outside the stomach|is coiled in the esophagus|courses into the neck|extends into the azygos vein]", "malposition of the [left |right |]{dev}",
    "{dev} [should be|needs to be|must be] [withdrawn|advanced|retracted|repositioned|slightly withdrawn] [by 2 cm|by 3 cm|for better positioning|]", "recommend [withdrawal|advancement|repositioning|retraction] of the [left |right |]{dev}",
    "[right |left |]{dev} [is |]in [good|satisfactory|standard|appropriate|proper|correct|adequate|expected|acceptable] position", "[right |left |]{dev} [is|are|appears] [well positioned|appropriately positioned|satisfactorily positioned|adequately positioned]", "{dev}, in satisfactory position", "{dev} in [unchanged|stable] and [good|satisfactory|standard] position",
    "[right |left |left-sided |right-sided |{lr} chest |]{dev}{tip}", "[right |left |]{dev} and [right |left |]{dev}{tip}", "{dev} on the {lr}", "{lr} {dev} [is|are] [seen|noted|in place]",
)  # fmt: skip


def sided(slots: dict, rng: random.Random) -> Statement:
    """One condition with its side and size, or two with their own, one of which may be denied."""
    slots = slots | PLACED_SLOTS
    count = rng.choices((1, 2, 3), (5, 4, 1))[0]
    names: list[str] = []
    while len(names) < count:
        name = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
        if name not in names:
            names.append(name)
    labels, parts = dict.fromkeys(SHORT, BLANK), []
    for name in names:
        label = rng.choices((POSITIVE, UNCERTAIN, NEGATIVE), (70, 15, 15 if count > 1 else 0))[0]
        labels[name] = label
        parts.append(one(name, label, slots, rng))
    text = parts[0]
    for part in parts[1:]:
        text += rng.choice(slots["also"]) + part
    return statement(" ".join(text.split()), tuple(labels[name] for name in SHORT))


def one(name: str, label: int, slots: dict, rng: random.Random) -> str:
    """One condition in its own scope."""
    noun = rng.choice(NAMES[name]).removeprefix("*")
    if label == NEGATIVE:
        frame = rng.choice(("no {x}", "no {sd} {x}", "no {sz} {x}", "no {x} {at}", "without {x}", "no {sz} {sd} {x}"))
    else:
        frame = rng.choice(DOUBTS if label == UNCERTAIN else ("{opening}",)) + rng.choice(ONE)
    owner = "" if label == NEGATIVE else name
    return f"<{owner}:{fill(frame.replace('{x}', noun), slots, rng)}>"


def device(slots: dict, rng: random.Random) -> Statement:
    """Devices and where they lie."""
    text = fill(rng.choice(DEVICES), slots | PLACED_SLOTS, rng)
    return statement(text, tuple(POSITIVE if name == "SD" else BLANK for name in SHORT))
