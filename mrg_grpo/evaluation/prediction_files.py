"""Prediction files in and out: any system's reports, scored by the same ruler.

Layouts read, each recognised by its columns and named in what is printed:

    ours              jsonl, json or csv with study_id, reference, prediction; ours adds generated (whole completion),
                      think, compliant, images, and labels of both sides
    ReXrank           json of records with `report` ("Findings: ... Impression: ...") and `model_prediction`
    two files         references, then predictions: CXR-Report-Metric's CSVs (study_id, report), R2GenCMN's gts.csv
                      and res.csv (no header), CheXbert's ("Report Impression"); without study_id matched by order
    other names       id, uid, question_id ...; ground_truth, gt ...; text, output ...: see ALIASES

Deliberate choices: nothing is dropped without a word. A duplicated study is an error until `duplicates` says which one
counts. A missing or empty prediction is scored as an empty report. A prediction without a reference cannot be scored:
it is left out, counted and named. Predictions read whole texts, so tags of a completion belong in `generated`.
"""

import csv
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrg_grpo.errors import UserError

ALIASES: dict[str, tuple[str, ...]] = {
    "study_id": ("study_id", "id", "uid", "image_id", "question_id", "study"),
    "reference": ("reference", "ground_truth", "gt", "gt_report", "reference_report", "ref", "report"),
    "prediction": (
        "prediction",
        "model_prediction",
        "generated_report",
        "predicted_report",
        "pred",
        "output",
        "text",
        "hypothesis",
    ),
}
"""Column names of each kind, the first that is there counts."""

REPORT_COLUMNS = ("report", "Report Impression")
"""Report columns of a file that holds one side alone."""

SIDES = (
    (*ALIASES["reference"], *REPORT_COLUMNS, *ALIASES["prediction"]),
    (*ALIASES["prediction"], *REPORT_COLUMNS),
)
"""Where the text lies in a file of references and in one of predictions: either may hold both sides."""

_HEADING = re.compile(r"\b(findings|impression)\s*:\s*", re.IGNORECASE)
NAMED = 10
"""Studies named in a message; all are counted."""


@dataclass(frozen=True)
class PredictionRow:
    """One study's report and reference; labels are 14 class ids, in files that carry them."""

    study_id: str
    reference: str
    prediction: str
    generated: str | None = None
    think: str | None = None
    compliant: bool | None = None
    images: tuple[str, ...] = ()
    labels: tuple[int, ...] | None = None
    reference_labels: tuple[int, ...] | None = None


@dataclass
class Predictions:
    """Rows in file order, and what was odd about the file: study ids by kind of trouble."""

    rows: list[PredictionRow]
    layout: str
    duplicated: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    empty_references: list[str] = field(default_factory=list)
    without_reference: list[str] = field(default_factory=list)
    duplicates: str = "error"

    @property
    def has_text(self) -> bool:
        """False for a file that holds labels alone (keep_text = false)."""
        return any(row.prediction or row.reference for row in self.rows)

    def notes(self) -> list[str]:
        """One line for the layout and one for each kind of trouble, with its count, names and treatment."""
        kinds = (
            (self.duplicated, f"studies more than once: the {self.duplicates} one counts"),
            (self.missing, "predictions missing: scored as an empty report"),
            (self.empty, "predictions empty: scored as they are"),
            (self.empty_references, "references empty: scored as they are"),
            (self.without_reference, "predictions without a reference: cannot be scored, left out"),
        )
        lines = [f"{len(self.rows)} studies, layout: {self.layout}"]
        return lines + [f"{len(ids)} {what} ({named(ids)})" for ids, what in kinds if ids]


def named(ids: list[str]) -> str:
    """The first ten of them."""
    return ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")


