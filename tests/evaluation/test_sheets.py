"""Excel workbooks read as CSV does; a damaged or hostile one is one line, and takes no memory to speak of."""

import datetime
import io
import re
import sys
import tracemalloc
import zipfile

import pytest

from mrg_grpo.errors import UserError
from mrg_grpo.evaluation import sheets
from mrg_grpo.evaluation.columns import ColumnNames
from mrg_grpo.evaluation.prediction_files import read_predictions

openpyxl = pytest.importorskip("openpyxl", reason="needs the extra `xlsx` (openpyxl)")

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHEET = "xl/worksheets/sheet1.xml"
HEADER = ("study_id", "reference", "prediction")
ROWS = [(50414267, "Lungs are clear.", "Clear, lungs."), (50414268.0, "Mild\nedema.", None), (3, "Edema.", "NA")]


def save(path, *tables):
    """Each table, a title and rows, as a sheet."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in tables:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_sheet_reads_as_a_csv_does(tmp_path):
    result = read_predictions([save(tmp_path / "a.xlsx", ("Reports", [HEADER, *ROWS]))])
    assert [(row.study_id, row.reference, row.prediction) for row in result.rows] == [
        ("50414267", "Lungs are clear.", "Clear, lungs."), ("50414268", "Mild edema.", ""), ("3", "Edema.", ""),
    ]  # fmt: skip
    assert result.layout == 'xlsx, sheet "Reports", with study_id, reference, prediction'
    assert result.missing == ["50414268", "3"]


def test_two_workbooks_and_any_names(tmp_path):
    gt = save(tmp_path / "gt.xlsx", ("A", [("Nr", "Befund"), (1, "Clear."), (2, "Edema.")]))
    csv = tmp_path / "p.csv"
    csv.write_text("Nr,report\n2,Edema\n1,Clear\n")
    found = read_predictions([gt, csv], columns=ColumnNames("Nr", "Befund"))
    assert [(row.study_id, row.reference, row.prediction) for row in found.rows] == [
        ("1", "Clear.", "Clear"), ("2", "Edema.", "Edema"),
    ]  # fmt: skip


def test_the_sheet_that_was_read_is_named(tmp_path):
    path = save(tmp_path / "a.xlsx", ("Empty", []), ("One", [HEADER, *ROWS]), ("Two", [("x",)]))
    assert 'sheet "One", the first of 2 that hold anything' in read_predictions([path]).layout
    with pytest.raises(UserError, match="holds no predictions"):
        read_predictions([save(tmp_path / "b.xlsx", ("Empty", []))])


def test_empty_rows_and_odd_cells(tmp_path):
    day = datetime.date(2026, 1, 2)
    rows = [(), HEADER, (), ("a", day, True), (None, None, None), ("b", 1.5, "=1+1"), ("c", "#N/A", "x")]
    result = read_predictions([save(tmp_path / "a.xlsx", ("A", rows))])
    assert [(row.study_id, row.reference, row.prediction) for row in result.rows] == [
        ("a", "2026-01-02 00:00:00", "True"), ("b", "1.5", ""), ("c", "", "x"),
    ]  # fmt: skip
    assert result.missing == ["b"]  # a formula whose value no spreadsheet has saved


def test_a_formula_gives_the_value_that_was_saved(tmp_path):
    path = save(tmp_path / "a.xlsx", ("A", [HEADER, (1, "Clear.", '="Cl"&"ear"')]))
    rewrite(
        path,
        "xl/worksheets/sheet1.xml",
        lambda xml: xml.replace("<v />", "<v>Clear</v>").replace("<v/>", "<v>Clear</v>"),
    )
    rewrite(path, "xl/worksheets/sheet1.xml", lambda xml: xml.replace('<c r="C2">', '<c r="C2" t="str">'))
    assert read_predictions([path]).rows[0].prediction == "Clear"


def test_a_sheet_that_calls_itself_smaller_is_read_whole(tmp_path):
    path = save(tmp_path / "a.xlsx", ("A", [HEADER, *ROWS]))
    rewrite(path, SHEET, lambda xml: xml.replace('<dimension ref="A1:C4"', '<dimension ref="A1"'))
    assert len(read_predictions([path]).rows) == 3


def test_texts_in_a_table_of_their_own_as_excel_writes_them(tmp_path):
    path = save(tmp_path / "a.xlsx", ("A", [HEADER, *ROWS]))
    texts = []

    def shared(found):
        texts.append(found[1])
        return f't="s"><v>{len(texts) - 1}</v></c>'

    rewrite(path, SHEET, lambda xml: re.sub(r't="inlineStr"><is><t[^>]*>(.*?)</t></is></c>', shared, xml, flags=re.S))
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    part = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
    rewrite(path, "[Content_Types].xml", lambda xml: xml.replace("</Types>", part))
    table = "".join(f"<si><t>{text}</t></si>" for text in texts)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{MAIN}">{table}</sst>')
    assert [row.prediction for row in read_predictions([path]).rows] == ["Clear, lungs.", "", ""]


def rewrite(path, name, change):
    """One file of a workbook, changed."""
    with zipfile.ZipFile(path) as archive:
        held = {entry: archive.read(entry) for entry in archive.namelist()}
    before = held[name].decode()
    assert change(before) != before
    held[name] = change(before).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in held.items():
            archive.writestr(entry, content)


def refused(path, words):
    with pytest.raises(UserError, match=words) as error:
        read_predictions([path])
    assert "\n" not in str(error.value) and path.name in str(error.value)


def test_what_is_no_workbook_is_one_line(tmp_path):
    path = tmp_path / "a.xlsx"
    whole = save(tmp_path / "whole.xlsx", ("A", [HEADER, *ROWS])).read_bytes()
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme", "x")
    for content, words in (
        (b"", "is no workbook"), (b"study_id,report\n", "is no workbook"), (whole[:-200], "is no workbook"),
        (whole[:900] + b"\0" * 400 + whole[1300:], "is no workbook"), (other.getvalue(), "is no workbook"),
        (sheets.OLE + b"\0" * 99, "is an old .xls, or locked by a password; save it as"),
    ):  # fmt: skip
        path.write_bytes(content)
        refused(path, words)
    old = tmp_path / "a.xls"
    old.write_bytes(sheets.OLE)
    refused(old, "is an old Excel file; save it as .xlsx or .csv")


def test_hostile_workbooks_are_one_line_and_little_memory(tmp_path, monkeypatch):
    path = save(tmp_path / "a.xlsx", ("A", [HEADER, *ROWS]))
    monkeypatch.setattr(sheets, "MAX_ROWS", 1000)
    whole = path.read_bytes()
    lol = "<!DOCTYPE x [<!ENTITY a0 'lol'>" + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10))
    for name, change, words in (
        (SHEET, lambda xml: xml.replace('<row r="4"', '<row r="99999999999"'), "more than 1,000 rows"),
        (SHEET, lambda xml: xml.replace('r="A4"', 'r="ZZZZZ4"'), "is no workbook"),
        (SHEET, lambda xml: f"{lol}]>" + xml.replace("Edema.", "&a9;"), "declares a document type"),
    ):
        path.write_bytes(whole)
        rewrite(path, name, change)
        tracemalloc.start()
        refused(path, words)
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/more.xml", b" " * 5_000_000)
    monkeypatch.setattr(sheets, "MAX_UNPACKED", 1_000_000)
    refused(path, "unpacks to 5,0.* more than 1,000,000")


def test_without_openpyxl_one_line_says_how_to_install(tmp_path, monkeypatch):
    path = save(tmp_path / "a.xlsx", ("A", [HEADER, *ROWS]))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    refused(path, r"need openpyxl; pip install 'mrg_grpo\[xlsx\]'")
