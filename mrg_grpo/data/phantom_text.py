"""Reports of the phantom: what a case mentions, written in varied radiology language.

Every phrase states exactly the labels it is filed under, so `case_labels` needs no reading. Phrases of each condition
and class are split in two: one in five (the last ones of its list) is held out, so that a labeler can be trained on "train"
phrases and tested on "heldout" ones.
"""

# ruff: noqa: E501  (the tables of phrases are easier to compare in long lines)

from __future__ import annotations

import random

from mrg_grpo.conditions import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN
from mrg_grpo.data.phantom import Finding, PhantomCase

P, N, U = POSITIVE, NEGATIVE, UNCERTAIN

PHRASES: dict[str, dict[int, tuple[str, ...]]] = {
    "Enlarged Cardiomediastinum": {
        P: ("The mediastinum is widened.", "There is {sev} widening of the mediastinum.", "Widened mediastinal contour.",
            "{Sev} mediastinal widening is present.", "The mediastinal silhouette is enlarged."),
        N: ("Mediastinal contours are normal.", "The mediastinum is unremarkable.", "Mediastinal contour is within normal limits.",
            "The mediastinal silhouette is normal.", "The mediastinum is not widened."),
        U: ("Possible widening of the mediastinum.", "The mediastinum may be mildly widened.",
            "Questionable mediastinal widening.", "Mediastinal widening cannot be excluded."),
    },
    "Cardiomegaly": {
        P: ("The heart is {sev}ly enlarged.", "{Sev} cardiomegaly.", "Cardiac silhouette is {sev}ly enlarged.",
            "There is {sev} cardiomegaly.", "Heart size is enlarged.", "The heart size is {sev}ly increased."),
        N: ("Heart size is normal.", "The heart is normal in size.", "Cardiac silhouette is within normal limits.",
            "The heart is not enlarged.", "No cardiomegaly.", "Cardiac size is unremarkable."),
        U: ("The heart may be enlarged.", "Possible cardiomegaly.", "Questionable enlargement of the heart.",
            "Mild cardiomegaly cannot be excluded."),
    },
    "Lung Opacity": {
        P: ("There is a {sev} patchy opacity in the {side} {zone} lung.", "Patchy airspace opacity in the {side} {zone} lung.",
            "{Sev} hazy opacity in the {side} {zone} lung.", "Ill-defined airspace opacity is seen in the {side} {zone} lung.",
            "An area of increased opacity projects over the {side} {zone} lung."),
        N: ("No focal airspace opacity.", "The lungs are free of focal airspace disease.", "No airspace opacities are seen.",
            "No focal lung opacity is identified."),
        U: ("Possible faint opacity in the {side} {zone} lung.", "There may be a subtle opacity in the {side} {zone} lung.",
            "Questionable hazy opacity in the {side} {zone} lung.", "A faint opacity in the {side} {zone} lung cannot be excluded."),
    },
    "Lung Lesion": {
        P: ("There is a nodule in the {side} {zone} lung.", "A {size} pulmonary nodule is seen in the {side} {zone} lung.",
            "Rounded mass in the {side} {zone} lung.", "Well-defined nodular lesion in the {side} {zone} lung.",
            "A lung mass is present on the {side}."),
        N: ("No pulmonary nodule or mass.", "No suspicious nodule is seen.", "No lung mass is identified.", "No nodules."),
        U: ("Possible nodule in the {side} {zone} lung.", "There may be a small nodule in the {side} {zone} lung.",
            "Questionable nodular lesion in the {side} {zone} lung.", "A nodule in the {side} {zone} lung cannot be excluded."),
    },
    "Edema": {
        P: ("There is {sev} pulmonary edema.", "{Sev} interstitial edema.", "Findings consistent with {sev} pulmonary edema.",
            "Perihilar haze in keeping with {sev} edema.", "Pulmonary edema is present."),
        N: ("No pulmonary edema.", "There is no evidence of edema.", "No overt edema.", "No interstitial edema is seen."),
        U: ("Possible mild pulmonary edema.", "Findings may represent mild edema.", "Questionable interstitial edema.",
            "Mild edema cannot be excluded."),
    },
    "Consolidation": {
        P: ("There is {side} {zone} lobe consolidation.", "Dense consolidation in the {side} {zone} lobe.",
            "{Sev} consolidation of the {side} {zone} lobe with air bronchograms.", "Consolidation is seen in the {side} {zone} lobe.",
            "The {side} {zone} lobe is consolidated."),
        N: ("No focal consolidation.", "There is no consolidation.", "No evidence of consolidation.", "No lobar consolidation is seen."),
        U: ("Possible consolidation in the {side} {zone} lobe.", "This may represent {side} {zone} lobe consolidation.",
            "Questionable {side} {zone} lobe consolidation.", "Early {side} {zone} lobe consolidation cannot be excluded."),
    },
    "Pneumonia": {
        P: ("Findings are consistent with {side} {zone} lung pneumonia.", "{Side} {zone} lung pneumonia.",
            "Multifocal infiltrate in the {side} {zone} lung compatible with pneumonia.",
            "There is pneumonia in the {side} {zone} lung.", "Appearance is that of {side} {zone} lung pneumonia."),
        N: ("No evidence of pneumonia.", "No pneumonia.", "There are no findings of pneumonia.", "No sign of pneumonia is seen."),
        U: ("Possible {side} {zone} lung pneumonia.", "Appearance may represent {side} {zone} lung pneumonia.",
            "Suspected early pneumonia in the {side} {zone} lung.", "{Side} {zone} lung pneumonia cannot be excluded."),
    },
    "Atelectasis": {
        P: ("There is {side} basilar atelectasis.", "{Sev} {side} basilar subsegmental atelectasis.",
            "Linear atelectasis at the {side} lung base.", "{Side} lower lobe atelectasis is present.",
            "Bandlike atelectasis is seen at the {side} base."),
        N: ("No atelectasis.", "There is no evidence of atelectasis.", "No basilar atelectasis is seen."),
        U: ("Possible {side} basilar atelectasis.", "This may represent {side} basilar atelectasis.",
            "Questionable linear atelectasis at the {side} base.", "{Side} basilar atelectasis cannot be excluded."),
    },
    "Pneumothorax": {
        P: ("There is a {size} {side} pneumothorax.", "{Size} {side} apical pneumothorax.", "{Side} pneumothorax is present.",
            "A {size} {side} sided pneumothorax is seen.", "A {side} pneumothorax is noted."),
        N: ("No pneumothorax.", "There is no pneumothorax.", "No evidence of pneumothorax.", "No visible pneumothorax is seen."),
        U: ("Possible small {side} pneumothorax.", "There may be a tiny {side} apical pneumothorax.",
            "Questionable {side} pneumothorax.", "A small {side} pneumothorax cannot be excluded."),
    },
    "Pleural Effusion": {
        P: ("There is a {size} {side} pleural effusion.", "{Size} {side} pleural effusion.", "{Side} pleural effusion is present.",
            "Blunting of the {side} costophrenic angle in keeping with a {size} pleural effusion.",
            "A {size} {side} effusion is seen."),
        N: ("No pleural effusion.", "There is no pleural effusion.", "No effusion is seen.", "No evidence of pleural effusion.",
            "Pleural effusion is absent."),
        U: ("Possible small {side} pleural effusion.", "There may be a trace {side} pleural effusion.",
            "Questionable small {side} effusion.", "A small {side} pleural effusion cannot be excluded."),
    },
    "Pleural Other": {
        P: ("There is {side} pleural thickening.", "{Sev} {side} pleural thickening.", "Calcified {side} pleural plaque.",
            "{Side} pleural scarring is present.", "Pleural thickening is seen on the {side}."),
        N: ("No pleural thickening.", "There is no pleural plaque.", "No pleural scarring is seen."),
        U: ("Possible {side} pleural thickening.", "This may represent {side} pleural thickening.",
            "Questionable {side} pleural plaque.", "{Side} pleural thickening cannot be excluded."),
    },
    "Fracture": {
        P: ("There is a {side} {zone} rib fracture.", "Displaced {side} {zone} rib fracture.", "Fracture of a {side} {zone} rib.",
            "A {side} {zone} rib fracture is seen.", "A broken {side} {zone} rib with displaced fracture ends."),
        N: ("No rib fracture.", "No acute fracture.", "There is no displaced fracture.", "No fracture is identified."),
        U: ("Possible {side} {zone} rib fracture.", "There may be a nondisplaced {side} {zone} rib fracture.",
            "Questionable {side} {zone} rib fracture.", "A {side} {zone} rib fracture cannot be excluded."),
    },
    "Support Devices": {
        P: ("{Device} is in place.", "{Device} is seen.", "A {device} is present.", "{Device} noted.", "There is a {device}."),
        N: ("No support devices.", "No lines or tubes.", "There are no support devices."),
        U: ("Possible {device}.", "There may be a {device}.", "Questionable {device}."),
    },
}  # fmt: skip

