"""CheXbert's vocabulary: the 14 observations in CheXbert's own order and its four classes.

Source: stanfordmlgroup/CheXbert, `src/constants.py`. Constants alone, so that data modules can name
conditions without importing a model.
"""

CONDITIONS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
"""The 14 observations; the first 13 enter the signed vector, No Finding does not."""

FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
"""The five observations of the CheXpert competition."""

BLANK, POSITIVE, NEGATIVE, UNCERTAIN = 0, 1, 2, 3
"""CheXbert's class ids. Its CSV files write them as NaN, 1, 0 and -1 instead."""