def read_predictions(paths: list[str | Path], duplicates: str = "error") -> Predictions:
    """One prediction file, or references and predictions in two -> Predictions.

    duplicates: "error", "first" or "last". Raises UserError for a file that cannot be read, whose columns are not
    known, or that holds a study twice.
    """
    if duplicates not in ("error", "first", "last"):
        raise UserError(f'duplicates is "{duplicates}"; it must be error, first or last')
    if len(paths) not in (1, 2):
        raise UserError(f"{len(paths)} prediction files given; give one, or two: references, then predictions")
    if len(paths) == 2:
        return _pair([Path(path) for path in paths], duplicates)
    path = Path(paths[0])
    records = _records(path)
    if not records:
        raise UserError(f"{path} holds no predictions")
    columns = _columns(records, path)
    rexrank = columns["reference"] == "report" and columns["prediction"] == "model_prediction"
    rows, missing = [], []
    for number, record in enumerate(records, start=1):
        row = _row(record, columns, path, number, rexrank)
        if columns["prediction"] and _string(record, columns["prediction"], path, number) is None:
            missing.append(row.study_id)
        rows.append(row)
    odd = [f"{theirs} as {ours}" for ours, theirs in columns.items() if theirs and theirs != ours]
    if rexrank:
        layout = "ReXrank (report, model_prediction; the headings Findings: and Impression: are removed on both sides)"
    else:
        layout = f"{path.suffix[1:]} with study_id, reference, prediction" + (f" ({', '.join(odd)})" if odd else "")
    if columns["prediction"] is None:
        layout = f"{path.suffix[1:]} with labels alone, no text"
    kept, twice = _unique([(row.study_id, row) for row in rows], duplicates, path)
    result = Predictions(list(kept.values()), layout, duplicated=list(dict.fromkeys(twice)), duplicates=duplicates)
    gone = set(missing)
    result.missing = [row.study_id for row in result.rows if row.study_id in gone]
    return _count_empty(result)


def _pair(paths: list[Path], duplicates: str) -> Predictions:
    """References and predictions in two files, matched by study_id where both have it, else by order."""
    sides, named_sides, by_id = [], [], True
    for path, columns in zip(paths, SIDES, strict=True):
        records = _records(path, headerless="report")
        names = records[0].keys() if records else ()
        if not records:
            raise UserError(f"{path} holds no reports")
        text = next((name for name in columns if name in names), None)
        if text is None:
            raise UserError(f"{path} has no column report (it has {', '.join(map(str, names))})")
        key = next((name for name in ALIASES["study_id"] if name in names), None)
        by_id = by_id and key is not None
        named_sides.append(path.name if text == "report" else f"{path.name} ({text})")
        sides.append(
            [(_id(record, key, path, n), _string(record, text, path, n)) for n, record in enumerate(records, 1)]
        )
    if not by_id:
        if len(sides[0]) != len(sides[1]):
            raise UserError(
                f"{paths[0]} has {len(sides[0])} reports and {paths[1]} has {len(sides[1])}; without study_id in both "
                "they are matched by order and must be as many"
            )
        sides = [[(str(n), text) for n, (_, text) in enumerate(side, start=1)] for side in sides]
    how = "study_id" if by_id else "order"
    layout = f"two files matched by {how}: references {named_sides[0]}, predictions {named_sides[1]}"
    (references, twice), (predictions, again) = (
        _unique(side, duplicates, path) for side, path in zip(sides, paths, strict=True)
    )
    rows = [PredictionRow(key, _line(text), _line(predictions.get(key))) for key, text in references.items()]
    return _count_empty(
        Predictions(
            rows,
            layout,
            duplicated=list(dict.fromkeys(twice + again)),
            missing=[key for key in references if predictions.get(key) is None],
            without_reference=[key for key in predictions if key not in references],
            duplicates=duplicates,
        )
    )


def _unique(side: list[tuple[str, Any]], duplicates: str, path: Path) -> tuple[dict[str, Any], list[str]]:
    kept: dict[str, Any] = {}
    twice: list[str] = []
    for key, text in side:
        if key in kept:
            twice.append(key)
        if key not in kept or duplicates == "last":
            kept[key] = text
    _refuse_duplicates(twice, duplicates, path)
    return kept, twice


def _refuse_duplicates(twice: list[str], duplicates: str, path: Path) -> None:
    if twice and duplicates == "error":
        ids = list(dict.fromkeys(twice))
        raise UserError(
            f"{path} holds {len(ids)} studies more than once ({named(ids)}); say which counts with --duplicates first "
            "or --duplicates last"
        )


def _count_empty(result: Predictions) -> Predictions:
    if result.has_text:
        gone = set(result.missing)
        result.empty = [row.study_id for row in result.rows if not row.prediction and row.study_id not in gone]
        result.empty_references = [row.study_id for row in result.rows if not row.reference]
    return result


def _columns(records: list[dict[str, Any]], path: Path) -> dict[str, str | None]:
    """Which column holds what; a column counts where any record has it."""
    names = dict.fromkeys(name for record in records for name in record)
    found: dict[str, str | None] = {
        kind: next((name for name in aliases if name in names), None) for kind, aliases in ALIASES.items()
    }
    has_labels = "labels" in names and "reference_labels" in names
    for kind, column in found.items():
        if column is None and (kind == "study_id" or not has_labels):
            raise UserError(
                f"{path} has no column for {kind} (it has {', '.join(map(str, names))}); rename one to {kind}"
                + ("" if kind == "study_id" else ", or give references and predictions as two files")
            )
    return found


