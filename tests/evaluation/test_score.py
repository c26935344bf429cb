"""`mrg-grpo score` from file to table and JSON, with a labeler of keywords whose labels are known by heart."""

import contextlib
import json
import math
import types

import pytest
import torch

import mrg_grpo.labelers
from mrg_grpo.cli import main, parser
from mrg_grpo.config import MARGIN
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.clinical import clinical_metrics, clinical_statistics
from mrg_grpo.evaluation.prediction_files import read_predictions
from mrg_grpo.evaluation.score import compare_systems, evaluation_of, run_score, score_predictions
from mrg_grpo.labels import CONDITIONS
from mrg_grpo.rewards.mccs import mccs

SHA256_OF_WEIGHTS = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
"""Of the seven bytes "weights"."""
KEYWORDS = {name.lower(): place for place, name in enumerate(CONDITIONS)}


class KeywordLabeler:
    """ "edema" is positive, "no edema" negative, "maybe edema" uncertain."""

    def label(self, reports):
        return torch.tensor([self.one(report.lower()) for report in reports]).reshape(-1, 14)

    def one(self, report):
        signs = {"no ": 2, "maybe ": 3}
        return [
            next((c for word, c in signs.items() if word + name in report), 1) if name in report else 0
            for name in KEYWORDS
        ]


STUDIES = [
    ("s1", "edema. no pneumothorax.", "edema. no pneumothorax."),
    ("s2", "no finding", "maybe cardiomegaly"),
    ("s3", "fracture. maybe edema", "no fracture. maybe edema"),
    ("s4", "no finding", "no finding"),
    ("s5", "cardiomegaly", ""),
    ("s6", "pleural effusion", "pleural effusion. atelectasis"),
]


@pytest.fixture(autouse=True)
def labeler(monkeypatch):
    monkeypatch.setattr(mrg_grpo.labelers, "load_labeler", lambda *a, **k: KeywordLabeler(), raising=False)


def write(path, rows):
    path.write_text("\n".join(json.dumps(dict(zip(("study_id", "reference", "prediction"), row))) for row in rows))
    return str(path)


def test_score_from_file_to_json(tmp_path, capsys):
    path, output = write(tmp_path / "a.jsonl", STUDIES), tmp_path / "out.json"
    assert run_score([path], output=str(output), preset="promptmrg", language="none", resamples=99) == 0
    page, result = capsys.readouterr().out, json.loads(output.read_text())
    label = KeywordLabeler().label
    expected = clinical_metrics(label([p for *_, p in STUDIES]), label([r for _, r, _ in STUDIES]))
    for name, value in expected.items():
        if name != "report_length":
            got = result["metrics"][name]["value"]
            assert (math.isnan(value) and got is None) or got == pytest.approx(value), name
    assert result["metrics"]["report_length"]["value"] == pytest.approx((3 + 2 + 4 + 2 + 0 + 3) / 6)
    f1 = result["metrics"]["f1_micro_14_uncertain_positive"]
    assert f1["low"] <= f1["value"] <= f1["high"] and f1["low"] < f1["high"]
    assert result["presets"]["promptmrg"]["ce_f1"] == result["metrics"]["f1_example_14_uncertain_negative"]
    assert list(result["conditions"]) == list(CONDITIONS)
    assert result["conditions"]["Edema"]["f1_uncertain_positive"]["value"] == 1.0
    assert result["conditions"]["Fracture"]["generated_negated"]["value"] == 1.0
    assert set(result["baselines"]) == {"all_normal", "most_frequent", "random", "nearest"}
    assert result["baselines"]["all_normal"]["recall_micro_13_uncertain_positive"]["value"] == 0.0
    for words in ("1 predictions empty: scored as they are (s5)", "as promptmrg prints", "all_normal", "polarity"):
        assert words in page


