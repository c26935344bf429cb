"""Prediction files: every layout reads to the same rows, and nothing odd goes unnamed."""

import csv
import json

import pytest

from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.prediction_files import PredictionRow, read_predictions

STUDIES = [
    ("s1", "Lungs are clear.", "Clear lungs."),
    ("s2", 'No "effusion", none.', "Mild edema,\nleft."),
    ("s3", "Edema.", ""),
]
EXPECTED = [
    ("s1", "Lungs are clear.", "Clear lungs."),
    ("s2", 'No "effusion", none.', "Mild edema, left."),
    ("s3", "Edema.", ""),
]


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([header, *rows] if header else rows)
    return path


def triples(result):
    return [(row.study_id, row.reference, row.prediction) for row in result.rows]


def files(tmp_path):
    """The same studies in every layout -> paths to read."""
    named = [dict(zip(("study_id", "reference", "prediction"), row)) for row in STUDIES]
    rexrank = [
        {"report": f"Findings: {r} Impression: Same.", "model_prediction": f"FINDINGS: {p}", "id": s}
        for s, r, p in STUDIES
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, named)) + "\n\n")
    (tmp_path / "own.json").write_text(json.dumps(named))
    (tmp_path / "keyed.json").write_text(json.dumps({row["study_id"]: row for row in named}))
    (tmp_path / "rexrank.json").write_text(json.dumps({row["id"]: row for row in rexrank}))
    llava = [{"question_id": s, "ground_truth": r, "text": p} for s, r, p in STUDIES]
    (tmp_path / "llava.jsonl").write_text("\n".join(map(json.dumps, llava)))
    write_csv(
        tmp_path / "own.csv", ("prediction", "extra", "study_id", "reference"), [(p, 1, s, r) for s, r, p in STUDIES]
    )
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "own.csv").read_bytes())
    write_csv(tmp_path / "gt_reports.csv", ("study_id", "report"), [(s, r) for s, r, _ in STUDIES])
    write_csv(tmp_path / "predicted_reports.csv", ("study_id", "report"), [(s, p) for s, _, p in reversed(STUDIES)])
    write_csv(tmp_path / "gts.csv", None, [(r,) for _, r, _ in STUDIES])
    write_csv(tmp_path / "res.csv", None, [(p,) for _, _, p in STUDIES])
    return tmp_path


@pytest.mark.parametrize(
    "names,layout",
    [
        (["own.jsonl"], "jsonl with study_id, reference, prediction"),
        (["own.json"], "json with study_id"),
        (["keyed.json"], "json with study_id"),
        (["own.csv"], "csv with study_id"),
        (["bom.csv"], "csv with study_id"),
        (["llava.jsonl"], "question_id as study_id, ground_truth as reference, text as prediction"),
        (["gt_reports.csv", "predicted_reports.csv"], "two files matched by study_id: references gt_reports.csv"),
    ],
)
def test_layouts(tmp_path, names, layout):
    folder = files(tmp_path)
    result = read_predictions([folder / name for name in names])
    assert triples(result) == EXPECTED
    assert layout in result.layout and result.empty == ["s3"] and result.missing == result.duplicated == []
    assert result.notes()[0].startswith("3 studies, layout: ") and "1 predictions empty" in result.notes()[1]


def test_rexrank(tmp_path):
    result = read_predictions([files(tmp_path) / "rexrank.json"])
    assert "ReXrank" in result.layout
    assert triples(result)[0] == ("s1", "Lungs are clear. Same.", "Clear lungs.")


def test_headerless_files_by_order(tmp_path):
    folder = files(tmp_path)
    result = read_predictions([folder / "gts.csv", folder / "res.csv"])
    assert triples(result) == [(str(n), r, p) for n, (_, r, p) in enumerate(EXPECTED, start=1)]
    assert "by order" in result.layout
    write_csv(folder / "res.csv", None, [("one",)])
    with pytest.raises(UserError, match=r"gts.csv has 3 reports and .*res.csv has 1"):
        read_predictions([folder / "gts.csv", folder / "res.csv"])


