"""A folder of one file a report: every file counts once, and none is written over by another."""

import pytest

from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.prediction_files import read_predictions
from mrg_grpo.evaluation.record_files import read_records


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def reports(folder):
    return {record["study_id"]: record["report"] for record in read_records(folder).records}


def test_two_folders(tmp_path):
    write(tmp_path / "gt", {"s1.txt": "Clear.", "s2.txt": b"\xef\xbb\xbfEdema.\r\n", "s3.txt": ""})
    write(tmp_path / "ours", {"p1/s1.txt": "Clear", "p2/x/s2.txt": "", "notes.pdf": "x"})
    result = read_predictions([tmp_path / "gt", tmp_path / "ours"])
    assert [(row.study_id, row.reference, row.prediction) for row in result.rows] == [
        ("s1", "Clear.", "Clear"), ("s2", "Edema.", ""), ("s3", "", ""),
    ]  # fmt: skip
    assert result.empty == ["s2"] and result.missing == ["s3"] and result.empty_references == ["s3"]
    assert "references gt (a folder of one file a report)" in result.layout


def test_markdown_counts_where_there_is_no_text(tmp_path):
    assert reports(write(tmp_path / "a", {"s1.md": "Clear.", "b/s2.md": "Edema."})) == {"s1": "Clear.", "s2": "Edema."}
    assert reports(write(tmp_path / "b", {"s1.txt": "Clear.", "README.md": "how"})) == {"s1": "Clear."}


def test_files_that_are_none_and_hidden_ones(tmp_path):
    folder = write(tmp_path / "a", {"s1.txt": "Clear.", "._s1.txt": b"\x00\xff", "s2.txt/s3.txt": "Edema."})
    assert reports(folder) == {"s1": "Clear.", "s3": "Edema."}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/s1.txt": "x", "b/s1.txt": "y"}, r"two files of the study s1, a.s1.txt and b.s1.txt; keep one"),
        ({"s1.txt": "x", "old/s1.txt": "y"}, r"two files of the study s1, old.s1.txt and s1.txt; keep one"),
        ({"s1.txt": "x", "s2.txt": b"\xff\xfex\x00"}, r"s2.txt is not UTF-8 \(byte 0\)"),
        ({"s1.pdf": "x"}, "is a folder without .txt files"),
        ({".s1.txt": "x"}, "is a folder without .txt files"),
    ],
)
def test_a_folder_that_is_not_clear(tmp_path, files, words):
    folder = write(tmp_path / "f", files)
    for duplicates in ("error", "first"):
        with pytest.raises(UserError, match=words) as error:
            read_predictions([folder, folder], duplicates)
        assert "\n" not in str(error.value)
