"""Which column of a prediction file holds what: as `--columns` names it, or under a name that published systems use.

Deliberate choices: case, spaces and punctuation of a name do not count ("Reference Report" is reference_report). Our
own names come before all others. Two other names of one kind whose texts differ are refused by name: which of them is
the truth cannot be told from here. A name that says neither side (findings, impression) is only taken for a reference
beside a named prediction, or for the one text of a file that holds one side. What a chat left behind (messages) is
taken for a prediction, and for any text of a file that holds no other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrg_grpo.errors import UserError, nearest
from mrg_grpo.evaluation.messages import has_answer

IDS = (
    "study_id", "custom_id", "id", "uid", "image_id", "question_id", "doc_id", "study", "dicom_id", "report_id",
    "sample_id", "case_id", "study_uid", "accession", "filename", "file", "image_path", "image", "image_file",
    "path",
)  # fmt: skip
"""Names of the id, the first that is there counts."""

REFERENCES = (
    "ground_truth", "gt", "gt_report", "reference_report", "ref", "references", "ref_report", "ground_truth_report",
    "gts", "target", "target_report", "true_report", "original_report", "gold", "reference_text", "label",
)  # fmt: skip
PREDICTIONS = (
    "model_prediction", "generated_report", "predicted_report", "pred", "output", "text", "hypothesis",
    "pred_report", "predictions", "generated_text", "prediction_text", "hyp", "hypotheses", "candidate", "response",
    "res", "predict", "completion", "model_output", "model_response", "generation", "generated_findings",
    "predicted_text", "report_pred", "y_hat",
)  # fmt: skip
NEUTRAL = ("report_impression", "findings", "impression", "caption")
CHAT = ("messages", "conversations", "choices", "result", "filtered_resps")
"""Names that count where there is an answer of a chat model in them, see messages.py."""
TRUTH_OF_CHAT = ("labels",)
"""A text in ms-swift's files, beside the messages; class ids in ours."""

OF_ONE_FILE = {
    "reference": (("reference",), REFERENCES, ("report",), NEUTRAL, TRUTH_OF_CHAT),
    "prediction": (("prediction",), PREDICTIONS, CHAT),
}
"""Names of each side in a file that holds both, the surest first; within one bracket none is surer than another."""

OF_TWO_FILES = (
    (("reference",), REFERENCES, ("report",), NEUTRAL, TRUTH_OF_CHAT, ("prediction",), PREDICTIONS, CHAT),
    (("prediction",), PREDICTIONS, CHAT, ("report",), NEUTRAL),
)
"""The same in a file of references and in one of predictions: either may hold both sides."""

HEADER_WORDS = frozenset((
    "report", "reports", "reference", "references", "prediction", "predictions", "predicted", "generated", "ground",
    "truth", "gt", "gts", "pred", "text", "texts", "findings", "impression", "hypothesis", "hypotheses", "output",
    "target", "caption", "captions", "label", "sentence", "sentences", "res",
))  # fmt: skip


def folded(name: object) -> str:
    """A name without what does not count: "Reference Report" -> "referencereport"."""
    return re.sub(r"[\W_]+", "", str(name).lower())


TEXTS = frozenset(map(folded, ("reference", "prediction", "report", *REFERENCES, *PREDICTIONS, *NEUTRAL)))
KNOWN = TEXTS | {folded(name) for name in (*IDS, *CHAT)}


@dataclass(frozen=True)
class ColumnNames:
    """The columns that `--columns` names; "" where the known names decide."""

    id: str = ""
    reference: str = ""
    prediction: str = ""
    optional: bool = False
    """Whether a file may lack them, and is then read by the known names."""

    def folded(self, *keys: str) -> frozenset[str]:
        """The names of these keys, without what does not count."""
        return frozenset(folded(name) for name in (getattr(self, key) for key in keys) if name)


KEYS = ("id", "reference", "prediction")


def parse_columns(texts: Sequence[str]) -> ColumnNames:
    """What the flags say, each "KEY=NAME" or several with commas between; UserError for any other.

    The first = divides. A comma divides where KEY= follows; behind a backslash it belongs to the name.
    """
    found: dict[str, str] = {}
    for text in texts:
        for pair in re.split(r"(?<!\\),\s*(?=\w+\s*=)", text):
            key, mark, name = (part.strip() for part in pair.partition("="))
            if not mark or not name:
                raise UserError(f"--columns {pair!r}: is not KEY=NAME, such as prediction=output")
            if key not in KEYS:
                asked = nearest(key, KEYS) or f"the keys are {', '.join(KEYS)}"
                raise UserError(
                    f'--columns: "{key}" is no key; {asked} (a comma that belongs to a name is written as \\,)'
                )
            if key in found:
                raise UserError(f"--columns: {key} is named twice, {found[key]} and {name}; name one")
            found[key] = name.replace("\\,", ",")
    return ColumnNames(**found)  # type: ignore[arg-type]


