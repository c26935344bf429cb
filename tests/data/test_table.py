"""The form "table": a round trip of real studies in every kind of file, joins, splits, columns, and every wrong row."""

import csv
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from command import command_line
from drawing import draw
from hypothesis import strategies as st
from tables import write

from mrg_grpo.cli import main
from mrg_grpo.config import ColumnsConfig
from mrg_grpo.data import Studies, describe_splits, load_studies
from mrg_grpo.data.sections import clean
from mrg_grpo.errors import UserError

KINDS = ("csv", "tsv", "jsonl", "parquet")


def load(root: Path, files: str = "t.csv", views=None, **columns: str) -> Studies:
    return load_studies("table", root, files=files, views=views, columns=ColumnsConfig(**columns))


def put(root: Path, text: str | bytes, name: str = "t.csv", images=("a.png", "b.png")) -> Path:
    for image in images:
        (root / image).write_bytes(image.encode())
    (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return root


def flat(studies: Studies) -> list:
    return [study for part in studies.values() for study in part]


# ---- real studies


@pytest.fixture(scope="module")
def cases(shared) -> Path:
    return shared / "data" / "case_reports"


@pytest.mark.parametrize("kind", KINDS)
def test_real_studies_come_back_as_r2gens_form_has_them(cases, tmp_path, kind):
    tree = json.loads((cases / "annotation.json").read_text())
    (tmp_path / "pictures").symlink_to(cases / "images")
    lists = kind in ("jsonl", "parquet")
    rows = [
        {"study_id": one["id"], "report": one["report"], "split": split,
         "images": names if lists else ";".join(names)}
        for split, entries in tree.items() for one in entries
        for names in [[f"pictures/{name}" for name in one["image_path"]]]
    ]  # fmt: skip
    write(tmp_path / f"t.{kind}", rows)
    own, theirs = load(tmp_path, f"t.{kind}"), load_studies("iu_xray_r2gen", cases)
    assert [len(own[split]) for split in own] == [143, 18, 31]
    for one, other in zip(flat(own), flat(theirs), strict=True):
        assert (one.id, one.report, one.split) == (other.id, other.report, other.split)
        assert [os.path.realpath(name) for name in one.images] == [os.path.realpath(name) for name in other.images]
    lines = describe_splits(own, "table")
    assert not any("published" in line for line in lines)
    # the same copies are found, under other names
    warned = [sum("copies" in line for line in notes) for notes in (own.notes, theirs.notes)]
    assert warned[0] == warned[1] == 1


# ---- rows to studies


def test_rows_of_a_study_are_joined_in_their_order(tmp_path):
    put(tmp_path, "study,patient,split,image,report\ns1,p,train,b.png,\ns2,q,test,c.png,Two.\ns1,,,a.png,One.\n",
        images=("a.png", "b.png", "c.png"))  # fmt: skip
    one, two = flat(load(tmp_path))
    assert (one.id, one.report, one.split, one.images) == (
        "s1", "One.", "train", (f"{tmp_path}/b.png", f"{tmp_path}/a.png"),
    )  # fmt: skip
    assert (two.id, two.split) == ("s2", "test")


@pytest.mark.parametrize("cell", ["a.png;b.png", "a.png | b.png", '["a.png", "b.png"]', " a.png;;b.png; "])
def test_a_cell_holds_several_images(tmp_path, cell):
    row = io.StringIO()
    csv.writer(row).writerow(["s1", cell, "One."])
    put(tmp_path, f"study,images,report\n{row.getvalue()}")
    assert [Path(name).name for name in flat(load(tmp_path))[0].images] == ["a.png", "b.png"]


def test_separators_can_be_others_or_none(tmp_path):
    put(tmp_path, 'study,images,report\ns1,"a;1.png,b.png",One.\n', images=("a;1.png", "b.png"))
    assert len(flat(load(tmp_path, separators=","))[0].images) == 2
    put(tmp_path, "study,images,report\ns1,a;1.png,One.\n", images=("a;1.png",))
    assert len(flat(load(tmp_path, separators=""))[0].images) == 1


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_may_have_other_marks_and_line_ends_and_a_byte_order_mark(tmp_path, mark, end):
    rows = [["Study ID", "Image Path", "Report"], ["s1", "a.png", f'"Said ""so""{mark} and{end}more."']]
    put(tmp_path, "\ufeff" + end + end.join(mark.join(row) for row in rows) + end)
    assert flat(load(tmp_path))[0].report == clean(f'Said "so"{mark} and more.')


def test_packed_text_is_read(tmp_path):
    put(tmp_path, gzip.compress(b"study,image,report\ns1,a.png,One.\n"), "t.csv.gz")
    assert flat(load(tmp_path, "t.csv.gz"))[0].id == "s1"


def test_sections_and_views(tmp_path):
    put(tmp_path, "study,image,ViewPosition,Findings,impression\ns1,a.png,LATERAL,F,I\ns1,b.png,pa,F,\n")
    both = load_studies("table", tmp_path, files="t.csv", sections=("impression", "findings"), views="frontal")
    assert (flat(both)[0].report, [Path(name).name for name in flat(both)[0].images]) == ("I F", ["b.png"])
    assert flat(load(tmp_path))[0].report == "F"
    assert [Path(name).name for name in flat(load(tmp_path, views=1))[0].images] == ["a.png"]
    put(tmp_path, 'study,image,view,report\ns1,a.png;b.png,"[""lateral"", ""AP""]",One.\n')
    assert [Path(name).name for name in flat(load(tmp_path, views="frontal"))[0].images] == ["b.png"]
    put(tmp_path, "study,image,view,report\ns1,a.png;b.png,AP,One.\n")
    with pytest.raises(UserError, match=r"t\.csv line 2 has 2 images and 1 views"):
        load(tmp_path, views="frontal")


def test_a_report_beside_its_sections(tmp_path):
    put(tmp_path, "study,image,report,findings\ns1,a.png,Whole.,Part.\n")
    assert flat(load(tmp_path))[0].report == "Part." and "findings from 'findings'" in load(tmp_path).notes[0]
    assert flat(load(tmp_path, report="report"))[0].report == "Whole."
    assert flat(load(tmp_path, findings="none"))[0].report == "Whole."
    with pytest.raises(UserError, match=r"taken whole; name data\.columns\.findings"):
        load_studies("table", tmp_path, files="t.csv", sections=("findings", "impression"),
                     columns=ColumnsConfig(report="report"))  # fmt: skip


def test_rows_without_a_study_are_studies_of_their_own(tmp_path):
    put(tmp_path, "image,report\na.png,One.\nb.png,Two.\n")
    assert {study.id for study in flat(load(tmp_path, study="none"))} == {"t-2", "t-3"}


def test_whole_numbers_are_ids_also_where_pandas_made_them_broken(tmp_path):
    rows = [{"study": 1, "patient": 7.0, "image": "a.png", "report": "One.", "split": "train"},
            {"study": 2, "patient": float("nan"), "image": "b.png", "report": "Two.", "split": "train"}]  # fmt: skip
    put(tmp_path, "")
    write(tmp_path / "t.parquet", rows)
    assert [study.id for study in load(tmp_path, "t.parquet")["train"]] == ["1", "2"]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [study.id for study in load(tmp_path, "t.jsonl")["train"]] == ["1", "2"]


# ---- splits


def test_a_hash_keeps_a_patient_together(tmp_path):
    rows = [{"study": f"s{n}", "patient": f"p{n % 300}", "image": "a.png", "report": "One."} for n in range(1500)]
    put(tmp_path, "")
    write(tmp_path / "t.csv", rows)
    found = load(tmp_path)
    where = {study.id: split for split, part in found.items() for study in part}
    assert all(where[f"s{n}"] == where[f"s{n % 300}"] for n in range(1500))
    shares = Counter(where[f"s{n}"] for n in range(300))
    assert 180 < shares["train"] < 240 and 15 < shares["val"] < 50 and 35 < shares["test"] < 85
    assert any("hash of the patient" in note for note in found.notes)
    assert not any("patients are in two" in note for note in found.notes)
    by_study = load(tmp_path, patient="none")
    assert any("hash of the study id, as no column of patients is named" in note for note in by_study.notes)
    where = {study.id: split for split, part in by_study.items() for study in part}
    assert any(where[f"s{n}"] != where[f"s{n % 300}"] for n in range(1500))


def test_files_of_the_hub_name_their_split(tmp_path):
    put(tmp_path, "")
    for number, name in enumerate(
        ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test")
    ):
        row = {"study": f"s{number}", "image": "a.png", "report": "One."}
        write(tmp_path / "data" / f"{name}.parquet", [row], column="image")
    found = load(tmp_path, "data/*.parquet")
    assert {split: [study.id for study in part] for split, part in found.items()} == {
        "train": ["s0", "s1"], "val": ["s2"], "test": ["s3"],
    }  # fmt: skip
    assert any("hash of the study" in note for note in load(tmp_path, "data/*.parquet", split="none").notes)
    one = load(tmp_path, "data/train*")
    assert len(one["train"]) == 2 and any("all files are named as train" in note for note in one.notes)
    write(tmp_path / "data" / "more.parquet", [{"study": "s9", "image": "a.png", "report": "One."}], column="image")
    with pytest.raises(UserError, match=r"more\.parquet: its name does not begin with a split"):
        load(tmp_path, "data/*.parquet")


def test_a_patient_in_two_splits_is_a_warning(tmp_path):
    put(tmp_path, "study,patient,image,report,split\ns1,p,a.png,One.,train\ns2,p,b.png,Two.,validation\n")
    assert "warning: 1 patients are in two splits: p in train and val" in load(tmp_path).notes


# ---- what is wrong


HEAD = "study,patient,split,image,report\n"
ROW = "s1,p1,train,a.png,One.\n"
WRONG_ROWS = {
    r"line 2: 4 fields where the header has 5": HEAD + "s1,p1,train,a.png\n",
    r"line 3: 6 fields where the header has 5": HEAD + ROW + "s2,p1,train,b.png,One, two\n",
    r"line 5: 1 fields": HEAD + 's1,p1,train,a.png,"One\nand\ntwo."\ns2\n',
    r"line 3: 3 fields": HEAD + ROW + 's2,"p\n1",train\n',
    r"line 2: .*(end of data|delimiter)": HEAD + 's1,p1,train,a.png,"One.\n',
    r"line 2 has a blank study id": HEAD + " ,p1,train,a.png,One.\n",
    r"line 2 has the split name 'holdout'": HEAD + ROW.replace("train", "holdout"),
    r"line 2 has a blank split name": HEAD + ROW.replace("train", ""),
    r"line 3 gives study 's1' another report than .*t\.csv line 2 does": HEAD + ROW + "s1,p1,train,b.png,Two.\n",
    r"line 3 gives study 's1' another patient than .*t\.csv line 2 does": HEAD + ROW + "s1,p2,train,b.png,One.\n",
    r"line 3 gives study 's1' another split than .*t\.csv line 2 does": HEAD + ROW + "s1,p1,test,b.png,One.\n",
    r"line 3 names the image a.png of study 's1', which .*t\.csv line 2 has": HEAD + ROW + ROW,
    r"line 2 names the image '\.\./a\.png', which lies outside": HEAD + ROW.replace("a.png", "../a.png"),
    r"line 2 names the image '/etc/passwd', which lies outside": HEAD + ROW.replace("a.png", "/etc/passwd"),
    r"line 2 names the image 'a\\\\b.png'; write a printable": HEAD + ROW.replace("a.png", "a\\b.png"),
    r"line 2 has a list that is not JSON": HEAD + ROW.replace("a.png", "['a.png']"),
    r"line 2 lists a int among its images": HEAD + ROW.replace("a.png", "[1]"),
    r"line 3 is not UTF-8 \(byte 60\)": (HEAD + ROW).encode() + b"s2,p\xe9,t,a.png,x\n",
    r"line 1 is not UTF-8": ("\ufeff" + HEAD + ROW).encode("utf-16-le"),
    r"line 2 has a NUL character": HEAD + ROW.replace("One", "O\0ne"),
    r"is empty": " \n",
    r"has no rows behind its header": HEAD,
    r"has no column for data\.columns\.study \(looked for study_id,.*it has: a, image\)": "a,image\n1,2\n",
    r"has no column for data\.columns\.images": "study,report\n1,2\n",
    r"has no column for data\.columns\.findings \(looked for findings, report": "study,image\n1,2\n",
    r"has more than one column 'image'": "study,image,image,report\n1,a.png,b.png,One.\n",
}  # fmt: skip


@pytest.mark.parametrize("reason", WRONG_ROWS)
def test_a_wrong_row_is_one_line_with_its_place(tmp_path, reason):
    put(tmp_path, WRONG_ROWS[reason])
    with pytest.raises(UserError, match=rf"t\.csv {reason}") as caught:
        load(tmp_path)
    assert ";" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


GOOD = {"study": "s1", "split": "train", "image": "a.png", "report": "One."}
WRONG_LINES = {
    r"line 2 has an object with a key twice \(keys: study, study\); keep": '{"study": "a", "study": "b"}',
    r"line 2 is not JSON": '{"study": ',
    r"line 2 is not JSON .*recursion": "[" * 100_000,
    r"line 2 holds a list, not an object": "[]",
    r"line 2 has a study of type bool": json.dumps(GOOD | {"study": True}),
    r"line 2 has a study of type float": json.dumps(GOOD | {"study": 1.5}),
    r"line 2 has a report of type list": json.dumps(GOOD | {"report": ["One."]}),
    r"line 2 has a split of type int": json.dumps(GOOD | {"split": 0}),
    r"line 2 lists a dict among its images": json.dumps(GOOD | {"image": [{"path": "a.png"}]}),
    r"line 2 has a blank study id": json.dumps({"split": "train", "image": "a.png", "report": "One."}),
    r"line 2 names the image ''": json.dumps(GOOD | {"study": "s2", "image": [""]}),
    r"line 2 is not valid Unicode": '{"study": "\\ud800", "split": "train", "image": "a.png", "report": "x"}',
}


@pytest.mark.parametrize("reason", WRONG_LINES)
def test_a_wrong_line_of_json_is_one_line_with_its_place(tmp_path, reason):
    put(tmp_path, f"{json.dumps(GOOD)}\n{WRONG_LINES[reason]}\n", "t.jsonl")
    with pytest.raises(UserError, match=rf"t\.jsonl {reason}") as caught:
        load(tmp_path, "t.jsonl")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_wrong_row_of_parquet_is_named_by_its_number(tmp_path):
    put(tmp_path, "")
    rows = [GOOD | {"study": f"s{n}"} for n in range(20)]
    rows[17]["study"] = " "
    write(tmp_path / "t.parquet", rows, column="image")
    with pytest.raises(UserError, match=r"t\.parquet row 17 has a blank study id"):
        load(tmp_path, "t.parquet")
    for content in (b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", (tmp_path / "t.parquet").read_bytes()[:-9]):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.parquet cannot be read as parquet \(.*\); fetch it again") as caught:
            load(tmp_path, "bad.parquet")
        assert "\n" not in str(caught.value)


def test_pyarrow_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    write(tmp_path / "t.parquet", [GOOD], column="image")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"t\.parquet: to read parquet needs pyarrow; pip install 'mrg_grpo\[tables\]'"):
        load(tmp_path, "t.parquet")