def test_compare(tmp_path, capsys):
    rng = torch.Generator().manual_seed(0)
    pick = lambda: CONDITIONS[int(torch.randint(0, 13, (1,), generator=rng))].lower()  # noqa: E731
    truth = [(f"s{n}", pick()) for n in range(60)]
    good = write(tmp_path / "good.jsonl", [(s, r, r if n % 5 else pick()) for n, (s, r) in enumerate(truth)])
    bad = write(tmp_path / "bad.jsonl", [(s, r, pick()) for s, r in reversed(truth)])  # matched by id, not by order
    output = tmp_path / "out.json"
    run_score([bad], compare=good, output=str(output), language="none", resamples=99)
    result = json.loads(output.read_text())["comparison"]["f1_micro_13_uncertain_positive"]
    assert result["value"] > 0.5 and result["low"] > 0 and result["p"] == pytest.approx(1 / 100)
    assert "good.jsonl minus bad.jsonl, paired" in capsys.readouterr().out
    same = score_predictions(read_predictions([good]), KeywordLabeler(), "none")[0]
    comparison = compare_systems(same, same, ("a", "b"), resamples=50)
    assert comparison.p_value["f1_micro_13_uncertain_positive"] == 1.0
    assert comparison.difference["clinical_cosine"].value == 0.0
    reordered = write(
        tmp_path / "back.jsonl", [(s, r, r if n % 5 else "edema") for n, (s, r) in enumerate(truth)][::-1]
    )
    straight = write(tmp_path / "straight.jsonl", [(s, r, r if n % 5 else "edema") for n, (s, r) in enumerate(truth)])
    pair = [score_predictions(read_predictions([path]), KeywordLabeler(), "none")[0] for path in (straight, reordered)]
    shift = compare_systems(pair[0], pair[1], ("a", "b"), resamples=50).difference["clinical_cosine"]
    assert shift.low == shift.high == 0  # the same reports: no difference in any resample, whatever the order
    turned = write(tmp_path / "turned.jsonl", [(s, f"no {r}" if s in ("s3", "s7") else r, r) for s, r in truth])
    with pytest.raises(
        UserError, match=r"good.jsonl and .*turned.jsonl hold other references for 2 studies \(s3, s7\)"
    ):
        run_score([good], compare=turned, language="none", resamples=99)
    shouted = write(tmp_path / "shouted.jsonl", [(s, f"{r.upper()}.", r) for s, r in truth])
    assert run_score([good], compare=shouted, language="none", resamples=99) == 0
    other = write(tmp_path / "other.jsonl", [("z1", "edema", "edema"), *((s, r, r) for s, r in truth[:-1])])
    with pytest.raises(UserError, match=r"differ in 2 studies \(s59, z1\)"):
        run_score([good], compare=other, language="none", resamples=99)


def test_two_files_and_a_second_system_with_the_same_references(tmp_path):
    for name, column in (("gt", 1), ("a", 2), ("b", 1)):
        rows = "\n".join(f"{row[0]},{row[column]}" for row in STUDIES)
        (tmp_path / f"{name}.csv").write_text("study_id,report\n" + rows)
    gt, a, b = (str(tmp_path / f"{name}.csv") for name in ("gt", "a", "b"))
    output = tmp_path / "out.json"
    run_score([gt, a], compare=b, output=str(output), language="none", resamples=99)
    assert json.loads(output.read_text())["comparison"]["clinical_cosine"]["value"] > 0.1