def named_column(records: list[dict[str, Any]], key: str, columns: ColumnNames, path: Path) -> str | None:
    """The column that `--columns KEY=NAME` means: that very name, one written like it, or a path into nested JSON.

    A path, such as response.body.choices.0.message.content, becomes a column of its own in every record. None where no
    column is named; UserError where the named one is not there, which says what is, or None if it need not be.
    """
    name = getattr(columns, key)
    names = column_names(records)
    if not name or name in names:
        return name or None
    alike = [own for own in names if folded(own) == folded(name)] if folded(name) else []
    if len(alike) == 1:
        return alike[0]
    parts = re.sub(r"\[(\d+)\]", r".\1", name).split(".")
    found = [_inside(record, parts) for record in records]
    if any(value is not None for value, *_ in found):
        for record, (value, *_) in zip(records, found, strict=True):
            record[name] = value
        return name
    if columns.optional:
        return None
    typed, there = next(((typed, there) for _, typed, there in found if "." in typed), (name, names))
    asked = " ".join(filter(None, (nearest(typed, there), f"it has {shown(there)}")))
    raise UserError(f'{path} has no column "{shown([name])}" (--columns {key}=NAME); {asked}')


def _inside(record: dict[str, Any], parts: list[str]) -> tuple[Any, str, list[str]]:
    """What a path leads to; None where it ends early, then with the part that was not there and those that are."""
    value: Any = record
    for depth, part in enumerate(parts):
        places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        held = {str(key): one for key, one in places}
        if part not in held:
            before = parts[:depth]
            return None, ".".join([*before, part]), [".".join([*before, key]) for key in held]
        value = held[part]
    return value, "", []


def looks_like_a_header(cell: str) -> bool:
    """Whether the first cell of a file of one column is the name of the column and not a report.

    pandas writes "0" above a column without a name.
    """
    words = re.findall(r"[a-z]+", cell.lower())
    return cell.strip() == "0" or folded(cell) in KNOWN or (bool(words) and HEADER_WORDS.issuperset(words))


def shown(names: Any) -> str:
    """Column names for a message: ten at most, each cut, since what stands there may be a report without a header."""
    texts = [str(name) for name in names]
    cut = [text if len(text) <= 40 else f"{text[:37]}..." for text in texts[:10]]
    return ", ".join(cut) + (", ..." if len(texts) > 10 else "")


def column_names(records: list[dict[str, Any]]) -> list[str]:
    """All columns that any record has, in the order of the first that has them."""
    return list(dict.fromkeys(name for record in records for name in record))


def id_columns(records: list[dict[str, Any]]) -> list[str]:
    """The columns that may be an id, the surest first; one that holds lists is none."""
    names = column_names(records)
    found = [name for alias in IDS for name in names if folded(name) == folded(alias)]
    return [name for name in found if not any(isinstance(record.get(name), list | dict) for record in records)]


def text_column(records: list[dict[str, Any]], brackets: tuple[tuple[str, ...], ...], path: Path) -> str | None:
    """The column of the first bracket that has one; UserError where two of a bracket hold different texts."""
    names = column_names(records)
    for bracket in brackets:
        wanted = {folded(name) for name in bracket}
        found = [name for name in names if folded(name) in wanted and _counts(records, name, bracket)]
        if not found:
            continue
        first, *others = found
        differ = [name for name in others if any(record.get(name) != record.get(first) for record in records)]
        if differ:
            raise UserError(
                f"{path} has the columns {shown([first, *differ])}, and any of them could be the one that counts; "
                "say which with --columns, or leave the others out"
            )
        return first
    return None


def _counts(records: list[dict[str, Any]], name: str, bracket: tuple[str, ...]) -> bool:
    """Whether a column of a name that many files use for something else holds what the bracket is of."""
    values = [record.get(name) for record in records]
    if bracket is TRUTH_OF_CHAT:
        beside = {"response", "messages"} <= records[0].keys()
        return beside and {type(value) for value in values if value is not None} == {str}
    return bracket is not CHAT or any(not isinstance(value, str) and has_answer(value) for value in values)
