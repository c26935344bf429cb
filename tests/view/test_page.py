"""What is on the page: everything of a run in its place, nothing of credentialed data, never too large."""

import json
import os
import re
from dataclasses import asdict

import pytest
import torch
from fake_run import HOSTILE, best_of_step_4, write_run
from PIL import Image

from mrg_grpo.cli import main
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.errors import UserError
from mrg_grpo.labelers.attribution import attribute
from mrg_grpo.labels import CONDITIONS
from mrg_grpo.view import shapes
from mrg_grpo.view.cases import Pictures
from mrg_grpo.view.page import CODES, build, evenly, over_time, thin, within
from mrg_grpo.view.records import read_lines, read_run, signature
from mrg_grpo.view.render import asset, render, safe_json


class Reader:
    label = staticmethod(read_labels)


def colours(reports):
    return attribute(Reader, reports)


def page_of(folder, coloured=True):
    return build(read_run(folder), Pictures(), colours if coloured else None, stamp="1")


def data_of(text):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def test_a_run_is_on_its_page(tmp_path):
    config = write_run(tmp_path)
    page = data_of(render(page_of(tmp_path)))
    assert [len(page[name]) for name in ("groups", "tests", "followed")] == [12, 5, 2]
    group = page["groups"][0]
    record = json.loads((tmp_path / "rollouts.jsonl").read_text().splitlines()[0])
    assert "".join(piece["text"] for piece in group["reference"]["pieces"]) == record["reference"]
    for report, sample in zip(group["reports"], record["samples"]):
        assert report["labels"] == sample["labels"][:13] and report["reward"] == sample["reward"]
        assert report["rewards"] == {"mccs": sample["rewards"]["mccs"], "format": None}  # NaN has no place in JSON
        assert "".join(piece["text"] for piece in report["pieces"]) in sample["completion"]
        assert report["compliant"] is bool(report["think"])
        told = {c for piece in report["pieces"] for c, _ in piece["findings"]}
        assert told == {c for c, label in enumerate(report["labels"]) if label}  # each finding has its sentence
    assert page["pictures"][group["pictures"][0]].startswith("data:image/jpeg;base64,")
    assert [report["name"] for report in page["followed"][0]["reports"]] == ["start", "step 3", "step 6"]
    assert [report["name"] for report in page["tests"][0]["reports"]] == ["before", "after"]
    assert page["tests"][0]["reports"][1]["cosine"] == 1 and page["refresh"] == 0
    curves = {curve["name"]: curve for curve in page["curves"]}
    assert curves["reward"]["steps"] == [1, 2, 3, 4, 5, 6] and "weighted sum" in curves["reward"]["meaning"]
    assert curves["own.metric"]["values"] == [None] * 6 and curves["clinical cosine"]["section"] == "Validation"
    assert page["top"] == ["Reward", "Validation"]  # beside each other, before the reports
    assert len(page["bars"]) == 13 and page["sides"]["test split"]["studies"] == 5
    assert ("seed", str(config.run.seed)) in map(tuple, page["facts"]) and page["banner"] == ""


def test_a_condition_that_no_reference_states_has_no_f1(tmp_path):
    """Of a run that wrote 0 for it too, as F1's convention has it."""
    write_run(tmp_path)
    path, after = tmp_path / "evaluation.json", tmp_path / "predictions.jsonl"
    tree = json.loads(path.read_text())
    tree["conditions"]["Fracture"] = {"before": 0.0, "after": 0.0}
    tree["conditions"]["Edema"] = {"before": 0.0, "after": None}
    path.write_text(json.dumps(tree))
    rows = [json.loads(line) for line in after.read_text().splitlines()]
    for row in rows:
        row["reference_labels"][CONDITIONS.index("Fracture")] = 2
        row["reference_labels"][CONDITIONS.index("Edema")] = 3
    after.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bars = {bar.condition: bar for bar in page_of(tmp_path).bars}
    assert (bars["Fracture"].before, bars["Fracture"].after, bars["Fracture"].stated) == (None, None, 0)
    assert (bars["Edema"].before, bars["Edema"].after, bars["Edema"].stated) == (0.0, None, 5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"run_keep_text": False}, "Texts and pictures are left out (run.keep_text = false)."),
        ({"data_form": "mimic_cxr", "data_root": "/nowhere"}, "Made from credentialed data: do not share."),
        ({"data_form": "mimic_cxr", "data_root": "/nowhere", "run_keep_text": False}, "Made from credentialed data"),
    ],
)
def test_credentialed_data_leaves_no_text_and_no_picture(tmp_path, settings, words):
    write_run(tmp_path, hostile="SECRET", **settings)
    text = render(page_of(tmp_path))
    page = data_of(text)
    assert page["banner"].startswith(words) and page["pictures"] == []
    reports = [
        line.split(".")[0] for line in re.findall(r'"reference": "(.*?)"', (tmp_path / "rollouts.jsonl").read_text())
    ]
    assert reports and not any(report in text for report in [*reports, "SECRET", "phantom:"])
    assert page["groups"][0]["reports"][0]["reward"] == 1 and len(page["groups"]) == 12  # numbers and labels stay