def test_every_system_that_is_named_is_compared_with_the_first(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", STUDIES)
    right = write(tmp_path / "right.jsonl", [(s, r, r) for s, r, _ in STUDIES])
    (tmp_path / "other").mkdir()
    same = write(tmp_path / "other" / "a.jsonl", STUDIES)  # called as the first
    output, basic = tmp_path / "out.json", ["--language", "none"]
    for others, names in (
        ([right], None),
        ([right, same], ["right.jsonl", same]),
        ([same, right], [same, "right.jsonl"]),
    ):
        named = [part for path in others for part in ("--compare", path)]
        assert main(["score", a, *basic, *named, "-o", str(output)]) == 0
        page, result = capsys.readouterr().out, json.loads(output.read_text())
        if names is None:
            assert "comparisons" not in result and result["comparison"]["clinical_cosine"]["value"] > 0.1
            assert "right.jsonl minus a.jsonl, paired" in page and page.count("paired") == 1
            continue
        assert "comparison" not in result and list(result["comparisons"]) == names
        assert result["comparisons"]["right.jsonl"]["clinical_cosine"]["value"] > 0.1
        assert result["comparisons"][same]["clinical_cosine"]["value"] == 0
        assert f"right.jsonl minus {a}, paired" in page and f"{same} minus {a}, paired" in page
    bad = write(tmp_path / "bad.jsonl", STUDIES[:-1])
    assert main(["score", a, *basic, "--compare", right, "--compare", bad]) == 2
    assert "bad.jsonl differ in 1 studies (s6)" in capsys.readouterr().err


def test_marks_of_other_reasoning_models_are_told(tmp_path, capsys):
    rows = [("s1", "edema", "<thinking>fracture</thinking> edema"), ("s2", "fracture", "◁think▷edema◁/think▷fracture")]
    path = write(tmp_path / "a.jsonl", [*rows, ("s3", "edema", "fracture, I think.\n</think>\nedema")])
    run_score([path], language="none", output=str(tmp_path / "o.json"), resamples=20)
    assert "marks of another reasoning model in the texts (<thinking> 1, " in capsys.readouterr().out
    metrics = json.loads((tmp_path / "o.json").read_text())["metrics"]
    assert metrics["f1_micro_13_uncertain_positive"]["value"] == 1.0 and metrics["format_compliance"]["value"] == 0.0


def test_completions_with_tags_are_parsed(tmp_path):
    tagged = "<think>edema</think><report>edema. fracture</report>"
    path = write(tmp_path / "a.jsonl", [("s1", "edema", tagged), ("s2", "fracture", "<report>fracture")])
    scored, _ = score_predictions(read_predictions([path]), KeywordLabeler(), "none")
    metrics = {k: v.item() for k, v in scored.metric(scored.statistics.sum(0)).items()}
    assert metrics["format_compliance"] == 0.5 and metrics["report_length"] == 1.5
    assert metrics["think_report_agreement"] == pytest.approx(1 / math.sqrt(2), abs=1e-6)
    assert any("2 predictions carry the tags" in note for note in scored.notes)


def test_a_thought_without_a_report_is_not_scored_as_one(tmp_path):
    rows = [
        ("s1", "edema", "<think>fracture</think> edema"),
        ("s2", "fracture", "<think>a</think><report>edema</report>"),
    ]
    path = write(tmp_path / "a.jsonl", [*rows, ("s3", "fracture", "fracture")])
    scored, _ = score_predictions(read_predictions([path]), KeywordLabeler(), "none")
    metrics = {k: v.item() for k, v in scored.metric(scored.statistics.sum(0)).items()}
    assert metrics["recall_micro_13_uncertain_positive"] == metrics["precision_micro_13_uncertain_positive"] == 2 / 3
    assert metrics["format_compliance"] == pytest.approx(1 / 3)


def test_labels_alone(tmp_path):
    records = [
        {"study_id": str(n), "labels": [1] + [0] * 13, "reference_labels": [n % 3] + [0] * 13, "compliant": n < 3}
        for n in range(6)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    output = tmp_path / "out.json"
    run_score([str(tmp_path / "a.jsonl")], output=str(output), resamples=99)
    result = json.loads(output.read_text())["metrics"]
    assert result["precision_micro_13_uncertain_positive"]["value"] == pytest.approx(1 / 3)
    assert result["format_compliance"]["value"] == 0.5 and "bleu_4" not in result


def test_page_and_json_name_the_labeler_and_the_margin(tmp_path, capsys):
    path, output = write(tmp_path / "a.jsonl", STUDIES), tmp_path / "out.json"
    run_score([path], output=str(output), language="none", resamples=20)
    result, wide = json.loads(output.read_text()), f"MCCS with margin {MARGIN:g}"
    assert result["labeler"] == "embedded" and result["mccs_margin"] == MARGIN
    assert capsys.readouterr().out.startswith(f"labels: embedded; {wide}\n") and result["notes"][0].endswith(wide)
    weights, folder = tmp_path / "chexbert.pth", tmp_path / "folder"
    weights.write_bytes(b"weights")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    for named in (weights, folder):
        run_score([path], labeler_path=str(named), output=str(output), language="none", resamples=20, margin=0.2)
        other, name = json.loads(output.read_text()), f"{named} (sha256 {SHA256_OF_WEIGHTS[:12]})"
        assert other["labeler"] == name and other["mccs_margin"] == 0.2
        assert f"labels: {name}; MCCS with margin 0.2\n" in capsys.readouterr().out
    label = KeywordLabeler().label
    labels, reference = label([p for *_, p in STUDIES]), label([r for _, r, _ in STUDIES])
    for scores, margin in ((result, MARGIN), (other, 0.2)):
        assert scores["metrics"]["mccs"]["value"] == pytest.approx(float(mccs(labels, reference, margin).mean()))
    for name, side in result["baselines"].items():  # theirs are of the same margin
        assert name == "all_normal" or side["mccs"]["value"] < other["baselines"][name]["mccs"]["value"]


def test_margins_that_are_none(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", STUDIES)
    for margin in ("1", "-0.1", "nan", "much"):
        with contextlib.suppress(SystemExit):  # argparse's way of ending with 2
            assert main(["score", path, "--language", "none", f"--margin={margin}"]) == 2
        assert "margin" in (error := capsys.readouterr().err) and len(error.splitlines()) == 1
    score = next(iter(parser()._subparsers._group_actions)).choices["score"]  # type: ignore[union-attr,arg-type]
    assert f"default {MARGIN:g}" in next(a.help for a in score._actions if a.dest == "margin")


def test_language_and_external_metrics(tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap", reason="needs the extra `eval` (pycocoevalcap)")
    monkeypatch.setattr("mrg_grpo.evaluation.language.shutil.which", lambda name: None)  # METEOR is tested elsewhere
    (tmp_path / "own_metric_for_test.py").write_text(
        "def same(completions, reference, **c):\n"
        "    return [None if not a else float(a == b) for a, b in zip(completions, reference)]\n"
    )
    monkeypatch.chdir(tmp_path)
    path, output = write(tmp_path / "a.jsonl", STUDIES), tmp_path / "out.json"
    run_score([path], output=str(output), metrics=["own_metric_for_test:same"], resamples=99)
    result = json.loads(output.read_text())
    assert result["metrics"]["own_metric_for_test:same"]["value"] == pytest.approx(2 / 5)  # the empty one is left out
    assert 0 < result["metrics"]["bleu_1"]["value"] < 1 and result["metrics"]["meteor"]["value"] is None
    assert any("Java" in note for note in result["notes"])


def test_metrics_of_others_get_labels_and_images_and_are_looked_up_first(tmp_path, monkeypatch, capsys):
    (tmp_path / "columns_of_score_for_test.py").write_text(
        "def look(completions, labels, reference_labels, images, prompts):\n"
        "    assert prompts == [''] * 2 and images == [['a.png'], []]\n"
        "    return [float(a == b) for a, b in zip(labels, reference_labels)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = [("s1", "edema", "edema"), ("s2", "edema", "no edema")]
    records = [dict(zip(("study_id", "reference", "prediction"), row)) for row in rows]
    records[0]["images"] = ["a.png"]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    paths, metric = [str(tmp_path / "a.jsonl")], "columns_of_score_for_test:look"
    run_score(paths, output=str(tmp_path / "o.json"), language="none", metrics=[metric], resamples=20)
    assert json.loads((tmp_path / "o.json").read_text())["metrics"][metric]["value"] == 0.5
    run_score(paths, compare=paths[0], language="none", metrics=[metric], resamples=20)
    title, rows = capsys.readouterr().out.split("minus a.jsonl, paired")
    assert metric in title and metric in rows  # the system's own number, and the difference
    monkeypatch.setattr(mrg_grpo.labelers, "load_labeler", None)  # nothing is loaded, nothing labelled
    with pytest.raises(UserError, match="cannot import no_such_for_test"):
        run_score(paths, language="none", metrics=["no_such_for_test:f"])


def test_without_pycocoevalcap_the_page_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.bleu.bleu_scorer", None)
    run_score([write(tmp_path / "a.jsonl", STUDIES)], resamples=99)
    assert "language metrics are left out" in capsys.readouterr().out


def test_evaluation_of_a_judged_split():
    label = KeywordLabeler().label
    studies = [Study(s, (), r, "test") for s, r, _ in STUDIES]
    reports = [p for *_, p in STUDIES]
    labels, reference = label(reports), label([r for _, r, _ in STUDIES])
    judged = types.SimpleNamespace(
        predictions=types.SimpleNamespace(studies=studies, generated=[], reports=reports),
        labels=labels,
        reference_labels=reference,
        statistics=clinical_statistics(labels, reference),
    )
    wrong = (1,) * 14  # labels that a data set brings are of another judge
    train = [Study("t", (), "no finding", "train", wrong), Study("u", (), "edema", "train", wrong)]
    evaluation = evaluation_of(judged, train, KeywordLabeler(), language="none", resamples=20)
    nearest = ["edema", "no finding", "edema", "no finding", "no finding", "no finding"]
    assert evaluation.baselines["nearest"]["clinical_cosine"].value == pytest.approx(
        clinical_metrics(label(nearest), reference)["clinical_cosine"]
    )
    assert evaluation.studies == 6 and set(evaluation.baselines) >= {"most_frequent", "random", "nearest"}
    assert evaluation.metrics["mccs"].value == pytest.approx(clinical_metrics(labels, reference)["mccs"])
    assert "clinical efficacy" in evaluation.table() and json.dumps(evaluation.to_json(), allow_nan=False)
    assert evaluation_of(judged, language="none", resamples=20).baselines == {}


def test_errors(tmp_path):
    path = write(tmp_path / "a.jsonl", STUDIES)
    with pytest.raises(UserError, match="preset"):
        run_score([path], preset="r2gen")
    with pytest.raises(UserError, match="language mode"):
        run_score([path], language="lower")
    with pytest.raises(UserError, match="cannot write"):
        run_score([path], language="none", output=str(tmp_path / "no" / "out.json"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "omission",
            'is no dotted path, .*did you mean "omission_rate"\\? our own metrics are computed without asking',
        ),
        ("omission_rate", "is one of our own, computed without asking"),
        ("zzz", "--metric zzz: is no dotted path, package.module:function, to a metric of yours; our own"),
    ],
)
def test_a_metric_that_is_no_path_is_told_what_there_is(name, words, tmp_path):
    with pytest.raises(UserError, match=words):
        run_score([write(tmp_path / "a.jsonl", STUDIES)], metrics=[name])


def test_a_score_of_nothing_is_a_dash(tmp_path, capsys):
    """Only edema is in the references; cardiomegaly is generated, of the rest nothing is said by anybody."""
    path = write(tmp_path / "a.jsonl", [("s1", "edema", "edema. cardiomegaly"), ("s2", "edema. no fracture", "edema")])
    other = write(tmp_path / "b.jsonl", [("s1", "edema", "edema"), ("s2", "edema. no fracture", "edema")])
    assert run_score([path], language="none", resamples=9, compare=other, output=str(tmp_path / "o.json")) == 0
    page = capsys.readouterr().out
    rows = {line.rsplit("  ")[0].strip(): line.split() for line in page.splitlines()}
    cells = {name: row[len(name.split()) :] for name, row in rows.items()}
    assert cells["Edema"] == ["2", "2", "1.000", "1.000", "1.000", "[1.000,", "1.000]", "-"]
    assert cells["Cardiomegaly"] == ["0", "1", "0.000", "-", "-", "-"]  # precision is of one that was generated
    assert cells["Pneumonia"] == ["0", "0", "-", "-", "-", "-"] and cells["Fracture"][-1].startswith("0.000")
    assert "13 of 14 conditions are in no reference and count as 0 in macro averages: Enlarged" in page
    record = json.loads((tmp_path / "o.json").read_text())  # the convention itself stays as it is
    assert record["conditions"]["Cardiomegaly"]["f1_uncertain_positive"]["value"] == 0.0


def test_averages_over_nothing_are_dashes_too(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [("s1", "no fracture", "no fracture"), ("s2", "no edema", "no edema")])
    other = write(tmp_path / "b.jsonl", [("s1", "no fracture", "no fracture"), ("s2", "no edema", "edema")])
    assert run_score([path], language="none", resamples=9, compare=other) == 0
    page = capsys.readouterr().out
    grid = page.partition("clinical efficacy")[2].partition("\n\n")[0]
    assert grid.count("  -") == 6 * 9 and "0.000" not in grid
    assert "f1_micro_13_uncertain_positive" not in page and "clinical_cosine" in page
