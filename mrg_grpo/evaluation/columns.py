"""Which column of a prediction file holds what: names that published systems give to ids, references and predictions.

Deliberate choices: case, spaces and punctuation of a name do not count ("Reference Report" is reference_report). Our
own names come before all others. Two other names of one kind whose texts differ are refused by name: which of them is
the truth cannot be told from here. A name that says neither side (findings, impression) is only taken for a reference
beside a named prediction, or for the one text of a file that holds one side.
"""

import re
from pathlib import Path
from typing import Any

from mrg_grpo.errors import UserError

IDS = (
    *("study_id", "id", "uid", "image_id", "question_id", "study", "dicom_id", "report_id", "sample_id", "case_id"),
    *("study_uid", "accession", "filename", "file", "image_path", "image", "image_file", "path"),
)
"""Names of the id, the first that is there counts."""

REFERENCES = (
    *("ground_truth", "gt", "gt_report", "reference_report", "ref", "references", "ref_report", "ground_truth_report"),
    *("gts", "target", "target_report", "true_report", "original_report", "gold", "reference_text", "label"),
)
PREDICTIONS = (
    *(
        "model_prediction",
        "generated_report",
        "predicted_report",
        "pred",
        "output",
        "text",
        "hypothesis",
        "pred_report",
    ),
    *(
        "predictions",
        "generated_text",
        "prediction_text",
        "hyp",
        "hypotheses",
        "candidate",
        "response",
        "res",
        "predict",
    ),
    *("model_output", "model_response", "generation", "generated_findings", "predicted_text", "report_pred", "y_hat"),
)
NEUTRAL = ("report_impression", "findings", "impression", "caption")
OURS = {"reference": "reference", "prediction": "prediction"}

OF_ONE_FILE = {
    "reference": (("reference",), REFERENCES, ("report",), NEUTRAL),
    "prediction": (("prediction",), PREDICTIONS),
}
"""Names of each side in a file that holds both, the surest first; within one bracket none is surer than another."""

OF_TWO_FILES = (
    (("reference",), REFERENCES, ("report",), NEUTRAL, ("prediction",), PREDICTIONS),
    (("prediction",), PREDICTIONS, ("report",), NEUTRAL),
)
"""The same in a file of references and in one of predictions: either may hold both sides."""

HEADER_WORDS = frozenset(
    (
        *("report", "reports", "reference", "references", "prediction", "predictions", "predicted", "generated"),
        *(
            "ground",
            "truth",
            "gt",
            "gts",
            "pred",
            "text",
            "texts",
            "findings",
            "impression",
            "hypothesis",
            "hypotheses",
        ),
        *("output", "target", "caption", "captions", "label", "sentence", "sentences", "res"),
    )
)


def folded(name: object) -> str:
    """A name without what does not count: "Reference Report" -> "referencereport"."""
    return re.sub(r"[\W_]+", "", str(name).lower())


TEXTS = frozenset(folded(name) for names in (*OF_TWO_FILES[0], *OF_TWO_FILES[1]) for name in names)
KNOWN = TEXTS | {folded(name) for name in IDS}


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
        found = [name for name in names if folded(name) in wanted]
        if not found:
            continue
        first, *others = found
        differ = [name for name in others if any(record.get(name) != record.get(first) for record in records)]
        if differ:
            raise UserError(
                f"{path} has the columns {shown([first, *differ])}, and any of them could be the one that counts; "
                "rename that one to reference or prediction, or leave the others out"
            )
        return first
    return None