def test_of_a_file_with_both_sides_the_side_that_was_asked_for_counts(tmp_path):
    both = write_csv(tmp_path / "both.csv", ("study_id", "report", "model_prediction"), [("s1", "Truth.", "Guess.")])
    text = write_csv(tmp_path / "text.csv", ("study_id", "prediction", "reference"), [("s1", "Other.", "Truth.")])
    for references in (both, text):
        result = read_predictions([references, both])
        assert triples(result) == [("s1", "Truth.", "Guess.")]
        assert result.layout.endswith("predictions both.csv (model_prediction)")
    assert triples(read_predictions([both, text])) == [("s1", "Truth.", "Other.")]


def test_round_trip(tmp_path):
    rows = [
        PredictionRow(
            "a", "Ref.", "Pred.", "<think>t</think><report>Pred.</report>", "t", True, ("x.png",), (1,) * 14, (0,) * 14
        ),
        PredictionRow("b", "Ref.", "Pred."),
    ]
    records = [{key: value for key, value in vars(row).items() if value is not None and value != ()} for row in rows]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_predictions([tmp_path / "p.jsonl"]).rows == rows


def test_labels_alone(tmp_path):
    record = {"study_id": "a", "labels": [0] * 13 + [1], "reference_labels": [2] * 14}
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    result = read_predictions([tmp_path / "p.jsonl"])
    assert not result.has_text and result.rows[0].labels == (0,) * 13 + (1,) and "labels alone" in result.layout
    assert len(result.notes()) == 1  # no text is not the same as empty text
    for bad in ([0] * 13, [4] * 14, "none"):
        (tmp_path / "p.jsonl").write_text(json.dumps({**record, "labels": bad}))
        with pytest.raises(UserError, match="study a: labels must be 14"):
            read_predictions([tmp_path / "p.jsonl"])


def test_duplicates(tmp_path):
    rows = [("s1", "R", "one"), ("s2", "R", "two"), ("s1", "R", "three")]
    path = write_csv(tmp_path / "p.csv", ("study_id", "reference", "prediction"), rows)
    with pytest.raises(UserError, match=r"1 studies more than once \(s1\); .*--duplicates first"):
        read_predictions([path])
    for duplicates, kept in (("first", "one"), ("last", "three")):
        result = read_predictions([path], duplicates)
        assert [row.prediction for row in result.rows] == [kept, "two"] and result.duplicated == ["s1"]
        assert f"1 studies more than once: the {duplicates} one counts (s1)" in result.notes()
    with pytest.raises(UserError, match="error, first or last"):
        read_predictions([path], "any")


def test_missing_empty_and_extra_are_counted_and_named(tmp_path):
    many = [f"m{n:02}" for n in range(12)]
    write_csv(
        tmp_path / "gt.csv", ("study_id", "report"), [("a", "R"), ("b", "R"), ("c", ""), *((m, "R") for m in many)]
    )
    write_csv(tmp_path / "pred.csv", ("study_id", "report"), [("a", " "), ("c", "P"), ("x", "P")])
    result = read_predictions([tmp_path / "gt.csv", tmp_path / "pred.csv"])
    assert len(result.rows) == 15 and result.rows[1].prediction == ""  # missing ones are scored as empty
    assert result.missing == ["b", *many] and result.empty == ["a"]
    assert result.empty_references == ["c"] and result.without_reference == ["x"]
    text = "\n".join(result.notes())
    assert (
        "13 predictions missing: scored as an empty report (b, m00, m01, m02, m03, m04, m05, m06, m07, m08, ...)"
        in text
    )
    assert "1 predictions without a reference: cannot be scored, left out (x)" in text


