"""Labelers: what turns a report into 14 CheXbert class ids."""

import torch

from mrg_grpo.labelers.chexbert import CONDITIONS, CheXbert
from mrg_grpo.labelers.csv_form import read_label_csv, read_report_csv, write_label_csv

__all__ = ["CONDITIONS", "CheXbert", "load_labeler", "read_label_csv", "read_report_csv", "write_label_csv"]


def load_labeler(path: str = "", tokenizer: str = "", device: torch.device | str = "cpu") -> CheXbert:
    """The labeler of a configuration or command line: "" is the embedded one, "" as tokenizer the default."""
    if path:
        return CheXbert.load(path, device, tokenizer or None)
    from mrg_grpo.embedded import labeler

    return labeler(str(device))
