"""Statements that deny conditions: the normal heart and mediastinum, and negations of one condition or a list.

CheXbert's habits: a normal cardiomediastinal silhouette denies Enlarged Cardiomediastinum alone; normal cardiac and
mediastinal contours deny Cardiomegaly too; clear lungs and intact bones deny nothing; "no infiltrate" denies
Consolidation; "no acute bony abnormality" denies Fracture while "no acute osseous abnormality" denies nothing.
"""
# ruff: noqa: E501 - a template is one line, however long

Rows = tuple[tuple[str, str], ...]

NORMAL_SLOTS: dict[str, tuple[str, ...]] = {
    "ok": ("normal", "normal", "within normal limits", "within normal limits", "unremarkable", "normal in size", "normal in size and contour",
           "within normal limits in size", "within normal limits for size", "normal in size and configuration", "within normal limits for size and contour", "not enlarged",
           "grossly normal", "grossly unremarkable", "normal for age", "within normal limits of size and appearance", "stable and within normal limits", "normal size",
           "normal size and configuration", "clear", "within normal limits for contour", "within limits of normal", "within normal limits for appearance", "stable and normal",
           "normal in appearance", "normal in size and shape", "normal and stable", "within normal limits for technique", "normal and unchanged"),
    "is": ("is", "is", "appears", "", "remains"),
    "are": ("are", "are", "appear", "", "remain"),
    "cms": ("cardiomediastinal silhouette", "cardiomediastinal silhouette", "cardiomediastinal contour", "cardio mediastinal silhouette", "mediastinal contour", "mediastinum", "mediastinal silhouette", "cardiomediastinal size",
            "superior mediastinum", "mediastinum and hila", "cardiomediastinum", "cardiomediastinal shadow"),
    "cmss": ("cardiomediastinal contours", "mediastinal contours", "hilar and mediastinal contours", "cardiomediastinal silhouettes", "mediastinal and hilar contours", "cardiomediastinal and hilar contours", "mediastinum and hilar structures", "hilar contours and mediastinum",
             "cardiomediastinal silhouette and pulmonary vasculature", "cardiomediastinal silhouette and vasculature", "mediastinal contours and hila", "pulmonary xxxx and mediastinum", "mediastinal structures"),
    "vasc": ("pulmonary vascularity", "pulmonary vasculature", "vascularity", "pulmonary xxxx", "pulmonary vessels", "pulmonary vascular engorgement", "central airways", "pulmonary arteries"),
    "hneg": ("heart", "heart size", "the heart size", "the heart", "cardiac silhouette", "the cardiac silhouette", "the heart silhouette", "the cardiac contour", "cardiac size", "heart shadow", "the cardiac shadow", "cardiac contour"),
    "both": ("heart and mediastinum", "heart size and mediastinal contours", "cardiac and mediastinal contours", "cardiac and mediastinal silhouettes", "heart and mediastinal contours", "heart size and mediastinal contour", "cardiac silhouette and mediastinal contours",
             "heart, pulmonary xxxx and mediastinum", "heart size and mediastinum", "cardiac, mediastinal and hilar contours", "heart and mediastinal structures", "heart size and cardiomediastinal silhouette", "heart size, mediastinal contour and pulmonary vascularity",
             "heart, mediastinum and hila", "heart size and mediastinal silhouette", "heart, hila and mediastinum", "heart size, mediastinal silhouette, and pulmonary vascularity", "cardiac size, mediastinal contours"),
    "no": ("no ", "no ", "no ", "there is no ", "there is no ", "there are no ", "no evidence of ", "there is no evidence of ", "no definite ", "no evidence for ", "without ", "negative for ",
           "without evidence of ", "no visible ", "no radiographic evidence of ", "no findings of ", "no convincing ", "no signs of ", "no convincing evidence of ", "absence of ",
           "specifically, no evidence of ", "no typical findings of ", "free of ", "lungs are clear without ", "the lungs are clear, without evidence of ", "the lungs are free of ", "lungs are clear of ",
           "the lungs are clear with no ", "no sign of ", "there is no x-ray evidence of ", "no xxxx of ", "lungs are clear bilaterally without ", "heart and lungs show no ", "rather than ", "no obvious ",
           "the lungs are normally inflated without evidence of ", "there is no definite ", "no discrete ", "clear lungs without ", "no demonstrable ", "no overt ", "there has been no development of ",
           "there are no signs of ", "nor is there ", "chest x-ray showed no ", "did not show ", "does not demonstrate ", "the lungs are hyperinflated without ", "no acute finding of ", "there is not "),
    "nopost": ("", "", "", "", "", "", " is seen", " are seen", " identified", " is identified", " seen", " are identified", " noted", " is noted", " present", " visualized", " is present", " detected", " is appreciated",
               " at this time", " on this exam", " on either side", " in the right lung", " to suggest acute disease", " evident", " is evident", " in the lungs", " bilaterally", " on the current exam"),
}  # fmt: skip

