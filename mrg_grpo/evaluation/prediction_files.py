"""Prediction files in and out: any system's reports, scored by the same ruler.

Layouts read, each recognised by its columns and named in what is printed:

    ours              jsonl, json or csv with study_id, reference, prediction; ours adds generated (whole completion),
                      think, compliant, images, and labels of both sides
    ReXrank           json of records with `report` ("Findings: ... Impression: ...") and `model_prediction`
    two files         references, then predictions: CXR-Report-Metric's CSVs (study_id, report), R2GenCMN's gts.csv
                      and res.csv (no header), CheXbert's ("Report Impression"); without study_id matched by order
    other names       id, filename, dicom_id ...; ground_truth, gt ...; text, output ...: see columns.py; any with
                      `--columns`
    chat models       messages, batch outputs and what ms-swift, LLaMA-Factory and lm-eval write: see messages.py
    both, without id  a file of references and predictions: each row is a study, called by its number
    other forms       semicolons, tabs, Excel, texts by study, a file or a line a report ...: see record_files.py

Deliberate choices: nothing is dropped without a word. A duplicated study is an error until `duplicates` says which one
counts. A missing or empty prediction is scored as an empty report. A prediction without a reference cannot be scored:
it is left out, counted and named. Files whose ids have nothing in common, or write a study in two ways, are refused:
that would be a page of zeros. Predictions read whole texts, so tags of a completion belong in `generated`.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrg_grpo.data.records import first_names
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.columns import (
    KEYS,
    OF_ONE_FILE,
    OF_TWO_FILES,
    ColumnNames,
    column_names,
    id_columns,
    named_column,
    shown,
    text_column,
)
from mrg_grpo.evaluation.messages import answer
from mrg_grpo.evaluation.record_files import RecordFile, is_nothing, read_records

_HEADING = re.compile(r"\b(findings|impression)\s*:\s*", re.IGNORECASE)


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
    credentialed: bool = False
    """Whether a record says that it comes from credentialed data, so that no text of it may be shown."""

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
        return lines + [f"{len(ids)} {what} ({first_names(ids)})" for ids, what in kinds if ids]


def read_predictions(
    paths: list[str | Path], duplicates: str = "error", columns: ColumnNames | None = None
) -> Predictions:
    """One prediction file, or references and predictions in two -> Predictions.

    duplicates: "error", "first" or "last". columns: names that come before the known ones; of two files the reference
    is in the first, the prediction in the second, and the id in either or both. Raises UserError for a file that cannot
    be read, whose columns are not known, or that holds a study twice.
    """
    named = columns or ColumnNames()
    if duplicates not in ("error", "first", "last"):
        raise UserError(f'duplicates is "{duplicates}"; it must be error, first or last')
    if len(paths) not in (1, 2):
        raise UserError(f"{len(paths)} prediction files given; give one, or two: references, then predictions")
    if len(paths) == 2:
        return _pair([Path(path) for path in paths], duplicates, named)
    path = Path(paths[0])
    file = read_records(path, named.folded(*KEYS))
    if not file.records:
        raise UserError(f"{path} holds no predictions")
    found = _columns(file.records, path, named)
    rexrank = found["reference"] == "report" and found["prediction"] == "model_prediction"
    rows, missing = [], []
    for number, record in enumerate(file.records, start=1):
        row = _row(record, found, path, number, rexrank)
        if found["prediction"] and _string(record, found["prediction"], path, number) is None:
            missing.append(row.study_id)
        rows.append(row)
    kept, twice = _unique([(row.study_id, row) for row in rows], duplicates, path)
    layout = _layout(path, file, found, rexrank)
    result = Predictions(list(kept.values()), layout, duplicated=list(dict.fromkeys(twice)), duplicates=duplicates)
    result.credentialed = _credentialed(file)
    gone = set(missing)
    result.missing = [row.study_id for row in result.rows if row.study_id in gone]
    return _count_empty(result, path)


def _layout(path: Path, file: RecordFile, columns: dict[str, str | None], rexrank: bool) -> str:
    """What a file of both sides was recognised as."""
    kind = path.suffix[1:] + (f", {file.form}," if file.form else "")
    if columns["prediction"] is None:
        return f"{kind} with labels alone, no text"
    if rexrank:
        return "ReXrank (report, model_prediction; the headings Findings: and Impression: are removed on both sides)"
    odd = [f"{theirs} as {ours}" for ours, theirs in columns.items() if theirs and theirs != ours]
    if columns["study_id"] is None:
        odd.append("no ids: studies are called by the number of their row")
    return f"{kind} with study_id, reference, prediction" + (f" ({', '.join(odd)})" if odd else "")


def _credentialed(file: RecordFile) -> bool:
    return any(record.get("credentialed") for record in file.records)


def _pair(paths: list[Path], duplicates: str, named: ColumnNames) -> Predictions:
    """References and predictions in two files, matched by id where both have one, else by order."""
    files, texts = [], []
    for path, brackets, side in zip(paths, OF_TWO_FILES, OF_ONE_FILE, strict=True):
        file = read_records(path, named.folded("id", side))
        if not file.records:
            raise UserError(f"{path} holds no reports")
        records = file.records
        text = named_column(records, side, named, path) or text_column(records, brackets, path)
        if text is None:
            raise UserError(
                f"{path} has no column report (it has {shown(column_names(records))}); say which it is with "
                f"--columns {side}=NAME"
            )
        files.append(file)
        texts.append(text)
    keys = _matching_ids(files, paths, named)
    sides = [
        [(_id(record, key, path, n), _string(record, text, path, n)) for n, record in enumerate(file.records, 1)]
        for file, key, text, path in zip(files, keys, texts, paths, strict=True)
    ]
    if keys[0] is None and len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{paths[0]} has {len(sides[0])} reports and {paths[1]} has {len(sides[1])}; without study_id in both "
            "they are matched by order and must be as many"
        )
    (references, twice), (predictions, again) = (
        _unique(side, duplicates, path) for side, path in zip(sides, paths, strict=True)
    )
    missing = [key for key in references if predictions.get(key) is None]
    without_reference = [key for key in predictions if key not in references]
    _refuse_two_spellings([key for key in missing if key not in predictions], without_reference, paths)
    rows = [PredictionRow(key, _line(text), _line(predictions.get(key))) for key, text in references.items()]
    named_sides = [_named_side(*side) for side in zip(paths, files, texts, keys, strict=True)]
    how = "order" if keys[0] is None else "study_id" if keys == ["study_id", "study_id"] else "id"
    return _count_empty(
        Predictions(
            rows,
            f"two files matched by {how}: references {named_sides[0]}, predictions {named_sides[1]}",
            duplicated=list(dict.fromkeys(twice + again)),
            missing=missing,
            without_reference=without_reference,
            duplicates=duplicates,
            credentialed=any(map(_credentialed, files)),
        ),
        paths[0],
    )


def _named_side(path: Path, file: RecordFile, text: str, key: str | None) -> str:
    """A file's name, with what was recognised in it."""
    known = [file.form, "" if text == "report" else text, "" if key in (None, "study_id") else f"{key} as study_id"]
    return path.name + (f" ({', '.join(filter(None, known))})" if any(known) else "")


