"""Labelers: what turns a report into 14 CheXbert class ids.

Here: CheXbert, its reader of sides and sizes, its CSV convention, labels of references, texts that it cannot read,
which sentence carries which finding, and which labeler a configuration names. Not here: what is made of the labels
(rewards/, evaluation/).
May import: labels, attributes, errors, files, config, distributed and the embedded weights.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from mrg_grpo import distributed, embedded
from mrg_grpo.attributes import Attributes
from mrg_grpo.config import Config
from mrg_grpo.files import require_output
from mrg_grpo.labelers.chexbert import CONDITIONS, CheXbert
from mrg_grpo.labelers.csv_form import read_label_csv, read_report_csv, write_label_csv
from mrg_grpo.labelers.unread import Unread, unread_of, unread_references

__all__ = [
    "CONDITIONS", "CheXbert", "Unread", "config_labeler", "embedded_labeler", "labeler_name", "load_labeler",
    "read_label_csv", "read_report_csv", "run_label", "unread_of", "unread_references", "write_label_csv",
]  # fmt: skip


def embedded_labeler(device: str = "cpu") -> CheXbert:
    """The labeler in the package. docs/results/built-in.md says what it can and cannot read."""
    return CheXbert.load(embedded.labeler_path(), device)


def load_labeler(path: str = "", tokenizer: str = "", device: torch.device | str = "cpu") -> CheXbert:
    """The labeler of a configuration or command line: "" is the embedded one, "" as tokenizer the default."""
    return CheXbert.load(path, device, tokenizer or None) if path else embedded_labeler(str(device))


def config_labeler(config: Config) -> CheXbert:
    """The labeler that a configuration names, on the policy's device."""
    return load_labeler(config.labeler.path, config.labeler.tokenizer, config.model.resolved_device())


def run_label(
    reports_path: str, output: str, attributes: bool = False, labeler_path: str | None = None,
    tokenizer: str | None = None,
) -> None:  # fmt: skip
    """`mrg-grpo label`: a CSV with the column "Report Impression" -> CheXbert's CSV of labels, and what the reports say
    of side and size where `attributes` asks for it."""
    require_output(output, [reports_path])
    reports = read_report_csv(reports_path)
    labeler = load_labeler(labeler_path or "", tokenizer or "")
    if attributes:
        rows = distributed.map_shares(lambda own: _packed(labeler, own), reports)  # (B, 14 + 27)
        labels, said = rows[:, :14], Attributes.unpacked(rows[:, 14:])
    else:
        labels, said = distributed.map_shares(labeler.label, reports), None
    if distributed.is_first():
        write_label_csv(output, reports, labels, said)
    print(f"{len(reports)} reports labelled: {output}")
    names = [f"row {number}" for number in range(2, len(reports) + 2)]
    print("".join(f"{note}\n" for note in unread_of(labels, reports, labeler).notes("reports", names)), end="")


def _packed(labeler: CheXbert, reports: list[str]) -> Tensor:
    """B reports -> class ids and attributes side by side, (B, 14 + 27)."""
    labels, attributes = labeler.labels_and_attributes(reports)
    return torch.cat([labels, attributes.packed()], dim=1)


def labeler_name(path: str = "") -> str:
    """What page and JSON call a labeler that has been loaded: "embedded", or its path with the first 12 hex digits of
    the SHA-256 of its weights, since numbers of two labelers must not be taken for one another's."""
    if not path:
        return "embedded"
    weights = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    with weights.open("rb") as file:
        return f"{path} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"
