"""`--columns`: any names, exact ones first, and what is not there is told with what is."""

import csv
import json

import pytest

from mrg_grpo.cli import main
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.columns import ColumnNames, parse_columns
from mrg_grpo.evaluation.prediction_files import read_predictions

ROWS = [("s1", "Lungs are clear.", "Clear lungs."), ("s2", "Mild edema.", "No edema.")]


def triples(result):
    return [(row.study_id, row.reference, row.prediction) for row in result.rows]


def write(path, header, rows, delimiter=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ColumnNames()),
        (["id=case,reference=truth,prediction=ours"], ColumnNames("case", "truth", "ours")),
        (["prediction=a b", "reference = x = y"], ColumnNames("", "x = y", "a b")),
        (["prediction=one, two,reference=t"], ColumnNames("", "t", "one, two")),
        ([r"prediction=odd\,id=1,reference=t"], ColumnNames("", "t", "odd,id=1")),
    ],
)
def test_the_grammar(flags, expected):
    assert parse_columns(flags) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["predicton=x"], '"predicton" is no key; did you mean "prediction"?'),
        (["id=x,ref=y"], '"ref" is no key; the keys are id, reference, prediction'),
        (["x"], "'x': is not KEY=NAME"),
        (["id="], "'id=': is not KEY=NAME"),
        ([""], "'': is not KEY=NAME"),
        (["=x"], '"" is no key'),
        (["id=x", "id=y"], "id is named twice, x and y"),
    ],
)
def test_a_bad_flag_is_one_line(flags, message, tmp_path, capsys):
    with pytest.raises(UserError) as error:
        parse_columns(flags)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert main(["score", str(tmp_path / "a.csv"), *(f"--columns={flag}" for flag in flags)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_any_names_in_one_file(tmp_path):
    odd = ("Fall, Nr=1", "Was stimmt", "命题")
    named = ColumnNames(*odd)
    for name, mark in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")):
        path = write(tmp_path / name, odd, ROWS, mark)
        assert triples(read_predictions([path], columns=named)) == ROWS
        with pytest.raises(UserError, match=r"no column with a known name .*--columns"):
            read_predictions([path])
    (tmp_path / "d.json").write_text(json.dumps({name: list(row) for name, row in zip(odd, zip(*ROWS))}))  # by columns
    (tmp_path / "e.json").write_text(json.dumps({"x": [dict(zip(odd, row)) for row in ROWS]}))
    for name in ("d.json", "e.json"):
        result = read_predictions([tmp_path / name], columns=named)
        assert triples(result) == ROWS and "Was stimmt as reference" in result.layout


def test_exact_names_come_before_alike_ones_and_before_known_ones(tmp_path):
    header = ("study_id", "reference", "Report", "report", "prediction")
    path = write(tmp_path / "a.csv", header, [("s1", "no", "big", "small", "no")])
    for name in ("Report", "report"):
        row = read_predictions([path], columns=ColumnNames(reference=name, prediction="REFERENCE")).rows[0]
        assert (row.reference, row.prediction) == ("big" if name == "Report" else "small", "no")
    with pytest.raises(UserError, match='no column "REPORT"'):  # two are alike
        read_predictions([path], columns=ColumnNames(reference="REPORT"))


def test_two_files(tmp_path):
    gt = write(tmp_path / "gt.csv", ("case", "truth"), [(s, r) for s, r, _ in ROWS])
    ours = write(tmp_path / "ours.csv", ("what", "Nr"), [(p, s) for s, _, p in reversed(ROWS)])
    both = ColumnNames("case", "truth", "what")
    with pytest.raises(UserError, match="matched by order and must be as many"):  # an id on one side is none
        read_predictions([gt, write(tmp_path / "few.csv", ("what", "Nr"), [("p", "s1")])], columns=both)
    renamed = write(tmp_path / "renamed.csv", ("what", "case"), [(p, s) for s, _, p in reversed(ROWS)])
    assert triples(read_predictions([gt, renamed], columns=both)) == ROWS
    known = write(tmp_path / "known.csv", ("what", "study_id"), [(p, s) for s, _, p in reversed(ROWS)])
    assert triples(read_predictions([gt, known], columns=both)) == ROWS  # the id in the file that has it
    with pytest.raises(
        UserError, match=r'ours.csv has no column "which" \(--columns prediction=NAME\); it has what, Nr'
    ):
        read_predictions([gt, ours], columns=ColumnNames("", "truth", "which"))
    with pytest.raises(UserError, match=r'renamed.csv has no column "cse" .*did you mean "case"'):
        read_predictions([gt, renamed], columns=ColumnNames("cse", "truth", "what"))


def test_a_name_that_is_not_there(tmp_path):
    path = write(tmp_path / "a.csv", ("case", "truth", "ours"), ROWS)
    with pytest.raises(UserError) as error:
        read_predictions([path], columns=ColumnNames("case", "thruth", "ours"))
    asked = '(--columns reference=NAME); did you mean "truth"? it has case, truth, ours'
    assert str(error.value) == f'{path} has no column "thruth" {asked}'


def nested(text):
    return {"id": "x", "truth": {"en": "Clear."}, "out": {"body": {"choices": [{"message": {"content": text}}]}}}


@pytest.mark.parametrize("path", ["out.body.choices.0.message.content", "out.body.choices[0].message.content", "out"])
def test_a_path_into_json(tmp_path, path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(nested(text) | {"id": text}) for text in ("a", "b")))
    named = ColumnNames("", "truth.en", path)
    assert triples(read_predictions([tmp_path / "a.jsonl"], columns=named)) == [(t, "Clear.", t) for t in ("a", "b")]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("out.body.choice.0", 'did you mean "out.body.choices"? it has out.body.choices'),
        ("out.body.choices.1", "it has out.body.choices.0"),
        ("uot.body", 'has no column "uot.body"'),
        ("out.body.choices.0.message.content.x", "it has "),
    ],
)
def test_a_path_that_leads_nowhere(tmp_path, path, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(nested("a")))
    with pytest.raises(UserError) as error:
        read_predictions([tmp_path / "a.jsonl"], columns=ColumnNames("", "truth.en", path))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_key_with_dots_is_no_path(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"id": "s", "a.b": "Clear.", "a_b": "", "a": {"b": ""}, "pred": "p"}]))
    assert triples(read_predictions([tmp_path / "a.json"], columns=ColumnNames(reference="a.b")))[0][1] == "Clear."


def test_files_to_compare_may_have_the_columns_or_known_names(tmp_path, capsys):
    own = write(tmp_path / "own.csv", ("case", "truth", "ours"), ROWS)
    same = write(tmp_path / "same.csv", ("case", "truth", "ours"), ROWS)
    known = write(tmp_path / "known.csv", ("study_id", "reference", "prediction"), ROWS)
    flags = ["--columns", "id=case,reference=truth", "--columns", "prediction=ours", "--language", "none"]
    assert main(["score", str(own), *flags, "--compare", str(same), "--compare", str(known)]) == 0
    page = capsys.readouterr().out
    assert "known.csv: layout: csv with study_id, reference, prediction" in page
    assert "same.csv: layout: csv with study_id, reference, prediction (case as study_id" in page
