"""How many different reports there are, against a slow count, and who is named for it."""

import json
import random

import pytest
import torch

from mrg_grpo.evaluation.distinct import distinct, variety, words
from mrg_grpo.evaluation.prediction_files import read_predictions
from mrg_grpo.evaluation.score import run_score, score_predictions


def blank(count):
    return torch.zeros(count, 14, dtype=torch.long)


def of(reports, references, **options):
    return variety(reports, references, blank(len(reports)), blank(len(reports)), **options)


def slow(texts):
    """Different texts, and copies of the commonest, by comparing each with each."""
    rows = [" ".join(words(text)) for text in texts]
    counts = [sum(other == row for other in rows) for row in rows]
    return len([row for place, row in enumerate(rows) if row not in rows[:place]]), max(counts)


def test_counts_against_the_slow_way():
    chance = random.Random(0)
    kinds = ["No edema.", "no  EDEMA", "Edema", "", "Edema, left", "effusion"]
    for _ in range(20):
        texts = chance.choices(kinds, k=chance.randint(1, 40))
        found = distinct(map(words, texts))
        assert (found.distinct, found.commonest) == slow(texts)
        assert words(texts[found.first]) in [words(text) for text in texts] and found.total == len(texts)


def test_case_and_punctuation_do_not_count():
    found = of(["No edema.", "no  edema", "NO EDEMA!", "Edema"], list("abcd"))
    assert found.reports.distinct == 2 and found.reports.commonest == 3 and found.text == "No edema."
    assert found.references.distinct == 4


@pytest.mark.parametrize(
    ("reports", "references", "constant"),
    [
        (["x"] * 382, [f"r{n}" for n in range(382)], True),  # one sentence for everybody
        (["x"] * 9, [f"r{n}" for n in range(9)], False),  # too few studies to say so
        (["x"] * 5 + list("abcde"), [f"r{n}" for n in range(10)], True),
        (["x"] * 4 + list("abcdef"), [f"r{n}" for n in range(10)], False),
        (["x"] * 6 + list("abcd"), ["x"] * 6 + list("abcd"), False),  # as the references are
        (["x"] * 6 + list("abcd"), ["x"] * 4 + list("abcdef"), False),  # 60% against 40%: not twice
        (["x", "y", "z"] * 20, [f"r{n}" for n in range(60)], True),  # a few sentences in turn
        ([f"x{n % 6}" for n in range(60)], [f"r{n}" for n in range(60)], False),  # a tenth is not fewer than a tenth
        ([f"x{n % 5}" for n in range(60)], [f"r{n}" for n in range(60)], True),
        ([f"x{n % 5}" for n in range(49)], [f"r{n}" for n in range(49)], False),
        ([""] * 30, [f"r{n}" for n in range(30)], True),
    ],
)
def test_the_rule(reports, references, constant):
    found = of(reports, references)
    assert found.nearly_constant == constant == bool(found.warning()) == found.to_json()["nearly_constant"]


def test_the_note_says_what_the_page_must():
    found = of(["The lungs are clear. " * 20] * 12, [f"r{n}" for n in range(12)])
    cut = ("The lungs are clear. " * 20)[:117] + "..."
    assert found.note() == (
        f'12 reports, 1 distinct, the commonest 12 times (100%): "{cut}"; 1 distinct label vectors; references: 12 '
        "distinct"
    )
    assert "baselines all_normal and most_frequent" in found.warning()
    hidden = of(["The lungs are clear."] * 12, ["r"] * 12, keep_text=False)
    assert "lungs" not in hidden.note() + hidden.warning() + json.dumps(hidden.to_json())
    assert of([""] * 12, ["r"] * 12).text == "(empty)"


def test_labels_alone_are_judged_by_their_vectors():
    labels, references = blank(60), blank(60)
    references[torch.arange(60), torch.arange(60) % 13] = 1
    found = variety([""] * 60, [""] * 60, labels, references)
    assert found.nearly_constant and found.note().startswith(
        "60 label vectors, 1 distinct, the commonest 60 times (100%); r"
    )
    assert variety([""] * 60, [""] * 60, references, references).warning() == ""


def records(count, text, **more):
    return [
        {"study_id": str(n), "reference": f"Edema number {n}.", "prediction": text, **more} for n in range(count)
    ]  # fmt: skip


def test_score_warns_on_the_page_and_in_the_json(tmp_path, capsys):
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, records(12, "No acute disease."))))
    (tmp_path / "many.jsonl").write_text(
        "\n".join(json.dumps({**row, "prediction": f"Edema {n}."}) for n, row in enumerate(records(12, "")))
    )
    one, many, out = str(tmp_path / "one.jsonl"), str(tmp_path / "many.jsonl"), tmp_path / "o.json"
    assert run_score([one], language="none", resamples=9, output=str(out)) == 0
    page, found = capsys.readouterr().out, json.loads(out.read_text())["distinct"]
    assert "12 reports, 1 distinct" in page and '"No acute disease."' in page
    warned, _, rows = page.partition("WARNING: nearly the same for everybody, 1 distinct for 12 studies")[2].partition(
        "\n"
    )
    assert "which never look at an image" in warned and rows.splitlines()[0].split()[-3:-1] == [
        "most_frequent",
        "random",
    ]
    assert found["nearly_constant"] and found["distinct"] == 1 and found["commonest"] == "No acute disease."
    assert run_score([many], language="none", resamples=9, compare=one, output=str(out)) == 0
    page, record = capsys.readouterr().out, json.loads(out.read_text())
    assert not record["distinct"]["nearly_constant"] and "12 reports, 12 distinct" in page
    assert "one.jsonl: WARNING: nearly the same" in " ".join(page.split())


def test_credentialed_texts_are_not_shown(tmp_path, capsys):
    rows = records(12, "A secret sentence.", credentialed="Derived from MIMIC-CXR")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "p.csv").write_text("study_id,report\n" + "".join(f"{n},A secret sentence.\n" for n in range(12)))
    for paths in (["a.jsonl"], ["a.jsonl", "p.csv"]):
        assert run_score([str(tmp_path / p) for p in paths], language="none", output=str(tmp_path / "o.json")) == 0
        page = capsys.readouterr().out
        assert "12 reports, 1 distinct" in page and "secret" not in page + (tmp_path / "o.json").read_text()


def test_real_references_are_not_blamed(shared):
    """IU X-Ray's own references as predictions: many are one normal sentence, and that is how the data is."""
    path = shared / "data" / "iu_xray" / "annotation.json"
    if not path.exists():
        pytest.skip(f"needs {path}")
    reports = [study["report"] for study in json.loads(path.read_text())["test"]]
    found = of(reports, reports)
    assert not found.nearly_constant and found.reports == found.references
    assert of(["No acute disease."] * len(reports), reports).nearly_constant


def test_statistics_carry_it(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records(3, "Edema."))))

    class Nothing:
        def label(self, reports):
            return blank(len(reports))

    scored, _ = score_predictions(read_predictions([tmp_path / "a.jsonl"]), Nothing(), "none", allow_unlabeled=True)
    assert scored.variety.reports.total == 3 and scored.variety.label_vectors.distinct == 1