DENIABLE: dict[str, tuple[str, ...]] = {
    "CM": ("cardiomegaly", "cardiac enlargement", "enlargement of the heart"),
    "ECM": ("mediastinal widening", "widening of the mediastinum", "mediastinal mass", "widened mediastinum", "mediastinal enlargement", "superior mediastinal widening"),
    "LO": ("[focal |suspicious |][airspace|air space|pulmonary|lung] [opacity|opacities]", "[focal |confluent |][airspace|air space] [disease|opacification|process|opacity|opacities]", "focal opacity", "opacities", "acute airspace disease",
           "focal airspace disease", "focal airspace disease", "focal pulmonary opacity", "upper lobe airspace disease", "[suspicious |acute |focal |]opacity", "parenchymal opacity", "focal air space disease", "focal alveolar opacity",
           "interstitial opacities", "suspicious pulmonary opacity", "acute pulmonary opacity"),
    "LL": ("[suspicious |pulmonary |discrete |lung |noncalcified |][nodule|nodules|mass|masses|nodules or masses|nodule or mass|mass or nodule|lesions|lesion]", "cavitary [lesion|lesions|nodule]", "[suspicious |focal ]mass", "pulmonary nodules or mass lesions",
           "cavitary lesions", "lung masses", "noncalcified nodule", "mass lesion"),
    "ED": ("[overt |frank |pulmonary |interstitial |alveolar |acute pulmonary ][edema|oedema]", "pulmonary edema", "pulmonary edema", "edema", "chf", "congestive heart failure", "[pulmonary |][vascular|venous] congestion", "heart failure", "signs of edema", "failure",
           "interstitial edema", "pulmonary vascular congestion", "significant pulmonary edema"),
    "CO": ("[focal |lobar |large |acute |confluent |airspace |air space |focal airspace |focal pulmonary |alveolar |focal lung |focal alveolar |][consolidation|consolidations|consolidation]", "focal consolidation", "focal consolidation", "focal areas of [pulmonary |]consolidation", "areas of consolidation",
           "[focal |acute |definite |][infiltrate|infiltrates|pulmonary infiltrate]", "focal airspace consolidation", "focal infiltrate", "confluent lobar consolidation", "parenchymal consolidation", "pulmonary consolidation", "lung consolidation", "acute air space infiltrate"),
    "PN": ("pneumonia", "pneumonia", "focal pneumonia", "infection", "acute pneumonia", "infectious process", "lobar pneumonia", "acute infection", "active infection", "pneumonic infiltrate", "pneumonic process", "active pneumonia"),
    "AT": ("atelectasis", "collapse", "lobar collapse", "significant atelectasis", "lung collapse"),
    "PX": ("pneumothorax", "pneumothorax", "pneumothorax", "pneumothorax", "pneumothoraces", "large pneumothorax", "pleural line to suggest pneumothorax", "visible pneumothorax"),
    "PE": ("[pleural |large pleural |large |definite pleural |small pleural |significant pleural |][effusion|effusions]", "pleural effusion", "pleural effusion", "pleural effusions", "effusion", "pleural fluid", "large pleural effusion", "large pleural effusions", "visible pleural fluid",
           "costophrenic blunting to suggest large pleural effusion", "layering effusion", "fluid", "free pleural fluid", "pleural effusions bilaterally"),
    "PO": ("pleural thickening", "fibrosis", "pleural plaques", "pleural disease"),
    "FX": ("fracture", "[displaced |acute |acute displaced |][rib |][fracture|fractures]", "acute bony abnormality", "acute bony abnormalities", "acute bony findings", "acute fracture", "fracture or dislocation", "displaced rib fracture", "bony abnormality",
           "fractures", "rib fractures", "vertebral compression fracture", "acute, displaced rib fractures"),
    "none": ("adenopathy", "lymphadenopathy", "free air", "free air under the diaphragm", "hilar adenopathy", "acute osseous abnormality", "acute disease", "acute process", "acute cardiopulmonary abnormality", "free subdiaphragmatic air", "tuberculosis", "acute abnormality", "active disease",
             "acute osseous findings", "acute bone abnormality", "pericardial effusion", "air trapping", "pneumoperitoneum", "acute findings", "interval change", "tracheal deviation", "hilar enlargement", "free intraperitoneal air", "subcutaneous emphysema"),
}  # fmt: skip
"""What a negation can name; none of the SD kind, for CheXbert does not deny devices."""