def _matching_ids(files: list[RecordFile], paths: list[Path], named: ColumnNames) -> list[str | None]:
    """The id columns by which two files have the most studies in common; [None, None] where a file has no id.

    named: the one of `--columns`, in the files that have it. Raises UserError that names an id of each side where none
    is common: a page of zeros would be no result.
    """
    either = replace(named, optional=True)
    found = [named_column(file.records, "id", either, path) for file, path in zip(files, paths, strict=True)]
    if not any(found):
        named_column(files[1].records, "id", named, paths[1])  # says what there is
    columns = [[name] if name else id_columns(file.records) for name, file in zip(found, files, strict=True)]
    first, second = (
        {name: {str(record.get(name)).strip() for record in file.records} for name in names}
        for file, names in zip(files, columns, strict=True)
    )
    if not first or not second:
        return [None, None]
    common = {(a, b): len(first[a] & second[b]) for a in first for b in second}
    most = max(common.values())
    if most == 0:
        a, b = next(iter(common))
        one, other = (_id(file.records[0], key, path, 1) for file, key, path in zip(files, (a, b), paths, strict=True))
        raise UserError(
            f"{paths[0]} and {paths[1]} have no study in common: the ids look like {one!r} ({a}) in the first and "
            f"{other!r} ({b}) in the second; write them in one way in both"
        )
    best = [pair for pair, count in common.items() if count == most]
    return list(next((pair for pair in best if pair[0] == pair[1]), best[0]))