def test_columns_that_are_not_there(tmp_path):
    put(tmp_path, "accession,image,report,mrn\ns1,a.png,One.,p1\n")
    with pytest.raises(
        UserError, match=r"no column 'acession' \(data\.columns\.study; .* did you mean \"accession\"\?"
    ):
        load(tmp_path, study="acession")
    with pytest.raises(UserError, match='set it to "none" if each row is a study of its own'):
        load(tmp_path)
    with pytest.raises(UserError, match=r"does not say which image is frontal; name data\.columns\.view"):
        load(tmp_path, study="accession", views="frontal")
    with pytest.raises(UserError, match=r"data\.split_file is not read with a table"):
        load_studies("table", tmp_path, files="t.csv", split_file="x.csv")
    put(tmp_path, "accession,image,report,mrn\ns1,a.png,One.,\n")
    with pytest.raises(UserError, match=r"line 2: study 's1' has no patient, by whom the split is made"):
        load(tmp_path, study="accession", patient="mrn")


def test_files_that_are_not_there(tmp_path):
    put(tmp_path, HEAD + ROW)
    for files, reason in (
        ("y.csv", r'y\.csv: no such file; did you mean "t\.csv"\?'),
        ("data/*.parquet", r"\*\.parquet: no such file; tables in data\.root .*: t\.csv"),
        ("../nothing*", "no such file"),
        (".", "is a folder; name a file in it"),
        ("a.png", r"a\.png: a table is read from \.csv, \.tsv, \.jsonl, \.parquet"),
    ):
        with pytest.raises(UserError, match=reason):
            load(tmp_path, files)
    write(tmp_path / "u" / "t2.csv", [{"study": "s2", "image": "a.png"}])
    with pytest.raises(UserError, match=r"t2\.csv has no column 'patient', which .*t\.csv has"):
        load(tmp_path, "**/*.csv")