def test_a_null_prediction_is_missing(tmp_path):
    rows = [{"study_id": "a", "reference": "R", "prediction": None}, {"study_id": "b", "reference": "R"}]
    rows.append({"study_id": "c", "reference": "R", "prediction": "P"})
    rows.append({"study_id": "d", "reference": "R", "prediction": float("nan")})  # as pandas writes it
    (tmp_path / "p.json").write_text(json.dumps(rows))
    result = read_predictions([tmp_path / "p.json"])
    assert result.missing == ["a", "b", "d"] and result.empty == []


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("p.csv", "study_id,prediction\na,b\n", "no column for reference"),
        ("p.jsonl", json.dumps({"labels": [0] * 14, "reference_labels": [0] * 14}), "no column for study_id"),
        ("p.csv", "study_id,reference,prediction\n,b,c\n", "record 1: study_id is empty"),
        ("p.csv", "study_id,reference,prediction\na,b,c,d\n", "row 2 has 4 cells for 3 columns"),
        ("p.csv", "study_id,reference,prediction\n", "holds no predictions"),
        ("p.csv", "study_id,reference,prediction,prediction\na,b,c,d\n", "the column prediction 2 times"),
        ("p.jsonl", '{"study_id": 1, "reference": "r", "prediction": ["p", "q"]}', "record 1: prediction is a list"),
        ("p.jsonl", '{"study_id": 1}\n{', "line 2: not valid JSON"),
        ("p.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("p.json", "{", "not valid JSON"),
        ("p.json", "[1, 2]", "list of records"),
        ("p.parquet", "", "csv, .json, .jsonl or .xlsx"),
        (
            "p.json",
            '{"a": {"reference": "r", "prediction": "p"}, "a": {"reference": "r"}}',
            "has a twice in one object",
        ),
        ("p.jsonl", '{"study_id": 1, "reference": "r", "prediction": "p", "prediction": "q"}', "has prediction twice"),
        ("p.json", '{"a": ["one", "two"]}', "has 2 texts for a"),
        ("p.json", '{"a": "one", "b": ["two"]}', "no column for prediction"),
        ("p.json", '{"reference": ["r", "s"], "prediction": ["p"]}', r"columns of different lengths \(1, 2\)"),
        ("p.csv", "study_id,reference,prediction\na,,b\nb,nan,c\n", "all 2 references are empty"),
        ("p.csv", "study_id,reference,prediction\nnan,r,b\n", "record 1: study_id is empty"),
        ("p.csv", "id,gt,target,output\na,r,s,p\n", "has the columns gt, target, and any of them could be the one"),
        ("p.csv", "id,findings,impression,output\na,r,s,p\n", "has the columns findings, impression, and any"),
        (
            "p.csv",
            "50414267,The lungs are clear and the heart is of a normal size.\n",
            "its first row must be a header",
        ),
        ("p.txt", "Clear.\n", "no column for prediction .*as two files"),
        ("p", None, "is a folder without .txt files"),
    ],
)
def test_bad_files_end_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_predictions([path])
    assert "\n" not in str(error.value) and name in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="no prediction file"):
        read_predictions([tmp_path / "none.csv"])
    with pytest.raises(UserError, match="3 prediction files"):
        read_predictions(["a", "b", "c"])


