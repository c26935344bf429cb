"""Credentialed data (MIMIC-CXR): whatever a run writes about single studies says where it came from.

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
FILE = "CREDENTIALED.txt"


def banner(config: Config) -> dict[str, str]:
    """The field for a record: empty unless the data form is one of MIMIC-CXR's."""
    return {"credentialed": BANNER} if config.data.form.startswith("mimic") else {}


def mark(folder: Path, config: Config) -> None:
    """Write CREDENTIALED.txt into a folder that is about to hold such records."""
    if banner(config):
        (folder / FILE).write_text(BANNER + "\n", encoding="utf-8")