def test_a_table_elsewhere_names_images_of_the_root(tmp_path):
    put(tmp_path, "", images=("a.png",))
    other = write(tmp_path.parent / f"{tmp_path.name}.csv", [GOOD])
    assert load(tmp_path, str(other))["train"][0].images == (f"{tmp_path}/a.png",)


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    put(tmp_path, HEAD + ROW + "s2\n")
    settings = ["data.form=table", f"data.root={tmp_path}", "data.table=t.csv", f"run.output_dir={tmp_path}/run"]
    assert main(command_line("plan", settings)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"mrg-grpo: {tmp_path}/t.csv line 3: 1 fields where the header has 5")
    for more, reason in (
        ("data.table=", "data.table: name the file of the table"),
        ("data.form=mimic_cxr", "mimic_cxr reads neither"),
        ("data.columns.stduy=x", 'unknown key "stduy"; did you mean "study"'),
    ):
        assert main(command_line("plan", [*settings, more])) == 2
        assert reason in capsys.readouterr().err


# ---- anything at all

ANY = st.one_of(
    st.sampled_from(
        ["", " ", '"', ";", "|", "\n", "\r\n", ",", "\t", "[", "]", "..", "../a.png", "a.png", "train", "é"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
CELL = st.lists(ANY, max_size=4).map("".join)


@pytest.mark.parametrize("cases", [60, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_text_comes_back(tmp_path, kind, cases):
    """Quotes, commas and line ends in reports and ids: the study is what was written, whatever the file."""

    def check(texts, root):
        if any("\0" in text for text in texts):
            return
        rows = [
            {"study": f"s{n} {text}", "split": "train", "image": "a.png", "report": text}
            for n, text in enumerate(texts)
        ]
        write(root / f"t.{kind}", rows, column="image")
        found = load(root, f"t.{kind}")["train"]
        assert [(study.id, study.report) for study in found] == [
            (row["study"].strip(), clean(row["report"])) for row in rows
        ]

    put(tmp_path, "")
    draw((st.lists(CELL, min_size=1, max_size=4), check), cases, tmp_path)


@pytest.mark.parametrize("cases", [60, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_any_file_is_read_or_refused(tmp_path, kind, cases):
    value = st.one_of(CELL, st.none(), st.integers(), st.floats(), st.lists(CELL, max_size=2), st.booleans())
    row = st.fixed_dictionaries({}, optional={name: value for name in ("study", "patient", "split", "image", "report")})
    if kind == "csv":
        lines = st.lists(st.lists(CELL, max_size=6).map(",".join), max_size=4).map("\n".join)
        content = st.one_of(lines.map(lambda text: (HEAD + ROW + text).encode()), st.binary(max_size=80))
    else:
        content = st.lists(row.map(json.dumps), max_size=4).map(lambda rows: "\n".join(rows).encode())

    def check(raw, root):
        (root / f"t.{kind}").write_bytes(raw)
        try:
            found = load_studies("table", root, files=f"t.{kind}", allow_missing=True)
        except UserError as error:
            assert "\n" not in str(error) and f"t.{kind}" in str(error)
            return
        names = [name for study in flat(found) for name in study.images]
        assert all(os.path.realpath(name).startswith(str(root)) for name in names)
        assert len({study.id for study in flat(found)}) == len(flat(found))

    put(tmp_path, "")
    draw((content, check), cases, tmp_path)


def test_texts_of_parquet_in_other_types(tmp_path):
    """Long strings, dictionaries and lists of fixed size are what other programs write for the same cells."""
    import pyarrow.parquet as pq

    put(tmp_path, "")
    columns = {
        "study": pa.array(["s1", "s2"], pa.large_string()),
        "split": pa.array(["train", "test"]).dictionary_encode(),
        "images": pa.array([["a.png"], ["b.png"]], pa.list_(pa.string(), 1)),
        "report": pa.array(["One.", None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert [(study.id, study.split, study.report) for study in flat(load(tmp_path, "t.parquet"))] == [
        ("s1", "train", "One."), ("s2", "test", ""),
    ]  # fmt: skip