DENIABLE_WEIGHTS = {"CM": 2, "ECM": 2, "LO": 6, "LL": 5, "ED": 5, "CO": 9, "PN": 5, "AT": 2, "PX": 12, "PE": 12, "PO": 1, "FX": 4, "none": 6}  # fmt: skip

NORMALS: Rows = (
    ("CM-", "{hneg} {is} {ok}"),
    ("CM-", "{hneg} {is} {ok}"),
    ("CM-", "normal [heart size|heart|cardiac silhouette|cardiac contour|cardiac contours|cardiac size|size heart]"),
    ("CM-", "[the |]heart [size |][is |][top normal|top normal in size|top normal size|at the top limits of normal|near top normal|mildly prominent but within normal limits]"),
    ("CM-", "[the |]heart is not [significantly |grossly |][enlarged|dilated]"),
    ("CM-", "[the |]cardiac silhouette is [not enlarged|at the upper limits of normal for size|upper limits of normal]"),
    ("CM-", "[the |]{hneg} and {vasc} [are|appear|] {ok}"),
    ("CM-", "[the |]heart and {vasc} [are|appear|] {ok}"),
    ("CM- PX- PE-", "heart size and {vasc} [are|appear] {ok}. no pneumothorax or pleural effusion"),
    ("ECM-", "[the |]{cms} {is} {ok}"),
    ("ECM-", "[the |]{cms} {is} {ok}"),
    ("ECM-", "[the |]{cmss} {are} {ok}"),
    ("ECM-", "normal [cardiomediastinal silhouette|cardiomediastinal contours|mediastinal contours|mediastinum|mediastinal silhouette|mediastinal contour, pulmonary xxxx and vasculature|mediastinal and hilar contours]"),
    ("ECM-", "mediastinum [is |][not widened|normal width|midline and normal]"),
    ("ECM- CM-", "[the |]{both} [are|appear|] {ok}"),
    ("ECM- CM-", "[the |]{both} [are|appear|] {ok}"),
    ("ECM- CM-", "normal [heart size and mediastinal contours|heart and mediastinum|cardiac and mediastinal contours|heart size and mediastinum|cardiac silhouette and mediastinal contours]"),
    ("ECM- CM-", "[the |]heart [size |]is {ok}[.|,| and] [the |][mediastinum|mediastinal contours] [is|are|] {ok}"),
    ("ECM- CM-", "[the |]cardiac contours are {ok}"),
    ("ECM- CM-", "heart and mediastinum of normal size and contour"),
    ("CM- ED-", "heart size normal, no [failure|edema|vascular congestion]"),
    ("CM-", "heart size normal and lungs are clear"),
    ("CM-", "[the |]heart and lungs are normal"),
    ("CM-", "normal heart and lungs"),
    ("CM-", "heart size is [stable and normal|stable and grossly normal]"),
    ("CM-", "cardiothoracic ratio is normal"),
    ("CM- PX- PE- CO-", "normal heart, lungs, hila, mediastinum and pleural surfaces without consolidation, effusion or pneumothorax"),
    ("PE-", "[the |]pleural [effusion|effusions|fluid] [has|have] [resolved|cleared]"),
    ("PX-", "[previously seen |the |]pneumothorax has resolved"),
    ("PX-", "[pneumothorax|{lr} pneumothorax] is no longer [seen|visible|present]"),
    ("PE-", "[effusion|pleural effusion] is no longer [seen|visible|present]"),
    ("LO-", "[the |]lungs are [clear, and |]without focal [airspace|air space] [opacity|opacities|disease]"),
    ("LO- PN-", "there is no [focal |][air space|airspace] [opacity|disease] to suggest [a |]pneumonia"),
    ("CO-", "lungs are clear without [focal |][infiltrate|consolidation]"),
    ("PE- PX-", "[pleural spaces|costophrenic angles] are clear with no [effusion|pleural effusion] or pneumothorax"),
    ("FX-", "[no |there are no |there is no ]acute bony [abnormality|abnormalities|findings][ is identified| seen| identified|]"),
    ("FX-", "no acute bony [abnormality|abnormalities|findings]"),
    ("FX-", "[bones|ribs|osseous structures] are intact without fracture"),
    ("FX-", "no [acute |displaced |][rib |][fracture|fractures]"),
)  # fmt: skip
"""Deniers of the heart, the mediastinum and the rest in fixed forms."""
