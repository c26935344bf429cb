"""CheXbert's CSV convention, against its own published sample."""

import csv

import pytest
import torch

from mrg_grpo.attributes import NOTHING, Attributes
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.prediction_files import read_predictions
from mrg_grpo.labelers import read_label_csv, read_report_csv, write_label_csv
from mrg_grpo.labels import CONDITIONS


def test_reads_chexberts_own_sample(shared):
    folder = shared / "data" / "chexbert"
    reports, labels = read_label_csv(folder / "labeled_reports.csv")
    assert reports == read_report_csv(folder / "sample_reports.csv")
    by_name = [dict(zip(CONDITIONS, row)) for row in labels.tolist()]
    assert by_name[0]["Edema"] == 2 and by_name[0]["No Finding"] == 1 and by_name[0]["Lung Opacity"] == 0
    assert by_name[1]["Pleural Effusion"] == 1 and by_name[2]["Consolidation"] == 3


def test_round_trip_and_written_cells(tmp_path):
    reports = ['a "quoted", report', "two\nlines", ""]
    labels = torch.tensor([[0, 1, 2, 3] * 3 + [0, 1], [0] * 14, [3] * 13 + [1]])
    write_label_csv(tmp_path / "x.csv", reports, labels)
    again, read = read_label_csv(tmp_path / "x.csv")
    assert again == reports and torch.equal(read, labels)
    rows = list(csv.reader((tmp_path / "x.csv").open(newline="")))
    assert rows[0] == ["Report Impression", *CONDITIONS]
    assert rows[1][1:5] == ["", "1.0", "0.0", "-1.0"]


def test_attributes_stand_behind_the_labels_and_take_nothing_from_them(tmp_path):
    side, size = [0] * 13, [0] * 13
    side[9], size[9], size[1] = 3, 1, 3
    attributes = Attributes.of([(tuple(side), tuple(size), 2), NOTHING])
    labels = torch.tensor([[1] * 14, [0] * 14])
    write_label_csv(tmp_path / "x.csv", ["a", "b"], labels, attributes)
    assert torch.equal(read_label_csv(tmp_path / "x.csv")[1], labels)
    first, second = csv.DictReader((tmp_path / "x.csv").open(newline=""))
    said = {name: cell for name, cell in first.items() if name not in ("Report Impression", *CONDITIONS) and cell}
    assert said == {
        "Pleural Effusion side": "both", "Pleural Effusion size": "small or mild",
        "Cardiomegaly size": "large or severe", "Malposition": "no",
    }  # fmt: skip
    assert len(first) == 1 + 14 + 27 and not any(second[name] for name in list(second)[15:])


FORMULAS = [
    '=HYPERLINK("http://x","y")', "+1", "-2+3", "- No edema.", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "＝1", "'=1",
    "''-1",
]  # fmt: skip
PLAIN = ["No edema.", "'quoted' text", "5 mm = small", "", "'", "(-)", " \n "]


def test_no_spreadsheet_computes_a_report_and_what_is_written_is_what_is_read(tmp_path):
    path = tmp_path / "x.csv"
    write_label_csv(path, FORMULAS + PLAIN, torch.zeros(len(FORMULAS + PLAIN), 14, dtype=torch.long))
    cells = [row[0] for row in csv.reader(path.open(newline=""))][1:]
    assert cells == [f"'{text}" for text in FORMULAS] + PLAIN
    assert read_label_csv(path)[0] == read_report_csv(path) == FORMULAS + PLAIN
    read = [row.reference for row in read_predictions([path, path]).rows]  # as a file of reports, white space joined
    assert read == [" ".join(text.split()) for text in FORMULAS + PLAIN]


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("Report,Edema\nhello,1\n")
    with pytest.raises(UserError, match="Report Impression"):
        read_report_csv(path)
    path.write_text(",".join(["Report Impression", *CONDITIONS]) + "\nhello" + ",2" * 14 + "\n")
    with pytest.raises(UserError, match=r"row 2, Enlarged Cardiomediastinum: '2'"):
        read_label_csv(path)
    path.write_text("Report Impression\nNo effusion, edema is present.\n")
    with pytest.raises(UserError, match="row 2 has 2 cells for 1 columns; quote its texts"):
        read_report_csv(path)
    path.write_text("Report Impression,Report Impression\na,b\n")
    with pytest.raises(UserError, match="2 columns 'Report Impression'"):
        read_report_csv(path)
    with pytest.raises(UserError, match="cannot read"):
        read_report_csv(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="need labels"):
        write_label_csv(path, ["a"], torch.zeros(2, 14, dtype=torch.long))
