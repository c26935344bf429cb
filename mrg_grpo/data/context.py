"""What is known of a study beside its pictures: cleaned, kept apart from the answer, counted; and the study before it.

Deliberate choices:
1. Only what is asked for is kept. Nothing asked for: no text is cleaned, and no study carries any.
2. The question must not hold the answer. A text ends where "findings:" or "impression:" begins in it. One that still
   holds a sentence of the study's own findings or impression is emptied, counted and named: five words or more, as
   shorter ones ("No acute disease.") are common knowledge, compared without case and punctuation. The report of the
   study before is not held against it: a radiologist repeats such sentences from study to study.
3. A prior study of another split is not shown, and a note counts them: its report is a reference of that split. In a
   split by patient there is none.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

from mrg_grpo.config import CONTEXT
from mrg_grpo.data.records import LoadOptions, Record, first_names, unicode_text
from mrg_grpo.data.sections import clean
from mrg_grpo.data.study import NOTHING, Context
from mrg_grpo.errors import UserError

TEXTS = ("indication", "history", "comparison")
"""What a radiologist wrote, which may hold anything."""
LEAST = 5
"""Words of a sentence that is told from common knowledge."""
_NAME = r"(?:findings?|impressions?|conclusions?)"
ANSWER = re.compile(rf"\b{_NAME}(?:\s*(?:and|[/&,])\s*{_NAME})?\s*:", re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[.!?;:])\s+")
DICOM_AGE = re.compile(r"(\d{1,3})([YMWD])")
UNITS = {"Y": "", "M": " months", "W": " weeks", "D": " days"}
SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}


def checked_context(names: Sequence[str]) -> tuple[str, ...]:
    """What is asked for, in the order in which the question says it; UserError for a name that is none."""
    asked = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in asked if name not in CONTEXT]:
        raise UserError(f"prompt.context names {unknown[0]!r}; use some of {', '.join(CONTEXT)}")
    return tuple(name for name in CONTEXT if name in asked)


def context_of(said: Mapping[str, Any], options: LoadOptions, where: str) -> Context:
    """What a form says of a study, by field, as far as it is asked for. None and "" say nothing."""
    texts: dict[str, str] = {}
    for name in (*TEXTS, "age", "sex"):
        value = said.get(name)
        if name not in options.context or value in (None, ""):
            continue
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise UserError(f"{where} has {name} of type {type(value).__name__}; give it as text")
        texts[name] = unicode_text(str(value), where)
    if not texts:
        return NOTHING
    indication, history, comparison = (
        clean(ANSWER.split(texts.get(name, ""), maxsplit=1)[0], options.keep_xxxx) for name in TEXTS
    )
    sex = SEXES.get(texts.get("sex", "").strip().lower(), "")
    return Context(_age(texts.get("age", "")), sex, indication, history, comparison)


def wants_prior(options: LoadOptions) -> bool:
    """Whether anything of the study before is asked for."""
    return "prior_report" in options.context or "prior_images" in options.context


def before(studies: Mapping[str, tuple[str, Any]]) -> dict[str, str]:
    """study id -> the patient's last study that is earlier, of {study id: (patient, when)}; of two at once the later
    in the file."""
    by_patient: dict[str, list[tuple[Any, str]]] = {}
    for study_id, (patient, when) in studies.items():
        by_patient.setdefault(patient, []).append((when, study_id))
    prior: dict[str, str] = {}
    for dated in by_patient.values():
        dated.sort(key=itemgetter(0))
        earlier, (now, last) = "", dated[0]
        for when, study_id in dated:
            earlier = last if when != now else earlier
            now, last = when, study_id
            if earlier:
                prior[study_id] = earlier
    return prior


def _age(text: str) -> str:
    """An age in years, or with its unit: "63" of "63.0", "063Y" and "63", "7 months" of "007M"; "" of what is none."""
    text = text.strip()
    if match := DICOM_AGE.fullmatch(text):
        return f"{int(match.group(1))}{UNITS[match.group(2)]}"
    return str(int(float(text))) if re.fullmatch(r"\d{1,3}(\.\d+)?", text, re.ASCII) else ""


def holds_answer(text: str, answer: str) -> bool:
    """Whether a text holds a sentence of the answer, of five words or more."""
    words = f" {' '.join(_words(text))} "
    sentences = (_words(part) for part in SENTENCE.split(answer))
    return any(len(parts) >= LEAST and f" {' '.join(parts)} " in words for parts in sentences)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _without(context: Context, name: str) -> Context:
    """The context with one text emptied."""
    changes: dict[str, Any] = {name: ""}
    return replace(context, **changes)


class Known:
    """What is known beside the pictures of each study that is kept, and what the user is told about it."""

    def __init__(self, asked: Sequence[str], pairs: Sequence[tuple[str, Record]], found: Sequence[Record]) -> None:
        self.asked, self.counts, self.total = tuple(asked), Counter[str](), 0
        self.emptied: list[str] = []
        self.elsewhere: list[str] = []
        self.prior: dict[str, Record] = {}
        """study id -> the record of the patient's study before it."""
        split_of = {record.id: split for split, record in pairs}
        by_id = {record.id: record for record in found}
        for split, record in pairs:
            prior = by_id.get(record.prior)
            if prior is not None and split_of.get(prior.id, split) != split:
                self.elsewhere.append(record.id)
            elif prior is not None:
                self.prior[record.id] = prior

    def prior_names(self, record: Record) -> tuple[str, ...]:
        """The images of the study before, relative to the image folder: the record's own, else what its reader says."""
        prior = self.prior.get(record.id)
        if "prior_images" not in self.asked:
            return ()
        return record.context.prior_images if prior is None else prior.images

    def of(self, record: Record, prior_images: tuple[str, ...]) -> Context:
        """The context of a study that is kept."""
        if not self.asked:
            return NOTHING
        context, prior = replace(record.context, prior_images=prior_images), self.prior.get(record.id)
        if prior is not None and "prior_report" in self.asked:
            context = replace(context, prior_report=prior.report)
        answer = f"{record.report} {record.answer}"
        for name in TEXTS:
            if holds_answer(getattr(context, name), answer):
                context = _without(context, name)
                self.emptied.append(f"{name} of {record.id}")
        self.total += 1
        self.counts.update(name for name in self.asked if getattr(context, name))
        return context

    def notes(self) -> list[str]:
        """How many studies have each field, which were emptied, and which prior studies are not shown."""
        if not self.asked:
            return []
        first, *rest = self.asked
        said = ", ".join(
            [f"{first} of {self.counts[first]:,} of {self.total:,} studies"]
            + [f"{name} of {self.counts[name]:,}" for name in rest]
        )
        lines = [f"{'' if self.counts else 'warning: '}context: {said}"]
        if self.emptied:
            lines.append(
                f"context: {len(self.emptied):,} texts hold a sentence of the study's own report and are left out: "
                f"{first_names(self.emptied)}"
            )
        if self.elsewhere:
            lines.append(
                f"warning: context: of {len(self.elsewhere):,} studies the study before is in another split and is not "
                f"shown: {first_names(self.elsewhere)}"
            )
        return lines
