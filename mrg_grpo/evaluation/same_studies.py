"""Two systems can be compared on the same studies with the same references alone: what differs is named."""

from mrg_grpo.data.records import first_names
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.distinct import words
from mrg_grpo.evaluation.prediction_files import PredictionRow, Predictions


def require_same_studies(first: list[str], second: list[str], names: tuple[str, str]) -> None:
    """UserError that names the studies only one side has."""
    here, there = set(first), set(second)
    only = [key for key in first if key not in there] + [key for key in second if key not in here]
    if only:
        raise UserError(
            f"{names[0]} and {names[1]} differ in {len(only)} studies ({first_names(only)}): score the same ones"
        )


def require_same_references(first: Predictions, second: Predictions, paths: tuple[str, str]) -> None:
    """UserError that names the studies both have with references of other words; case and punctuation do not count."""

    def truth(row: PredictionRow) -> object:
        return words(row.reference) or row.reference_labels

    other = {row.study_id: truth(row) for row in second.rows}
    differ = [row.study_id for row in first.rows if row.study_id in other and truth(row) != other[row.study_id]]
    if differ:
        raise UserError(
            f"{paths[0]} and {paths[1]} hold other references for {len(differ)} studies ({first_names(differ)}), so "
            "their scores cannot be compared; give references that are right for both as a file of their own, before "
            "them"
        )