def test_what_stood_in_front_of_the_question_is_with_its_case(tmp_path):
    write_run(tmp_path)
    page = page_of(tmp_path)
    for cases in (page.groups, page.tests):
        assert {case.context for case in cases} == {"Context: Indication: cough ."}


def test_studies_that_were_left_out_are_named(tmp_path):
    write_run(tmp_path)
    assert not any("left out" in note for note in page_of(tmp_path).notes)
    lines = [
        {"step": 1, "split": "train", "study_id": "s1"},
        {"step": 6, "split": "test", "study_id": "s7", "why": "x"},
    ]
    (tmp_path / "left_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        "2 studies were left out, as their pictures could not be read: s1 (train), s7 (test)."
        in page_of(tmp_path).notes
    )
    (tmp_path / "left_out.jsonl").write_text('{"step": 1, "split": 2, "study_id": "s1"}\n')
    with pytest.raises(UserError, match="line 1: split and study_id are no texts"):
        page_of(tmp_path)


def test_a_run_that_kept_no_text_has_a_page(tmp_path):
    """As RunFolder writes it: null for what was not kept, and no such keys in predictions."""
    write_run(tmp_path, run_keep_text=False)
    for name in ("rollouts.jsonl", "followed.jsonl", "predictions.jsonl", "predictions_before.jsonl"):
        records = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for record in records:
            for key in ("images", "reference", "prediction", "generated", "think", "context"):
                record.pop(key, None)
            for sample in record.get("samples", []):
                sample["completion"] = None
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    page = page_of(tmp_path)
    assert (
        len(page.groups) == 12 and page.groups[0].reports[0].pieces is None and page.tests[0].reference.pieces is None
    )


def test_nothing_of_the_data_is_markup(tmp_path):
    write_run(tmp_path / "run<b>", hostile=HOSTILE)
    text = render(page_of(tmp_path / "run<b>"))
    assert text.count("<script") == 3 and text.count("</script>") == 3 and "<!--" not in text and "<b>" not in text
    text.encode("utf-8")  # a lone surrogate in a report must not stop the page
    report = data_of(text)["groups"][0]["reports"][0]
    assert "".join(piece["text"] for piece in report["pieces"]).endswith(HOSTILE)
    assert safe_json({"{{title}}": "</script>"}) == '{"{{title}}":"\\u003c/script>"}'


def test_the_file_asks_the_network_for_nothing(tmp_path):
    write_run(tmp_path)
    text = render(page_of(tmp_path))
    outside = {"http://www.w3.org/2000/svg"}  # the name of SVG, never fetched
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) <= outside
    assert not re.search(
        r"<link|@import|url\(|\bfetch\(|XMLHttpRequest|innerHTML|insertAdjacentHTML|document\.write", text
    )
    assert "default-src 'none'" in text


def test_colours_of_another_labeler_are_owned_up_to(tmp_path):
    write_run(tmp_path)
    page = build(read_run(tmp_path), Pictures(), lambda reports: attribute(Deaf, reports), stamp="1")
    assert "reads" in page.notes[0] and "otherwise" in page.notes[0]


class Deaf:
    @staticmethod
    def label(reports):
        return torch.zeros(len(reports), 14, dtype=torch.long)


