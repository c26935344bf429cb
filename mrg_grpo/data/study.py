"""A study: what one radiology report was written about."""

from collections.abc import Collection
from dataclasses import dataclass

from mrg_grpo.prompt import context_line


@dataclass(frozen=True)
class Context:
    """What was known when a report was written, beside the pictures; "" and () where the data do not say.

    Never a word of the study's own findings or impression.
    """

    age: str = ""
    sex: str = ""
    indication: str = ""
    history: str = ""
    comparison: str = ""
    """What the pictures were compared with, in the report's words."""
    prior_report: str = ""
    """The report of the patient's study before this one, in the wanted sections."""
    prior_images: tuple[str, ...] = ()
    """Its images, as `Study.images`."""


NOTHING = Context()
"""Of a study beside whose pictures nothing is known."""


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
    context: Context = NOTHING

    def known(self, asked: Collection[str]) -> dict[str, str]:
        """For a run's records: what stood in front of the question, where anything of the context was asked for."""
        return {"context": context_line(vars(self.context), asked, len(self.images)).strip()} if asked else {}
