"""Records of a run -> cases: one study with its picture, its reference, and the reports written for it.

A report's text is cut into pieces, each with the findings that it carries by the labeler's own account
(mrg_grpo.labelers.attribution). Pieces, not offsets: a browser counts characters in another way than Python.
The labels of a case are those that the run recorded and rewarded, never read anew.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from mrg_grpo.data.images import PHANTOM_SCHEME, open_image
from mrg_grpo.data.records import inside
from mrg_grpo.errors import UserError
from mrg_grpo.labelers.attribution import Attribution
from mrg_grpo.labels import CONDITIONS
from mrg_grpo.prompt import parse_completion
from mrg_grpo.rewards.mccs import clinical_cosine
from mrg_grpo.view.lesson import disagreement, lesson
from mrg_grpo.view.records import Record

PICTURE_SIDE = 224
"""Longest side of a picture on the page, in pixels."""
PICTURE_QUALITY = 60
VIEWS = 2
"""Pictures shown of a study."""

Attribute = Callable[[list[str]], list[Attribution]]


@dataclass
class Piece:
    """A stretch of text and the findings it carries: [index into CONDITIONS, class id]."""

    text: str
    findings: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Report:
    """One report of a case. None stands for what the run did not keep or does not have."""

    name: str
    labels: list[int]  # 13 class ids
    cosine: float | None = None  # clinical cosine with the reference
    pieces: list[Piece] | None = None
    think: str = ""
    raw: str = ""  # the whole completion, where it does not keep to the form
    compliant: bool | None = None
    rewards: dict[str, float | None] = field(default_factory=dict)
    reward: float | None = None
    advantage: float | None = None
    relabelled: bool = False  # the labeler at hand reads other labels than the run recorded


@dataclass
class Case:
    """One study. `numbers` are what the page sorts and filters by."""

    key: str
    study_id: str
    step: int | None
    pictures: list[int]  # indices into Pictures.data
    reference: Report
    reports: list[Report]
    lesson: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)  # a line for each picture that is not shown
    context: str = ""  # what stood in front of the question


class Pictures:
    """Small JPEGs as data addresses, each picture once. One that cannot be opened is counted and left out.

    The records of a run say which files, and a page is handed on: none is opened that lies outside the data folder.
    """

    def __init__(self) -> None:
        self.data: list[str] = []
        self.missing: dict[str, str] = {}  # name -> why it is not shown
        self.folder: str | None = None
        self.rendered = True
        self._index: dict[str, int] = {}
        self._kept: dict[str, str] = {}

    def begin(self, folder: str | None, rendered: bool = True) -> None:
        """A new page: what was rendered for the last one is kept, what is not asked for again does not go on it.

        folder: where files may come from; rendered: whether the run's data are the phantom's addresses.
        """
        self.data, self._index, self.missing, self.folder, self.rendered = [], {}, {}, folder, rendered

    def __call__(self, images: Any) -> tuple[list[int], list[str]]:
        """A record's names or addresses -> indices into `data`, and a line for each picture that is not there."""
        wanted = [str(image) for image in images[:VIEWS]] if isinstance(images, list) else []
        shown = [index for image in wanted if (index := self._one(image)) is not None]
        return shown, [self.missing[image] for image in wanted if image in self.missing]

    def _one(self, image: str) -> int | None:
        if image not in self._index:
            try:
                address = self.rendered and image.startswith(PHANTOM_SCHEME)
                place = image if address else inside(image, self.folder)
                if place not in self._kept:
                    self._kept[place] = data_address(open_image(place))
            except UserError as error:
                self.missing[image] = str(error)
                return None
            self._index[image] = len(self.data)
            self.data.append(self._kept[place])
        return self._index[image]


