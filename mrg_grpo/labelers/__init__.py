"""Labelers: what turns a report into 14 CheXbert class ids."""

import hashlib
from pathlib import Path

import torch

from mrg_grpo.labelers.chexbert import CONDITIONS, CheXbert
from mrg_grpo.labelers.csv_form import read_label_csv, read_report_csv, write_label_csv

__all__ = [
    "CONDITIONS", "CheXbert", "labeler_name", "load_labeler", "read_label_csv", "read_report_csv", "write_label_csv",
]  # fmt: skip


def load_labeler(path: str = "", tokenizer: str = "", device: torch.device | str = "cpu") -> CheXbert:
    """The labeler of a configuration or command line: "" is the embedded one, "" as tokenizer the default."""
    if path:
        return CheXbert.load(path, device, tokenizer or None)
    from mrg_grpo.embedded import labeler

    return labeler(str(device))


def labeler_name(path: str = "") -> str:
    """What page and JSON call a labeler that has been loaded: "embedded", or its path with the first 12 hex digits of
    the SHA-256 of its weights, since numbers of two labelers must not be taken for one another's."""
    if not path:
        return "embedded"
    weights = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    with weights.open("rb") as file:
        return f"{path} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"