JOINT: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (frozenset({"Consolidation", "Pneumothorax", "Pleural Effusion"}),
     ("No focal consolidation, pneumothorax, or pleural effusion.", "There is no consolidation, effusion, or pneumothorax.",
      "Negative for consolidation, effusion, or pneumothorax.", "No evidence of consolidation, pleural effusion or pneumothorax.")),
    (frozenset({"Pneumothorax", "Pleural Effusion"}),
     ("No pneumothorax or pleural effusion.", "There is no pleural effusion or pneumothorax.",
      "No effusion or pneumothorax is seen.", "Neither pneumothorax nor pleural effusion is seen.")),
    (frozenset({"Enlarged Cardiomediastinum", "Cardiomegaly"}),
     ("Heart size and mediastinal contours are normal.", "The cardiomediastinal silhouette is within normal limits.",
      "Heart and mediastinum are unremarkable.", "The heart and mediastinal contours are within normal limits.")),
)  # fmt: skip
"""Phrases that deny several conditions at once; the larger set goes first."""

FILLERS: dict[str, tuple[str, ...]] = {
    "lungs": ("The lungs are clear.", "Lungs are clear bilaterally.", "The lungs are well expanded.", "Lung volumes are normal."),
    "bones": ("Degenerative changes of the spine.", "Osseous structures are intact.", "Bony structures are unremarkable."),
}  # fmt: skip
"""Phrases without a label."""