@pytest.mark.slow
def test_a_200_step_run_stays_below_5_mb(tmp_path):
    """Every step's groups kept, 1,000 test studies, reports three times as long as the phantom's."""
    write_run(tmp_path, steps=200, studies=8, group=8, tests=1000, longer=3)
    page = page_of(tmp_path)
    size = len(render(page).encode())
    assert 1e6 < size < 5e6, size
    shown = [case.step for case in page.groups]
    assert len(shown) > 50 and shown[0] == 1 and shown[-1] == 200
    assert f"{len(shown)} of 1,600 sampled groups" in page.notes[0] and "100 of 1,000 test studies" in page.notes[1]


def test_choosing_is_even_and_keeps_the_ends():
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9] and evenly([1, 2], 5) == [1, 2] and evenly([1, 2, 3], 1) == [1]
    assert within(list(range(10)), 40, size=lambda case: 10) == [0, 3, 6, 9]
    steps, values = thin([{"step": i, "x": float(i)} for i in range(1, 1201)], "x")
    assert len(steps) == 400 and steps[-1] == 1200 and values[0] == 2.0
    assert thin([{"step": 1}], "x") == ([1], [None])


def test_a_step_that_was_done_twice_counts_once():
    records = [{"study_id": "a", "step": 8, "n": 1}, {"study_id": "a", "step": 0}, {"study_id": "a", "step": 8, "n": 2}]
    assert [record.get("n") for record in over_time(records)["a"].values()] == [None, 2]


def test_a_run_that_is_still_going_on(tmp_path):
    write_run(tmp_path)
    for name in ("evaluation.json", "predictions.jsonl", "followed.jsonl"):
        (tmp_path / name).unlink()
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 7, "stud')  # being written
    before = signature(tmp_path)
    records = read_run(tmp_path)
    assert not records.done and len(records.rollouts) == 12
    page = page_of(tmp_path)
    assert page.tests == [] and page.bars == [] and page.sides == {}
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write("y_id")
    assert signature(tmp_path) != before
    (tmp_path / "metrics.jsonl").unlink()
    assert page_of(tmp_path).curves[0].section == "Validation"


def test_bad_runs_end_in_one_line(tmp_path, capsys):
    assert main(["view", str(tmp_path)]) == 2
    assert "no config.toml" in capsys.readouterr().err
    write_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{broken\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2: not valid JSON"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="line 1: labels are not 13 or 14 class ids"):
        read_lines(tmp_path / "metrics.jsonl", shapes.prediction_record)
    (tmp_path / "metrics.jsonl").unlink()
    assert main(["view", str(tmp_path), "--plain", "-o", str(tmp_path / "no" / "page.html")]) == 2
    assert "name another file with -o" in capsys.readouterr().err


def changed(key, value, sample=False):
    """A change of the first record of a file."""

    def change(record):
        (record["samples"][0] if sample else record)[key] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("rollouts.jsonl", changed("samples", []), "samples is no list of reports"),
        ("rollouts.jsonl", changed("samples", ["x"]), "sample 1: no JSON object"),
        ("rollouts.jsonl", changed("labels", [9] * 14, sample=True), "sample 1: labels are not 13 or 14 class ids"),
        ("rollouts.jsonl", changed("advantage", "high", sample=True), "sample 1: reward and advantage are no numbers"),
        ("rollouts.jsonl", changed("rewards", [1], sample=True), "sample 1: rewards are no numbers by name"),
        ("rollouts.jsonl", changed("completion", 7, sample=True), "sample 1: completion is no text"),
        ("rollouts.jsonl", changed("step", "x"), "step is no whole number"),
        ("rollouts.jsonl", changed("reference", {}), "reference is no text"),
        ("predictions.jsonl", changed("study_id", [1]), "study_id is no text"),
        ("predictions.jsonl", changed("reference_labels", [0]), "reference_labels are not 13 or 14"),
        ("predictions_before.jsonl", changed("compliant", 3), "compliant is not true, false or null"),
        ("followed.jsonl", changed("step", -1), "step is no whole number"),
        ("metrics.jsonl", changed("reward", "much"), "reward is no number"),
        ("validation.jsonl", changed("step", True), "step is no whole number"),
    ],
)
def test_records_of_another_shape_are_named(tmp_path, name, change, words, capsys):
    write_run(tmp_path)
    path = tmp_path / name
    first, *rest = path.read_text().splitlines()
    record = json.loads(first)
    change(record)
    path.write_text("\n".join([json.dumps(record), *rest]) + "\n")
    assert main(["view", str(tmp_path), "--plain"]) == 2
    printed = capsys.readouterr().err
    assert f"{name} line 1: " in printed and words in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"sides": [], "conditions": {}}', "sides and conditions are no objects"),
        ('{"sides": {"test": {"metrics": {"mccs": 1}, "studies": 2}}}', "mccs is no row of numbers"),
        ('{"sides": {"test": {"metrics": {"mccs": {"before": {"value": "x"}}}, "studies": 2}}}', "mccs holds what is"),
        ('{"sides": {"test": 3}}', "has no metrics"),
        ('{"sides": {}, "conditions": {"Edema": 1}}', "condition 'Edema' has no numbers"),
        ("[" * 100_000, "cannot be read"),
    ],
    ids=range(6),
)
def test_an_evaluation_of_another_shape_is_named(tmp_path, text, words, capsys):
    write_run(tmp_path)
    (tmp_path / "evaluation.json").write_text(text)
    assert main(["view", str(tmp_path), "--plain"]) == 2
    assert words in capsys.readouterr().err