def data_address(picture: Image.Image) -> str:
    """A picture as a data: address of a small grey JPEG."""
    small = picture.convert("L")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=PICTURE_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def group_case(record: Record, pictures: Pictures, think: bool) -> Case:
    """A line of rollouts.jsonl: G samples with rewards and advantages."""
    reference = _reference(record)
    reports = []
    for i, sample in enumerate(record["samples"], start=1):
        report = _report(f"sample {i}", sample, record["reference_labels"])
        report.rewards = {name: finite(value) for name, value in sample["rewards"].items()}
        report.reward, report.advantage = finite(sample["reward"]), finite(sample["advantage"])
        if sample.get("completion") is not None:
            completion = parse_completion(sample["completion"], think)
            _put_text(report, completion.report, completion.think, completion.compliant, sample["completion"])
        elif "format" in report.rewards:  # the text was not kept, the verdict on its form was
            report.compliant = report.rewards["format"] == 1
        reports.append(report)
    labels, rewards = [report.labels for report in reports], [report.reward or 0.0 for report in reports]
    advantages = [report.advantage or 0.0 for report in reports]
    mean = sum(rewards) / len(rewards)
    numbers = {
        "mean reward": mean,
        "best reward": max(rewards),
        "reward spread": math.sqrt(sum((r - mean) ** 2 for r in rewards) / max(len(rewards) - 1, 1)),
        "largest advantage": max(abs(a) for a in advantages),
        "disagreement": disagreement(labels),
    }
    taught = lesson(labels, [report.compliant for report in reports], advantages, reference.labels)
    step, study = int(record["step"]), str(record["study_id"])
    shown, unseen = pictures(record.get("images"))
    known = str(record.get("context") or "")
    return Case(f"{step}/{study}", study, step, shown, reference, reports, taught, numbers, unseen, known)


def series_case(study: str, named: list[tuple[str, Record]], pictures: Pictures) -> Case:
    """The same study decoded at several times: before and after, or step by step."""
    reports = []
    for name, record in named:
        report = _report(name, record, record["reference_labels"])
        report.compliant = record.get("compliant")
        if record.get("prediction") is not None:
            _put_text(
                report,
                record["prediction"],
                record.get("think", ""),
                record.get("compliant"),
                record.get("generated", ""),
            )
        reports.append(report)
    first, last = reports[0].cosine or 0.0, reports[-1].cosine or 0.0
    numbers = {"gain in cosine": last - first, "cosine first": first, "cosine last": last,
               "disagreement": disagreement([report.labels for report in reports])}  # fmt: skip
    record = named[-1][1]
    shown, unseen = pictures(record.get("images"))
    known = str(record.get("context") or "")
    return Case(study, study, None, shown, _reference(record), reports, numbers=numbers, unseen=unseen, context=known)


def colour(cases: list[Case], attribute: Attribute) -> int:
    """Cut every text of the cases into pieces with findings; -> reports that the labeler now reads otherwise."""
    reports = [r for case in cases for r in (case.reference, *case.reports) if r.pieces is not None]
    changed = 0
    for report, found in zip(reports, attribute([_text(report) for report in reports])):
        report.pieces = cut(_text(report), found)
        report.relabelled = list(found.labels[:13]) != report.labels
        changed += report.relabelled
    return changed


def cut(text: str, found: Attribution) -> list[Piece]:
    """A text along its sentences; joined, the pieces are the text."""
    pieces, at = [], 0
    for sentence in found.sentences:
        if sentence.start > at:
            pieces.append(Piece(text[at : sentence.start]))
        findings = [(CONDITIONS.index(name), label) for name, label in sentence.signs.items()]
        pieces.append(Piece(text[sentence.start : sentence.end], findings))
        at = sentence.end
    return [*pieces, Piece(text[at:])] if at < len(text) else pieces


def finite(value: Any) -> float | None:
    """A number for the page; NaN, which JSON does not have, is None."""
    return round(float(value), 5) if isinstance(value, int | float) and math.isfinite(value) else None


def _reference(record: Record) -> Report:
    report = Report("reference", [int(label) for label in record["reference_labels"][:13]])
    if record.get("reference") is not None:
        report.pieces = [Piece(record["reference"])]
    return report


def _report(name: str, record: Record, reference: list[int]) -> Report:
    cosine = clinical_cosine(torch.tensor(record["labels"]), torch.tensor(reference))
    return Report(name, [int(label) for label in record["labels"][:13]], finite(cosine.item()))


def _put_text(report: Report, text: str, think: str, compliant: bool | None, raw: str) -> None:
    report.pieces, report.think, report.compliant = [Piece(text)], think, compliant
    report.raw = "" if compliant else raw


def _text(report: Report) -> str:
    return "".join(piece.text for piece in report.pieces or [])