ORDER = (
    ("lungs", ("Lung Opacity", "Consolidation", "Pneumonia", "Edema", "Atelectasis", "Lung Lesion")),
    ("pleura", ("Pneumothorax", "Pleural Effusion", "Pleural Other")),
    ("heart", ("Cardiomegaly", "Enlarged Cardiomediastinum")),
    ("bones", ("Fracture",)),
    ("devices", ("Support Devices",)),
)
ARTICLE_FREE = {"sternotomy wires"}


def phrases(options: tuple[str, ...], templates: str) -> tuple[str, ...]:
    """The part of a phrase list that `templates` ("all", "train" or "heldout") may use."""
    held = max(1, len(options) // 5)
    if templates == "train":
        return options[:-held]
    if templates == "heldout":
        return options[-held:]
    if templates == "all":
        return options
    raise ValueError(f'templates is {templates!r}; it must be "all", "train" or "heldout"')


def write_report(case: PhantomCase, templates: str = "all") -> str:
    """The findings section; words are drawn from the case's own stream."""
    rng = case.rng("report")
    said = {name: label for name, label in zip(CONDITIONS, case.mentions) if label != BLANK}
    findings = {finding.condition: finding for finding in case.findings}
    regions = {region: _region(rng, region, names, said, findings, templates) for region, names in ORDER}
    regions = _join_negatives(rng, regions, said, templates)
    order = [region for region, _ in ORDER]
    if rng.random() < 0.3:  # heart first is the other convention
        order.remove("heart")
        order.insert(0, "heart")
    ill = any(label != NEGATIVE for name, label in said.items() if name != "Support Devices")
    if not ill and rng.random() < 0.75:
        regions["lungs"].insert(0, rng.choice(FILLERS["lungs"]))
    if rng.random() < (0.25 if case.site == "A" else 0.1) and "Fracture" not in said:
        regions["bones"].append(rng.choice(FILLERS["bones"]))
    sentences = [sentence for region in order for sentence in regions[region]]
    return " ".join(sentences) or rng.choice(FILLERS["lungs"])


def _region(
    rng: random.Random,
    region: str,
    names: tuple[str, ...],
    said: dict[str, int],
    findings: dict[str, Finding],
    templates: str,
) -> list[str]:
    """One sentence per mentioned condition: findings first, then what is denied."""
    ranked = sorted((name for name in names if name in said), key=lambda name: said[name] == NEGATIVE)
    return [
        _fill(rng, rng.choice(phrases(PHRASES[name][said[name]], templates)), name, findings.get(name))
        for name in ranked
    ]


def _join_negatives(
    rng: random.Random, regions: dict[str, list[str]], said: dict[str, int], templates: str
) -> dict[str, list[str]]:
    """Replace single denials by joint ones, mostly."""
    denied = {name for name, label in said.items() if label == NEGATIVE}
    regions = {region: list(sentences) for region, sentences in regions.items()}
    for names, options in JOINT:
        if names <= denied and rng.random() < 0.7:
            denied -= names
            for name in names:
                single = set(PHRASES[name][NEGATIVE])
                for sentences in regions.values():
                    sentences[:] = [sentence for sentence in sentences if sentence not in single]
            home = "heart" if "Cardiomegaly" in names else "pleura"
            regions[home].append(rng.choice(phrases(options, templates)))
    return regions


def _fill(rng: random.Random, template: str, name: str, finding: Finding | None) -> str:
    """Fill severity, side, zone and device from the finding."""
    severity = finding.severity if finding else 0.2
    side = {"both": "bilateral", "": "left"}.get(finding.side, finding.side) if finding else "left"
    sev = "mild" if severity < 0.5 else "moderate" if severity < 0.8 else "severe"
    size = "small" if severity < 0.5 else "moderate" if severity < 0.8 else "large"
    device = finding.device if finding and finding.device else "central line"
    if device in ARTICLE_FREE:
        template = template.replace("A {device} is present", "{Device} are present").replace(
            "is in place", "are in place"
        )
        template = template.replace("is seen", "are seen").replace("There is a", "There are")
    elif device[0] in "aeiou":
        template = template.replace("A {device}", "An {device}").replace("a {device}", "an {device}")
    words = {"sev": sev, "size": size, "side": side, "zone": finding.zone if finding else "lower", "device": device}
    words |= {word.capitalize(): text.capitalize() for word, text in words.items()}
    return template.format(**words)
