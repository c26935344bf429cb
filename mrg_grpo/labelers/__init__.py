"""Labelers: what turns a report into 14 CheXbert class ids."""

from mrg_grpo.labelers.chexbert import CONDITIONS, CheXbert
from mrg_grpo.labelers.csv_form import read_label_csv, read_report_csv, write_label_csv

__all__ = ["CONDITIONS", "CheXbert", "read_label_csv", "read_report_csv", "write_label_csv"]
