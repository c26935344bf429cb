"""What a labeler cannot read: texts without a label, and texts that it cuts."""

import pytest
import torch

from mrg_grpo.cli import main
from mrg_grpo.config import load_config
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.labelers import embedded_labeler, unread_of, unread_references
from mrg_grpo.preflight.check import check_references
from mrg_grpo.train import note_unread

NO_REPORTS = [
    "心影不大，双肺野清晰，未见明显实变影。", "左侧胸腔少量积液。", "Сердце не увеличено",
    "심장 크기는 정상입니다.",
    "/data/files/p10/s50414267.txt", "50414267", "CXR123_IM-0942", "Derrame pleural izquierdo pequeño.",
]  # fmt: skip
REPORTS = ["The lungs are clear.", "No pneumothorax.", "Large left pleural effusion.", "No acute disease."]
LONG = "There is a left pleural effusion. " * 100


@pytest.fixture(scope="module")
def labeler():
    return embedded_labeler()


def studies(texts):
    return [Study(f"s{place}", (), text, "train") for place, text in enumerate(texts)]


def test_only_what_no_label_sees_is_counted(labeler):
    texts = [*REPORTS, *NO_REPORTS]
    found = unread_of(labeler.label(texts), texts, labeler)
    assert found.without_label == list(range(4, 12)) and found.cut == [] and found.share == pytest.approx(8 / 12)
    assert found.notes("references", [f"s{n}" for n in range(12)]) == [
        "8 of 12 references carry no label (67%): any report without a finding agrees with them "
        "(s4, s5, s6, s7, s8, ...)"
    ]
    with pytest.raises(UserError, match=r"8 of 12 references carry no label \(67%; 4, 5.*or go on with --this"):
        found.require("references", list(map(str, range(12))), False, "--this")
    found.require("references", [], True, "--this")
    unread_of(labeler.label(texts[:8]), texts[:8]).require("references", [], False, "")  # one half is not above


def test_texts_that_are_cut_are_counted(labeler):
    limit = "no " * 510
    texts = ["Clear.", LONG, limit, limit + "no", LONG]
    assert labeler.cuts(texts) == [False, True, False, True, True]
    found = unread_of(labeler.label(texts), texts, labeler)
    assert found.notes("reports", list("abcde"))[-1] == (
        "3 of 5 reports are longer than the labeler reads: labelled by their first 512 tokens (b, d, e)"
    )
    assert unread_of(torch.zeros(0, 14), [], labeler).share == 0.0


def test_references_of_a_long_split_are_looked_at_here_and_there(labeler):
    found, ids = unread_references(labeler, studies(["The lungs are clear."] * 999 + ["50414267"] * 1001))
    assert found.total == 128 and ids[0] == "s0" and len(found.without_label) == 64


def test_train_and_check_refuse_unless_told(labeler, capsys, request):
    path = request.config.rootpath / "experiments" / "phantom.toml"
    config, told = load_config(path), load_config(path, ["labeler.allow_unlabeled=true"])
    bad, fine = studies([*NO_REPORTS, LONG]), studies(REPORTS)
    with pytest.raises(UserError, match=r"8 of 9 training references carry no label.*labeler.allow_unlabeled = true"):
        note_unread(labeler, bad, config)
    note_unread(labeler, bad, told)
    said = capsys.readouterr().out
    assert "8 of 9 training references carry no label (89%)" in said and "1 of 9 training references are longer" in said
    note_unread(labeler, fine, config)
    assert capsys.readouterr().out == ""
    found = [check_references(which, labeler, part) for which, part in ((config, bad), (told, bad), (config, fine))]
    assert [result.status for result in found] == ["fail", "warn", "pass"] and "8 of 9" in found[0].found


def test_label_and_score_say_so(tmp_path, capsys):
    path = tmp_path / "r.csv"
    path.write_text("Report Impression\nClear lungs.\n50414267\n" + LONG + "\n")
    assert main(["label", str(path), "-o", str(tmp_path / "l.csv")]) == 0
    said = capsys.readouterr().out
    assert "1 of 3 reports carry no label (33%)" in said and "(row 3)" in said
    assert "1 of 3 reports are longer than the labeler reads" in said and "(row 4)" in said
    rows = [f"{n},{text},{LONG if n == 1 else text}" for n, text in enumerate(["50414267", "50414268", "No edema."])]
    (tmp_path / "p.csv").write_text("id,gt,pred\n" + "\n".join(rows) + "\n")
    assert main(["score", str(tmp_path / "p.csv"), "--language", "none"]) == 2
    assert "2 of 3 references carry no label (67%; 0, 1)" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "p.csv"), "--language", "none", "--allow-unlabeled"]) == 0
    said = capsys.readouterr().out
    assert "2 of 3 references carry no label" in said and "1 of 3 predictions are longer than the labeler reads" in said
