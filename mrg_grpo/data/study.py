"""A study: what one radiology report was written about."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """One chest X-ray study.

    `images` are file paths, addresses of pictures in parquet files (packed.py), or `phantom:` addresses of procedural
    images; `mrg_grpo.data.images.open_image` opens all of them. `labels` are 14 CheXbert class ids (0 blank, 1
    positive, 2 negative, 3 uncertain) in the order of `mrg_grpo.labels.CONDITIONS`, or None where the report has not
    been labelled.
    """

    id: str
    images: tuple[str, ...]
    report: str
    split: str
    labels: tuple[int, ...] | None = None
