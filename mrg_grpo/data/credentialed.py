"""Credentialed data (MIMIC-CXR, sets under a personal agreement, and what data.credentialed marks as such): whatever a
run writes about single studies says where it came from.

A file CREDENTIALED.txt stands in the folder, and every record of rollouts.jsonl and predictions*.jsonl, and the whole
evaluation.json, carries the field "credentialed". A field and not a first line: a record that is copied out keeps it,
and readers of JSON lines need no special case. `run.keep_text = false` leaves report texts, completions and image
paths out altogether; study ids, labels and numbers stay.
"""

from pathlib import Path

from mrg_grpo.config import Config

BANNER = (
    "Derived from MIMIC-CXR, credentialed data: share it only with people who signed PhysioNet's data use agreement."
)
OTHER = "Derived from credentialed data: share it only with people who may see the data that it was made from."
AGREEMENT = ("rexgradient", "chexpert_plus", "padchest_gr")
"""Forms whose data are given to a person who accepts an agreement. Stanford's for CheXpert says "you may not distribute
a copy of any portion", BIMCV's for PadChest forbids to pass it on, too, and the one of ReXGradient-160K gives the data
for non-commercial research alone. Marked on the safe side: which text is theirs to share, each agreement says."""
FILE = "CREDENTIALED.txt"


def banner(config: Config) -> dict[str, str]:
    """The field for a record: empty unless the form is MIMIC-CXR's or of AGREEMENT, or data.credentialed says so."""
    if config.data.form.startswith("mimic"):
        return {"credentialed": BANNER}
    return {"credentialed": OTHER} if config.data.credentialed or config.data.form in AGREEMENT else {}


def mark(folder: Path, config: Config) -> None:
    """Write CREDENTIALED.txt into a folder that is about to hold such records."""
    for text in banner(config).values():
        (folder / FILE).write_text(text + "\n", encoding="utf-8")