TWO = [("s1", "Lungs are clear.", "Clear lungs."), ("s2", "Edema, mild; left.", "No edema.")]
ONE_FILE = {
    "semicolons.csv": (
        'study_id;reference;prediction\ns1;Lungs are clear.;Clear lungs.\ns2;"Edema, mild; left.";No edema.\n',
        "csv, semicolons, with study_id",
    ),
    "tabs.csv": (
        "study_id\treference\tprediction\ns1\tLungs are clear.\tClear lungs.\ns2\tEdema, mild; left.\tNo edema.\n",
        "csv, tabs, with study_id",
    ),
    "tabs.tsv": ("id\tgt\tpred\ns1\tLungs are clear.\tClear lungs.\ns2\tEdema, mild; left.\tNo edema.\n", "tsv with"),
    "spaces.csv": (
        'study_id, reference, prediction\ns1, Lungs are clear., Clear lungs.\ns2, "Edema, mild; left.", No edema.\n',
        "csv with study_id, reference, prediction",
    ),
    "capitals.csv": (
        "Filename,Reference Report,Generated Text\n"
        's1,Lungs are clear.,Clear lungs.\ns2,"Edema, mild; left.",No edema.\n',
        "(Filename as study_id, Reference Report as reference, Generated Text as prediction)",
    ),
    "findings.csv": (
        'dicom_id,findings,generated_text\ns1,Lungs are clear.,Clear lungs.\ns2,"Edema, mild; left.",No edema.\n',
        "(dicom_id as study_id, findings as reference, generated_text as prediction)",
    ),
    "rows.json": (
        [{"image_id": s, "gt_report": r, "pred_report": p} for s, r, p in TWO],
        "(image_id as study_id, gt_report as reference, pred_report as prediction)",
    ),
    "hypotheses.jsonl": (
        "\n".join(json.dumps({"image_path": s, "label": r, "hypothesis": p}) for s, r, p in TWO),
        "(image_path as study_id, label as reference, hypothesis as prediction)",
    ),
    "wrapped.json": (
        {"model": "x", "results": [{"id": s, "reference": r, "response": p} for s, r, p in TWO]},
        'json, the list "results", with',
    ),
    "pandas.json": (
        {
            "study_id": {"0": "s1", "1": "s2"},
            "reference": {"0": TWO[0][1], "1": TWO[1][1]},
            "prediction": {"0": TWO[0][2], "1": TWO[1][2]},
        },
        "json, by columns, with",
    ),
    "lists.json": ({"id": ["s1", "s2"], "gts": [r for _, r, _ in TWO], "res": [p for *_, p in TWO]}, "by columns"),
}


@pytest.mark.parametrize("name", ONE_FILE)
def test_files_of_other_systems(tmp_path, name):
    content, layout = ONE_FILE[name]
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    result = read_predictions([tmp_path / name])
    assert triples(result) == TWO and layout in result.layout


def sides(folder):
    """References and predictions of the same studies in every form of one side -> a path by name of the form."""
    annotation = [{"id": s, "study_id": n, "report": r, "image_path": [f"{s}.png"]} for n, (s, r, _) in enumerate(TWO)]
    contents = {
        "texts.json": {s: p for s, _, p in TWO},
        "lists.json": {s: [p] for s, _, p in TWO},
        "gts.json": {s: [r] for s, r, _ in TWO},
        "annotation.json": {"train": [{"id": "s9", "report": "x"}], "val": [], "test": annotation},
        "ordered.json": [p for *_, p in TWO],
        "refs.txt": "".join(f"{r}\n" for _, r, _ in TWO),
        "hyps.txt": "".join(f"{p}\n" for *_, p in TWO),
        "impressions.csv": "Report Impression\n" + "".join(f'"{r}"\n' for _, r, _ in TWO),
        "named.csv": "Generated Reports\n" + "".join(f'"{p}"\n' for *_, p in TWO),
        "series.csv": "0\n" + "".join(f'"{p}"\n' for *_, p in TWO),
        "dicom.csv": "study,dicom_id,report\n" + "".join(f'7{s},{s},"{p}"\n' for s, _, p in TWO),
    }
    for name, content in contents.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    for name, place in (("ref", 1), ("hyp", 2)):
        (folder / name).mkdir()
        for row in TWO:
            (folder / name / f"{row[0]}.txt").write_text(row[place])