def _row(
    record: dict[str, Any], columns: dict[str, str | None], path: Path, number: int, rexrank: bool
) -> PredictionRow:
    reference, prediction, generated, think = (
        _string(record, column, path, number)
        for column in (columns["reference"], columns["prediction"], "generated", "think")
    )
    reference, prediction = _line(reference), _line(prediction)
    if rexrank:
        reference, prediction = (_HEADING.sub("", text).strip() for text in (reference, prediction))
    study_id = _id(record, columns["study_id"], path, number)
    images = record.get("images") or ()
    compliant = record.get("compliant")
    return PredictionRow(
        study_id,
        reference,
        prediction,
        generated=generated,
        think=think,
        compliant=compliant if isinstance(compliant, bool) else None,
        images=tuple(images) if isinstance(images, list | tuple) else (str(images),),
        labels=_labels(record.get("labels"), path, study_id),
        reference_labels=_labels(record.get("reference_labels"), path, study_id),
    )


def _labels(value: Any, path: Path, study_id: str) -> tuple[int, ...] | None:
    if value is None or value == "":
        return None
    if isinstance(value, list) and len(value) == 14 and all(label in (0, 1, 2, 3) for label in value):
        return tuple(int(label) for label in value)
    raise UserError(f"{path}, study {study_id}: labels must be 14 class ids from 0 to 3, not {str(value)[:60]}")


def _id(record: dict[str, Any], key: str | None, path: Path, number: int) -> str:
    if key is None:
        return str(number)
    value = record.get(key)
    if value is None or not str(value).strip():
        raise UserError(f"{path}, record {number}: {key} is empty; every prediction needs one")
    return str(value).strip()


def _line(text: str | None) -> str:
    """One line, "" where there is none."""
    return " ".join((text or "").split())


def _string(record: dict[str, Any], column: str | None, path: Path, number: int) -> str | None:
    """A cell as text; None where there is none: NaN, which pandas writes there, too.

    Half a surrogate pair, which JSON can write and no encoding can, becomes the replacement character.
    """
    value = record.get(column) if column else None
    if value is None or value != value:
        return None
    if isinstance(value, list | dict):
        raise UserError(f"{path}, record {number}: {column} is a {type(value).__name__}, not a text; write one text")
    return str(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _records(path: Path, headerless: str | None = None) -> list[dict[str, Any]]:
    """A csv, json or jsonl file -> records. headerless names the column of a CSV of one column without a header."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".json", ".jsonl"):
        raise UserError(f"{path}: predictions are read from .csv, .json or .jsonl files")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if kind == ".csv":
                return _csv_records(file, path, headerless)
            if kind == ".jsonl":
                return [_record(line, path, n) for n, line in enumerate(file, start=1) if line.strip()]
            return _json_records(json.load(file), path)
    except FileNotFoundError:
        raise UserError(f"no prediction file at {path}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, lists nested for ever
        raise UserError(f"{path}: not valid JSON ({error})") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error})") from error


def _csv_records(file: Any, path: Path, headerless: str | None) -> list[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = [row for row in csv.reader(file) if row]
    if not rows:
        return []
    header, known = rows[0], {name for names in (*ALIASES.values(), REPORT_COLUMNS) for name in names}
    if headerless and len(header) == 1 and header[0] not in known:
        return [{headerless: row[0]} for row in rows]
    twice = [name for name in header if name in known and header.count(name) > 1]
    if twice:
        raise UserError(f"{path} has the column {twice[0]} {header.count(twice[0])} times; keep the one that counts")
    records = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > len(header):
            raise UserError(f"{path} row {number} has {len(row)} cells for {len(header)} columns; quote its texts")
        # a short row: the cells that are not there are missing, not empty
        records.append(dict(zip(header, [*row, *[None] * (len(header) - len(row))], strict=True)))
    return records


def _json_records(tree: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(tree, dict) and tree and all(isinstance(value, dict) for value in tree.values()):
        tree = [{"study_id": key, **value} for key, value in tree.items()]  # keyed by study, as ReXrank's
    if not isinstance(tree, list) or not all(isinstance(record, dict) for record in tree):
        raise UserError(f"{path}: the JSON must be a list of records, or one object of records by study_id")
    return tree


def _record(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} line {number}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} line {number}: not a JSON object")
    return record