def test_lines_that_are_cut_or_nested_for_ever(tmp_path, capsys):
    write_run(tmp_path)
    with (tmp_path / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "reference": "vergr\xc3')  # a run that is writing, stopped inside a character
    assert main(["view", str(tmp_path), "--plain"]) == 0
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")
    assert main(["view", str(tmp_path), "--plain"]) == 2
    assert "metrics.jsonl line 7: not valid JSON" in capsys.readouterr().err


def test_nothing_is_written_through_links(tmp_path):
    write_run(tmp_path / "run")
    names = (".page.html", ".page.html.part", "page.html", ".view-findings.json", "view-findings.json")
    for i, name in enumerate(names):
        (tmp_path / f"victim{i}").write_text("precious")
        (tmp_path / "run" / name).symlink_to(tmp_path / f"victim{i}")
    assert main(["view", str(tmp_path / "run")]) == 0
    assert all((tmp_path / f"victim{i}").read_text() == "precious" for i in range(len(names)))
    assert "</html>" in (tmp_path / "run" / "page.html").read_text()


@pytest.mark.parametrize("root", ["/", "HOME", "HOME/.."])
def test_a_run_cannot_name_the_viewers_own_files_as_its_data(tmp_path, monkeypatch, root):
    home = tmp_path / "home" / "me"
    (home / "data").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in ("private.png", "data/x.png"):
        Image.new("L", (64, 64), 200).save(home / name)
    write_run(tmp_path / "run", data_form="iu_xray_r2gen", data_root=root.replace("HOME", str(home)))
    path = tmp_path / "run" / "rollouts.jsonl"
    path.write_text(path.read_text().replace('"phantom:7/train/0"', f'"{home}/private.png"'))
    group = page_of(tmp_path / "run").groups[0]
    assert not group.pictures and "was not opened" in group.unseen[0]
    path.write_text(path.read_text().replace("private.png", "data/x.png"))
    config = tmp_path / "run" / "config.toml"
    config.write_text(re.sub(r"(?m)^root = .*$", f'root = "{home}/data"', config.read_text()))
    assert page_of(tmp_path / "run").groups[0].pictures  # a folder inside the home can be one of data


def test_pictures_that_are_gone_are_counted(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "rollouts.jsonl"
    path.write_text(path.read_text().replace('"phantom:7/train/0"', '"/gone/x.png"'))
    page = page_of(tmp_path)
    assert page.groups[0].pictures == [] and "1 pictures could not be opened, such as /gone/x.png" in page.notes[0]


@pytest.mark.parametrize("images", ['[{"a": 1}, 3]', '"phantom:7/train/0"', '["phantom:\\u00b2/train/0"]'])
def test_pictures_that_are_no_names_are_left_out(tmp_path, images):
    write_run(tmp_path)
    path = tmp_path / "rollouts.jsonl"
    path.write_text(path.read_text().replace('["phantom:7/train/0"]', images))
    assert page_of(tmp_path).groups[0].pictures == []


def test_the_command_writes_the_page_and_watches_until_the_run_is_done(tmp_path, capsys, monkeypatch):
    from mrg_grpo.view import watch

    write_run(tmp_path)
    evaluation = (tmp_path / "evaluation.json").read_text()
    (tmp_path / "evaluation.json").unlink()
    stamps = []

    def wait(seconds):
        page = data_of((tmp_path / "page.html").read_text())
        stamps.append(page["stamp"])
        assert page["refresh"] == seconds
        if len(stamps) == 3:
            (tmp_path / "evaluation.json").write_text(evaluation)

    monkeypatch.setattr(watch.time, "sleep", wait)
    assert main(["view", str(tmp_path), "--plain", "--watch"]) == 0
    last = data_of((tmp_path / "page.html").read_text())
    assert last["refresh"] == 0 and len(set(stamps)) == 1  # nothing new, nothing written
    assert last["stamp"] not in stamps and "open it in a browser" in capsys.readouterr().out


def test_codes_name_each_condition_once():
    assert len(set(CODES)) == len(CONDITIONS[:13])


PAIRS = [
    ("ink", "panel"), ("ink", "ground"), ("muted", "panel"), ("muted", "ground"), ("muted", "blank"),
    ("accent", "panel"), ("panel", "pos"),
    ("panel", "neg"), ("unc", "unc-soft"), ("pos", "pos-soft"), ("neg", "neg-soft"),
    ("ink", "pos-soft"), ("ink", "neg-soft"), ("ink", "unc-soft"), ("warn", "warn-soft"),
]  # fmt: skip


@pytest.mark.parametrize("theme", [":root", ':root[data-theme="dark"]'])
def test_every_text_can_be_read_on_its_ground(theme):
    """WCAG 2 AA: a contrast of 4.5, in light and in dark."""
    block = asset("page.css").split(theme + " {")[1].split("}")[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))

    def luminance(name):
        parts = [int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for front, back in PAIRS:
        low, high = sorted((luminance(front), luminance(back)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, front, back)


def test_the_tree_is_plain_data(tmp_path):
    write_run(tmp_path)
    json.dumps(asdict(page_of(tmp_path)), allow_nan=False)


def test_a_warm_start_and_another_evaluation_are_said_so(tmp_path):
    write_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 6, "loss": 2.0}\n')
    (tmp_path / "evaluation.json").write_text('{"metrics": {}}')
    page = page_of(tmp_path)
    assert ("studies a step", "16") in page.facts and "reward" not in dict(page.facts)
    assert "mrg-grpo evaluate" in page.notes[0] and read_run(tmp_path).done
    os.utime(tmp_path / "evaluation.json", (1, 1))  # a copied run, or a clock that went back
    assert read_run(tmp_path).done
    (tmp_path / "evaluation.json").write_text('{"metrics": {}, "step": 4}')  # of an earlier end, resumed since
    assert not read_run(tmp_path).done


def test_the_best_adapter_stands_beside_the_last(tmp_path):
    page = page_of(best_of_step_4(tmp_path))
    assert list(page.sides) == ["test split, last adapter (step 6)", "test split, best adapter (step 4)"]
    assert ("best step", "4 by clinical_cosine 0.500") in page.facts
    assert [(c.name, c.chosen) for c in page.curves if c.chosen] == [("clinical cosine", 4)]
    assert [report.name for report in page.tests[0].reports] == ["before", "best", "after"]


def test_a_run_that_stopped_early_is_done(tmp_path):
    write_run(tmp_path, run_steps=9)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    for early in (True, False):
        (tmp_path / "evaluation.json").write_text(json.dumps({**evaluation, "step": 6, "stopped_early": early}))
        assert read_run(tmp_path).done is early


@pytest.mark.parametrize("best", [[], {"step": "4"}, {"step": 4, "metric": 1, "value": 0.5}, {"step": 4, "metric": "x"},
                                  {"step": 4, "metric": "x", "value": 0.5, "sides": {"a": 1}}])  # fmt: skip
def test_a_best_adapter_of_another_shape_is_refused(tmp_path, best):
    write_run(tmp_path)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps({**evaluation, "best": best or ["x"]}))
    with pytest.raises(UserError, match=r"evaluation\.json"):
        read_run(tmp_path)