def _refuse_two_spellings(missing: list[str], extra: list[str], paths: list[Path]) -> None:
    """UserError where a study without a prediction and a prediction without a study are one, written in two ways."""
    spelled = {_bare(key): key for key in extra}
    twice = [key for key in missing if _bare(key) in spelled]
    if twice:
        raise UserError(
            f"{len(twice)} studies are written in two ways: {twice[0]!r} in {paths[0]} and "
            f"{spelled[_bare(twice[0])]!r} in {paths[1]}; write each id in one way in both"
        )


def _bare(key: str) -> str:
    """An id without what people add to it: folders, an ending, MIMIC's s, leading zeros, and ".0" of a number."""
    name = re.sub(r"\.(?:0+|txt|png|jpe?g|dcm|json)$", "", re.split(r"[/\\]", key)[-1].lower())
    return re.sub(r"^s?0*(?=\d)", "", name)


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
            f"{path} holds {len(ids)} studies more than once ({first_names(ids)}); say which counts with --duplicates "
            "first or --duplicates last"
        )


def _count_empty(result: Predictions, path: Path) -> Predictions:
    if result.has_text:
        gone = set(result.missing)
        result.empty = [row.study_id for row in result.rows if not row.prediction and row.study_id not in gone]
        result.empty_references = [row.study_id for row in result.rows if not row.reference]
        if len(result.empty_references) == len(result.rows):
            raise UserError(
                f"{path}: all {len(result.rows)} references are empty; name the file or column that has them"
            )
    return result


def _columns(records: list[dict[str, Any]], path: Path, named: ColumnNames) -> dict[str, str | None]:
    """Which column holds what, by `--columns` or by its name; a column counts where any record has it."""
    found: dict[str, str | None] = {
        "study_id": named_column(records, "id", named, path) or next(iter(id_columns(records)), None)
    }
    for side, brackets in OF_ONE_FILE.items():
        found[side] = named_column(records, side, named, path) or text_column(records, brackets, path)
    names = column_names(records)
    has_labels = "labels" in names and "reference_labels" in names
    lacking = [side for side in OF_ONE_FILE if found[side] is None and not has_labels]
    if found["study_id"] is None and not all(found[side] for side in OF_ONE_FILE):  # of one row its number is an id
        lacking.append("study_id")
    if lacking:
        key = "id" if lacking[0] == "study_id" else lacking[0]
        two = ", or give references and predictions as two files" if lacking[0] in OF_ONE_FILE else ""
        raise UserError(
            f"{path} has no column for {lacking[0]} (it has {shown(names)}); say which it is with --columns {key}=NAME"
            f"{two}"
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
    compliant = record.get("compliant")
    return PredictionRow(
        study_id,
        reference,
        prediction,
        generated=generated,
        think=think,
        compliant=compliant if isinstance(compliant, bool) else None,
        images=_images(record.get("images")),
        labels=None if columns["reference"] == "labels" else _labels(record.get("labels"), path, study_id),
        reference_labels=_labels(record.get("reference_labels"), path, study_id),
    )


def _images(value: Any) -> tuple[str, ...]:
    """Paths of the images; ms-swift writes each as an object with its path."""
    images = value if isinstance(value, list) else [value] if value else []
    return tuple(str(image.get("path") or "") if isinstance(image, dict) else str(image) for image in images)


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
    if is_nothing(value) or not str(value).strip():
        raise UserError(f"{path}, record {number}: {key} is empty; every prediction needs one")
    return str(value).strip()


def _line(text: str | None) -> str:
    """One line, "" where there is none."""
    return " ".join((text or "").split())


def _string(record: dict[str, Any], column: str | None, path: Path, number: int) -> str | None:
    """A cell as text; None where there is none.

    Half a surrogate pair, which JSON can write and no encoding can, becomes the replacement character.
    """
    value = record.get(column) if column else None
    if is_nothing(value):
        return None
    if isinstance(value, list | dict):
        try:
            value = answer(value)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, record {number}: {column} {error}; write one text, or name the one that counts with "
                f"--columns, such as {column}.0"
            ) from error
        if value is None:
            return None
    return str(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
