"""Phrases held out of the embedded labeler's training, in the form of phrases.py.

They were written by someone who had not seen the grammar that the embedded labeler learns from, and no labeler trains
on them (a policy may: the data set's reports use both tables). Eight or so were written per condition and class; the
half whose text has the smaller sha256 is held out, the rest ends the training list.
"""

from __future__ import annotations

from mrg_grpo.data.phantom.phrases import N, P, U

HELDOUT: dict[str, dict[int, tuple[str, ...]]] = {
    "Enlarged Cardiomediastinum": {
        P: ("The mediastinum appears {sev}ly widened.", "Broadening of the upper mediastinum is noted.",
            "Increased transverse diameter of the mediastinum.", "Mediastinum widened, {sev} in degree."),
        N: ("No mediastinal widening.", "The mediastinum is of normal width.",
            "No radiographic evidence of mediastinal enlargement.", "Normal mediastinal silhouette without widening."),
        U: ("The mediastinum is possibly widened.",
            "Apparent fullness of the mediastinum, which may represent widening.", "Equivocal mediastinal widening.",
            "Mild widening of the mediastinal contour is possible."),
    },
    "Cardiomegaly": {
        P: ("{Sev} enlargement of the heart is noted.", "Cardiomegaly is present, {sev} in degree.",
            "The transverse diameter of the heart is {sev}ly increased.",
            "Radiographic appearance suggestive of {sev} cardiomegaly."),
        N: ("No evidence of cardiac enlargement.", "Normal heart size.", "The cardiac silhouette is not enlarged.",
            "No radiographic evidence of cardiomegaly."),
        U: ("The cardiac silhouette is possibly enlarged.", "Cardiac enlargement cannot be ruled out.",
            "There might be mild enlargement of the cardiac silhouette.", "Question of mild cardiomegaly."),
    },
    "Lung Opacity": {
        P: ("{Sev} infiltrate in {lung}.", "Hazy opacification of {lung} is noted.",
            "Reticular opacities are present in {lung}.", "Within {lung} there is {sev} streaky opacity."),
        N: ("No focal airspace opacity is identified in either lung.", "No radiographic evidence of airspace disease.",
            "The lungs are free of opacification.", "There is no evidence of airspace disease."),
        U: ("Subtle infiltrate is possible in {lung}.", "Equivocal opacity projecting over {lung}.",
            "There could be a vague opacity in {lung}.", "Question of an ill-defined infiltrate in {lung}."),
    },
    "Lung Lesion": {
        P: ("A rounded nodule projects over {lung}.", "Nodule in {lung}, suggestive of a neoplasm.",
            "Spiculated mass in the {side} {zone} lung zone.", "Within {lung} there is a {size} pulmonary nodule."),
        N: ("No discrete pulmonary nodule.", "There is no lung mass or nodule.",
            "No radiographic evidence of a pulmonary mass.", "Negative for pulmonary nodules."),
        U: ("Possible small mass in {lung}.", "Equivocal nodule projecting over {lung}.",
            "Question of a nodule in {lung}.", "Nipple shadow versus nodule in {lung}."),
    },
    "Edema": {
        P: ("The lungs demonstrate {sev} interstitial edema.", "{Sev} alveolar edema, bilateral.",
            "Bilateral pulmonary edema pattern, {sev} in degree.",
            "Pulmonary vascular congestion with {sev} interstitial edema."),
        N: ("No frank pulmonary edema.", "No signs of pulmonary edema are demonstrated.",
            "Negative for pulmonary edema.", "Pulmonary edema is not identified."),
        U: ("Indistinct pulmonary vessels, which may represent mild edema.", "Mild interstitial edema is possible.",
            "Mild pulmonary edema might be present.", "Early edema is not excluded."),
    },
    "Consolidation": {
        P: ("{Sev} consolidation is noted in the {side} {zone} lobe.",
            "The {side} {zone} lobe demonstrates consolidation.", "{Side} {zone} lobe consolidative change.",
            "Lobar consolidation, {side} {zone} lobe."),
        N: ("Lungs are without consolidation.", "No areas of consolidation.",
            "No consolidative process is demonstrated.", "The lungs are free of consolidation."),
        U: ("Consolidation of the {side} {zone} lobe cannot be ruled out.",
            "There may be early consolidation in the {side} {zone} lobe.",
            "There could be consolidation in the {side} {zone} lobe.",
            "Question of early consolidation in the {side} {zone} lobe."),
    },
    "Pneumonia": {
        P: ("{Side} {zone} lung pneumonia is noted.", "Changes in {lung} likely represent pneumonia.",
            "Radiographic features of pneumonia in {lung}.", "The examination demonstrates pneumonia of {lung}."),
        N: ("Lungs are without evidence of pneumonia.", "Negative for pneumonia.", "Nothing to suggest pneumonia.",
            "No acute pneumonia."),
        U: ("Pneumonia in {lung} cannot be ruled out.", "Findings in {lung} could represent pneumonia.",
            "Early pneumonia is possible in {lung}.", "Changes in {lung} might reflect early pneumonia."),
    },
    "Atelectasis": {
        P: ("Volume loss at {base}, consistent with atelectasis.", "Platelike atelectasis of {base}.",
            "Appearance at {base} suggestive of {sev} atelectasis.", "{Side} basilar atelectatic changes."),
        N: ("No radiographic evidence of atelectasis.", "No subsegmental atelectasis.",
            "There is no volume loss or atelectasis.", "No platelike atelectasis is identified."),
        U: ("Atelectasis at {base} cannot be ruled out.", "Findings at {base} may represent atelectasis.",
            "There could be minor {side} basilar atelectasis.", "Mild atelectasis at {base} is not excluded."),
    },
    "Pneumothorax": {
        P: ("{Side} pneumothorax, {size} in extent.", "{Size} pneumothorax at the {side} apex.",
            "Findings suggestive of a {size} {side} pneumothorax.",
            "A {size} apical pneumothorax persists on the {side}."),
        N: ("No radiographic evidence of pneumothorax.", "No apical pneumothorax is identified.",
            "Pneumothorax is absent.", "There is no discernible pneumothorax."),
        U: ("There could be a minimal pneumothorax on the {side}.", "Equivocal {side} apical pneumothorax.",
            "Question of a small {side} pneumothorax.", "Skin fold versus small pneumothorax on the {side}."),
    },
    "Pleural Effusion": {
        P: ("{Size} effusion is noted {on_side}.",
            "Fluid in the pleural space {on_side}, consistent with a {size} effusion.",
            "{Side} pleural effusion, {size} in size.", "Findings suggestive of a {size} {side} pleural effusion."),
        N: ("No pleural fluid.", "No layering effusion is identified.", "The pleural spaces are free of effusion.",
            "No pleural effusion on either side."),
        U: ("{Side} pleural effusion cannot be ruled out.", "There could be a trace of pleural fluid {on_side}.",
            "Question of a small {side} pleural effusion.",
            "Meniscus {on_side}, which may represent a small effusion."),
    },
    "Pleural Other": {
        P: ("{Sev} pleural thickening is noted {on_side}.",
            "The radiograph demonstrates {sev} pleural scarring {on_side}.", "Chronic pleural scar {on_side}.",
            "Circumferential thickening of the pleura {on_side}."),
        N: ("Pleural plaques are absent.", "No pleural plaques are demonstrated.", "There is no pleural scar.",
            "The pleura is free of plaques."),
        U: ("Pleural thickening {on_side} cannot be ruled out.", "{Side} pleural plaque is possible.",
            "Findings {on_side} may represent pleural scarring.", "There might be a pleural plaque {on_side}."),
    },
    "Fracture": {
        P: ("A displaced fracture of a {side} {zone} rib is noted.",
            "The {side} {zone} ribs demonstrate an acute fracture.", "Fractured {side} {zone} rib.",
            "Acute {side} rib fracture in the {zone} chest."),
        N: ("No radiographic evidence of fracture.", "Without acute fracture.",
            "No displaced rib fracture is demonstrated.", "Negative for rib fracture."),
        U: ("A {side} {zone} rib fracture cannot be ruled out.",
            "Cortical irregularity of a {side} {zone} rib may represent a fracture.",
            "Nondisplaced {side} {zone} rib fracture is possible.", "Question of a {side} {zone} rib fracture."),
    },
    "Support Devices": {
        P: ("The radiograph demonstrates {a_device}.", "Projecting over the chest {is} {a_device}.",
            "{A_device} {is} visualized over the chest.", "The patient has {a_device}."),
        N: ("No indwelling lines or tubes.", "No medical devices are present.", "Negative for support devices."),
        U: ("{A_device} may be present.", "{A_device} {is} possibly present.", "Question of {a_device}.",
            "Presence of {a_device} is not excluded."),
    },
}  # fmt: skip
"""The held-out phrases, by condition and class."""

JOINT_HELDOUT: dict[frozenset[str], tuple[str, ...]] = {
    frozenset({"Consolidation", "Pneumothorax", "Pleural Effusion"}): (
        "Consolidation, pleural effusion and pneumothorax are absent.",
        "No pneumothorax, pleural effusion, or focal consolidation is demonstrated.",
        "No effusion, no pneumothorax, no consolidation.",
        "The lungs are free of consolidation, and there is no effusion or pneumothorax."),
    frozenset({"Pneumothorax", "Pleural Effusion"}): (
        "No radiographic evidence of pneumothorax or pleural effusion.",
        "Pleural effusion and pneumothorax are absent.", "No pneumothorax, no pleural effusion.",
        "No pneumothorax or pleural fluid on either side."),
    frozenset({"Enlarged Cardiomediastinum", "Cardiomegaly"}): (
        "Cardiac and mediastinal silhouettes are within normal limits.",
        "Heart size normal, mediastinal contours unremarkable.",
        "Neither cardiac enlargement nor mediastinal widening is seen.",
        "Cardiac size and mediastinal width are within normal limits."),
}  # fmt: skip