@pytest.mark.parametrize(
    ("first", "second", "layout"),
    [
        ("gts.json", "lists.json", "by study_id: references gts.json (texts by study), predictions lists.json (texts"),
        ("annotation.json", "texts.json", "by id: references annotation.json (test split of an annotation file, id as"),
        ("annotation.json", "dicom.csv", "predictions dicom.csv (dicom_id as study_id)"),
        ("ref", "hyp", "by study_id: references ref (a folder of one file a report)"),
        ("ref", "texts.json", "by study_id"),
        ("refs.txt", "hyps.txt", "by order: references refs.txt (a report a line)"),
        ("refs.txt", "ordered.json", "by order"),
        ("impressions.csv", "named.csv", 'predictions named.csv (first row "Generated Reports" read as its header)'),
        ("impressions.csv", "series.csv", 'csv (Report Impression), predictions series.csv (first row "0" read'),
    ],
)  # fmt: skip
def test_two_files_of_other_systems(tmp_path, first, second, layout):
    sides(tmp_path)
    result = read_predictions([tmp_path / first, tmp_path / second])
    by_order = "by order" in result.layout
    assert triples(result) == [(str(n) if by_order else s, r, p) for n, (s, r, p) in enumerate(TWO, start=1)]
    assert layout in result.layout


@pytest.mark.parametrize("spelling", ["s{}", "{}.0", "p10/{}", "0{}", "{}.txt", "p10/s{}.png", "study-{}"])
def test_ids_in_two_spellings_are_refused_by_name(tmp_path, spelling):
    """All in another spelling, and one: neither may become a page of zeros or one study less."""
    ids = [str(50414267 + n) for n in range(3)]
    gt = write_csv(tmp_path / "gt.csv", ("study_id", "report"), [(i, "Clear.") for i in ids])
    other = write_csv(tmp_path / "p.csv", ("study_id", "report"), [(spelling.format(i), "Clear.") for i in ids])
    with pytest.raises(
        UserError, match=r"no study in common: the ids look like '50414267' \(study_id\) in the"
    ) as error:
        read_predictions([gt, other])
    assert repr(spelling.format(ids[0])) in str(error.value)
    if spelling != "study-{}":  # that is another id, as far as can be told
        mixed = [*ids[:2], spelling.format(ids[2])]
        write_csv(other, ("study_id", "report"), [(i, "Clear.") for i in mixed])
        with pytest.raises(UserError, match="1 studies are written in two ways: '50414269' in") as error:
            read_predictions([gt, other])
        assert repr(spelling.format(ids[2])) in str(error.value)


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", "null", "<NA>"])
def test_cells_that_say_nothing_are_no_words(tmp_path, cell):
    rows = [("a", "Edema.", cell), ("b", cell, "Clear."), ("c", "None seen.", "nan")]
    result = read_predictions([write_csv(tmp_path / "p.csv", ("study_id", "reference", "prediction"), rows)])
    assert triples(result) == [("a", "Edema.", ""), ("b", "", "Clear."), ("c", "None seen.", "")]
    assert result.missing == ["a", "c"] and result.empty_references == ["b"]


def test_a_first_row_that_is_a_report_counts_as_one(tmp_path):
    (tmp_path / "gts.csv").write_text("Normal.\nNo findings.\n")
    (tmp_path / "res.csv").write_text("Clear\nEdema\n")
    assert triples(read_predictions([tmp_path / "gts.csv", tmp_path / "res.csv"])) == [
        ("1", "Normal.", "Clear"), ("2", "No findings.", "Edema"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "reference,prediction\nClear.,Clear\nEdema.,\n"),
        ("p.tsv", "Ground Truth\tgenerated_text\nClear.\tClear\nEdema.\t\n"),
        ("p.json", json.dumps([{"gt": "Clear.", "pred": "Clear"}, {"gt": "Edema.", "pred": ""}])),
        ("p.json", json.dumps({"reference": ["Clear.", "Edema."], "prediction": ["Clear", ""]})),
    ],
)
def test_one_file_of_both_sides_needs_no_ids(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_predictions([tmp_path / name])
    assert [(row.study_id, row.reference, row.prediction) for row in found.rows] == [
        ("1", "Clear.", "Clear"), ("2", "Edema.", ""),
    ]  # fmt: skip
    assert "no ids: studies are called by the number of their row" in found.layout and found.empty == ["2"]
