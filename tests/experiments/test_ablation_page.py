"""What is kept of a finished arm, and the page that is made of it."""

import json
import shlex
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import in_a_child
from fake_run import write_run
from scipy import stats
from svg_text import texts

from experiments.ablations import (
    ablate_format,
    ablate_group,
    ablate_margin,
    ablate_rare,
    ablate_rewards,
    ablation,
    ablation_claims,
    ablation_command,
    ablation_file,
    ablation_page,
    ablation_pictures,
    ablation_record,
    ablation_results,
    ablation_tables,
)
from experiments.ablations.ablation import Arm, Bench, Claim, Experiment, key
from experiments.ablations.ablation_record import behaviour, packed, record_of, thinned, unpacked, validation_of
from experiments.docs import sections
from mrg_grpo.config import load_config
from mrg_grpo.data.phantom.dataset import export, load
from mrg_grpo.evaluation.clinical import metrics_from_sums


@pytest.fixture
def called_in_a_child(monkeypatch):
    """Commands of an arm run in a fork of this process: a new interpreter would import for five seconds, ten times."""

    def call(words, name=""):
        done = in_a_child(shlex.join(["mrg-grpo", *words]), Path.cwd())
        assert done.returncode == 0, done.stderr

    monkeypatch.setattr(ablation, "call", call)


def made_record(folder, arm, seed, wrong):
    """A record of a run whose reports are right but for every `wrong`-th, which is another study's."""
    write_run(folder, steps=6, tests=12)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for i in range(0, 12, wrong):
        rows[i] |= {key: rows[i - 1][key] for key in ("prediction", "labels")}
        rows[i]["generated"] = f"<report>{rows[i]['prediction']}</report>"
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(folder / "config.toml")
    return {"arm": arm, "title": arm, "seed": seed, "command": "c",
            **record_of(folder, "train", config), "validation": validation_of(folder, config)}  # fmt: skip


def test_labels_are_kept_and_read_back():
    labels = torch.randint(0, 4, (7, 14))
    assert torch.equal(unpacked(packed(labels)), labels)


def test_thinned_curves_are_means_of_equal_stretches():
    values = [float(i) for i in range(200)]
    curve = thinned(values)
    assert len(curve) == 20 and curve[0] == [0.05, 4.5] and curve[-1] == [1.0, 194.5]
    assert thinned([1.0, 3.0]) == [[0.5, 1.0], [1.0, 3.0]]
    # stretches may differ by one: weighted by their length their means are the mean of all
    odd = thinned([float(i * i) for i in range(33)])
    edges = [0.0, *[x for x, _ in odd]]
    weighed = sum(y * (b - a) for (_, y), a, b in zip(odd, edges, edges[1:]))
    assert weighed == pytest.approx(sum(i * i for i in range(33)) / 33, abs=0.05)


def test_behaviour_reads_what_a_run_logs(tmp_path):
    right, wrong = [1, *[0] * 13], [2, *[0] * 13]
    samples = [
        {"rewards": {"mccs": m, "format": 1.0}, "labels": labels}
        for m, labels in ((0.0, wrong), (0.0, right), (0.0, right), (0.4, right))
    ]
    group = {"step": 2, "samples": samples, "reference_labels": right}
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(group) + "\n")
    (tmp_path / "validation.jsonl").write_text('{"step": 3, "polarity_accuracy": 0.5, "report_length": 9.0}\n')
    steps = [
        {"length": 8.0, "mentioned": 4.0, "uncertain": 1.0, "groups_without_spread": 0.5} for _ in range(6)
    ]  # fmt: skip
    curves = behaviour(tmp_path, steps)
    assert curves["zero_reward"] == [[0.3333, 0.75]] and curves["polarity_accuracy"] == [[0.5, 0.5]]
    assert curves["sampled_cosine"] == [[1.0, 0.5]]  # three times 1, once -1
    assert curves["uncertain_share"][0][1] == 0.25 and curves["clinical_cosine"] == []


SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory, request):
    """Records of two arms and three seeds, and the page made of them."""
    folder = tmp_path_factory.mktemp("page")
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setattr(ablation_record, "RESAMPLES", 50)
    arms = (Arm("good", "the good one"), Arm("bad", "the bad one"), Arm("absent", "never run"))
    claims = (
        Claim("Good beats bad", "good", "bad"),
        Claim("Bad beats good", "bad", "good"),
        Claim("?", "absent", "bad"),
    )
    experiment = Experiment("toy", "A question", "About it.", arms, control="bad", claims=claims)
    page = folder / "docs" / "ablations.md"
    bench = Bench(experiment, runs=folder / "runs", results=folder / "results", page=page)
    for arm, wrong in ((arms[0], 12), (arms[1], 1)):
        record = made_record(folder / arm.name, arm.name, 0, wrong)
        for seed in SEEDS:
            ablation.keep(bench, arm, record | {"seed": seed, **bench.origin(arm, seed)})
    page.parent.mkdir()
    page.write_text("# Head\n\n<!-- ablation other -->\nkept\n<!-- ablation other -->\n\nthe end\n")
    ablation_page.write_page(bench)
    return bench, page


def test_a_record_scores_as_the_evaluator_does(written):
    bench, _ = written
    record = ablation_file.read(bench.file)["records"]["good-seed0"]
    again = metrics_from_sums(ablation_results.study_statistics(record, "labeler").sum(0))
    for name in ("f1_micro_13_uncertain_positive", "clinical_cosine", "mccs", "polarity_accuracy", "report_length"):
        assert record["metrics"][name][0] == pytest.approx(float(again[name]), abs=1e-5), name
    studies = load(sizes={"test": 12})["test"]
    assert record["studies"] == [study.id for study in studies]
    assert ablation_results.generator_labels(tuple(record["studies"])).tolist() == [
        list(study.labels) for study in studies
    ]


def test_the_page_has_its_tables_and_keeps_what_is_not_its_own(written):
    bench, page = written
    text = page.read_text()
    assert text.startswith("# Head\n\n<!-- ablation other -->\nkept\n<!-- ablation other -->\n\nthe end\n")
    assert "the good one" in text and "never run" not in text and "## A question\n\nAbout it.\n" in text
    claims = [line for line in text.splitlines() if line.startswith("| Good beats") or line.startswith("| Bad beats")]
    assert claims[0].endswith("holds, holds |") and claims[1].endswith("the opposite, the opposite |")
    ablation_page.write_page(bench)
    assert page.read_text() == text  # written twice, it stays the same
    for picture in ("ablation_toy.svg", "ablation_toy_differences.svg", "ablation_toy_training.svg",
                    "ablation_toy_learning.svg"):  # fmt: skip
        root = ElementTree.parse(page.parent / "images" / picture).getroot()
        assert root.tag.endswith("svg") and f"images/{picture}" in text


def test_the_papers_sentences_stand_at_the_top_of_a_page_that_asks_for_them(written):
    bench, page = written
    before = page.read_text()
    claims = tuple(replace(claim, of_paper=claim.text == "Good beats bad") for claim in bench.experiment.claims)
    asked = replace(bench, experiment=replace(bench.experiment, claims=claims), page=page.with_name("top.md"))
    mark = sections.marker("ablation paper toy")
    asked.page.write_text(f"# Head\n{mark}\n{mark}\n{before}")
    ablation_page.write_page(asked)
    head, top, rest = asked.page.read_text().split(mark)
    assert head == "# Head\n" and "**A question**" in top and "Good beats bad" in top and "Bad beats good" not in top
    assert "| Bad beats good" in rest and "**A question**" not in before


def test_a_claim_needs_every_seed(written):
    bench, _ = written
    good, bad = ablation_results.results_of(bench)
    lucky = ablation_results.Result(good.arm, {**good.records, 2: bad.records[2]})
    first = ablation_claims.claim_table(bench, [lucky, bad])[2]
    _, f1, by_seed, *_, seen = first.split(" | ")
    assert float(f1.split("[")[1].split(",")[0]) > 0  # over studies it looks sure
    assert seen == "not significant, not significant |"
    assert [float(d) > 0 for d in by_seed.split(" [")[0].split(", ")] == [True, True, False]
    two = [ablation_results.Result(r.arm, {seed: r.records[seed] for seed in (0, 1)}) for r in (good, bad)]
    assert ablation_claims.claim_table(bench, two)[2].endswith("no verdict (2 of 3 seeds) |")


def test_a_record_of_other_settings_is_not_on_the_page(written):
    bench, page = written
    assert "Left out" not in page.read_text() and ablation_results.left_out(bench) == []
    before = bench.file.read_bytes()
    record = ablation_file.read(bench.file)["records"]["good-seed1"]
    try:
        ablation_file.keep(bench.file, records={"good-seed1": record | {"weights": {"base": "of before"}}})
        assert sorted(ablation_results.results_of(bench)[0].records) == [0, 2]
        assert "no longer the arm's: good seed 1." in ablation_page.section(bench, ablation_results.results_of(bench))
    finally:
        bench.file.write_bytes(before)


def test_the_interval_over_seeds_is_students():
    ones, others = [0.71, 0.75, 0.76], [0.70, 0.71, 0.69]
    cell = ablation_claims.over_seeds(ones, others)
    low, high = stats.ttest_ind(ones, others).confidence_interval(0.95)
    assert cell.startswith("+0.010, +0.040, +0.070 [")
    shown = [float(x) for x in cell.split("[")[1].rstrip("]").split(", ")]
    assert shown == pytest.approx([low, high], abs=5.1e-4)
    assert ablation_claims.over_seeds(ones[:2], others[:2]) == "+0.010, +0.040"


def test_how_often_the_judges_agree_is_said(written):
    bench, _ = written
    good, bad = ablation_results.results_of(bench)
    blank = "0" * 14
    labels, reader = (["1" + blank[1:], "2" + blank[1:]], ["1" + blank[1:], "21" + blank[2:]])
    record = {"labels": " ".join(labels), "reader_labels": " ".join(reader)}
    same = record | {"reader_labels": record["labels"]}
    pair = [ablation_results.Result(good.arm, {0: same}), ablation_results.Result(bad.arm, {4: record})]
    (line, _) = ablation_tables.agreement(pair)
    assert "in 83.3% of" in line and line.endswith("in 66.7% at worst (the bad one, seed 4).")
    assert ablation_tables.agreement([ablation_results.Result(good.arm, {0: {"labels": record["labels"]}})]) == []


def test_what_reports_mention_is_counted():
    labels = torch.tensor([[1, 2, 3, 0], [0, 0, 1, 1]])
    assert ablation_tables.mentions(labels) == [2.5, 1.5, 0.5]


def test_what_is_gained_where_the_start_kept_to_the_form(written):
    bench, _ = written
    good, bad = ablation_results.results_of(bench)
    start = ablation_results.Result(replace(bad.arm, command="none"), {})
    for marks in ("0", "1"):  # none or all of its reports keep to it
        start.records = {0: bad.records[0] | {"compliant": marks * 12}}
        assert ablation_tables.form_table([start, good]) == [] == ablation_tables.form_table([good, bad])
    start.records = {0: (half := bad.records[0] | {"compliant": "10" * 6})}
    head, _, _, _, row, _ = ablation_tables.form_table([start, good])
    assert head.startswith("On the 6 test studies in which the bad one kept")
    f1 = [float(metrics_from_sums(ablation_results.study_statistics(record, "labeler")[::2].sum(0))[
        ablation_results.F1]) for record in (half, good.records[0])]  # fmt: skip
    assert row.startswith("| the good one | 3 |") and row.split(" | ")[2].split()[0] == f"{f1[1] - f1[0]:+.3f}"


def test_a_mean_over_seeds_stands_where_all_of_them_have_a_value():
    """A mean of other seeds at another place would be a step in the curve that no seed took."""
    records = {
        0: {"behaviour": {"a": [(0.2, 1.0), (0.594, 2.0), (0.998, 9.0)], "b": [(0.5, 1.0)], "d": [(0.2, 1.0)]}},
        1: {"behaviour": {"a": [(0.2, 3.0), (0.6, 4.0)], "d": [(0.4, 1.0)]}},
    }
    result = ablation_results.Result(Arm("x", "x"), records)
    assert ablation_results.curve(result, "a") == [(0.2, 2.0), (pytest.approx(0.597), 3.0)]
    assert ablation_results.curve(result, "b") == [(0.5, 1.0)] and ablation_results.curve(result, "c") == []
    assert ablation_results.curve(result, "d") == []  # not the same place


def test_a_choice_shows_what_decides_it(written):
    bench, page = written
    heads, rule, good, bad = ablation_tables.choice_table(ablation_results.results_of(bench))
    table = f"{heads}\n{rule}\n{good}\n{bad}"
    assert table not in page.read_text()  # its records have it from an experiment that chooses; this one does not
    ablation_page.write_page(replace(bench, experiment=replace(bench.experiment, choosing=True)))
    assert table in page.read_text()
    tested = ablation_tables.efficacy_table(ablation_results.results_of(bench), None)[2:]
    for choice, row in zip((good, bad), tested):  # the same reports here: the same numbers
        assert choice.split(" | ")[2].split()[0] == row.split(" | ")[2].split()[0]
    assert good.split(" | ")[2] > bad.split(" | ")[2]


def test_the_control_is_not_tested_against_itself(written):
    bench, _ = written
    good, bad = ablation_results.results_of(bench)
    assert ablation_tables.p_values(bad, bad, "labeler") == {}
    p = ablation_tables.p_values(good, bad, "labeler")["clinical_cosine"]
    assert p < 0.05
    assert ablation_results.shared_seeds(good, ablation_results.Result(bad.arm, {2: {}, 3: {}})) == [2]


def test_seeds_are_summed_study_by_study(written):
    bench, _ = written
    good = ablation_results.results_of(bench)[0]
    both, one, two = (good.statistics("labeler", seeds) for seeds in ([0, 1], [0], [1]))
    assert both.shape == one.shape and torch.equal(both, one + two)


@pytest.mark.slow
@pytest.mark.parametrize("module", [ablate_group, ablate_rewards, ablate_rare, ablate_margin, ablate_format])
def test_the_page_shows_what_is_kept(module):
    """Text of tables and pictures; not the bytes of pictures, which versions of matplotlib draw differently."""
    bench = Bench(module.EXPERIMENT)
    results = ablation_results.results_of(bench)
    assert ablation_page.section(bench, results) in bench.page.read_text(), "run python -m experiments.docs.redraw"
    for name, svg in ablation_pictures.pictures(bench, results).items():
        assert texts((bench.page.parent / "images" / name).read_text()) == texts(svg), name


def test_a_command_that_fails_ends_the_ablation_with_its_code():
    """In a new interpreter, as `make ablate` runs it."""
    ablation.call(["--help"])
    with pytest.raises(SystemExit) as left:
        ablation.call(["no-such-command"])
    assert left.value.code == 2


@pytest.mark.slow
def test_two_steps_of_every_kind_of_arm(tmp_path, monkeypatch, called_in_a_child):
    monkeypatch.setattr(ablation_record, "RESAMPLES", 50)
    short = ("run.steps=2", "run.test_studies=6", "run.eval_studies=4", "grpo.group_size=2", "grpo.studies_per_step=2",
             "sft.batch_size=2", "sampling.max_tokens=24", "grpo.decay=false")  # fmt: skip
    mccs, sft = Arm("mccs", "MCCS"), Arm("sft", "token-level", command="sft", same_time_as="mccs")
    after = Arm("after", "rarity, from that", ("reward.mccs.weighting=rarity",), start="sft")
    hidden = Arm("hidden", "not to be shown", shown=False)  # the same as mccs: recorded, not run again
    experiment = Experiment("toy", "A question", "About it.", (mccs, sft, after, hidden), control="mccs")
    page = tmp_path / "docs" / "ablations.md"
    bench = Bench(experiment, short, runs=tmp_path / "runs", results=tmp_path / "results", page=page)
    for name in ("mccs", "sft", "after", "hidden"):
        ablation.run_arm(bench, experiment.arm(name), 0)
    page.parent.mkdir()
    page.write_text("# Head\n")
    ablation_page.write_page(bench)
    text = page.read_text()
    assert "| MCCS | 1 |" in text and "| token-level | 1 |" in text and "not to be shown" not in text
    record = ablation_file.read(bench.file)["records"][key(after, 0)]
    assert record["steps"] == 2 and len(record["studies"]) == 6 and record["behaviour"]["mentioned"]
    assert [path.parent.name for path in tmp_path.glob("runs/toy/*/rarity_weights.json")] == ["after-seed0"]


@pytest.mark.slow
def test_the_same_arms_on_other_data_leave_the_projects_records_alone(tmp_path, monkeypatch, called_in_a_child, capsys):
    monkeypatch.setattr(ablation_record, "RESAMPLES", 50)
    for split, count in (("train", 12), ("val", 3), ("test", 4)):
        export(tmp_path / "data", split, count)
    config = tmp_path / "my.toml"
    config.write_text(
        f"""
        [data]
        form = "iu_xray_r2gen"
        root = "{tmp_path / "data"}"
        [reward.weights]
        mccs = 0.75
        format = 0.25
        [grpo]
        group_size = 2
        studies_per_step = 2
        decay = false
        """
    )
    own = [*Path("experiments/results").rglob("*"), Path("docs/results/ablations.md")]
    before = {path: path.stat().st_mtime_ns for path in own}
    words = ["--config", str(config), "--out", str(tmp_path / "out"), "--arms", "base", "mccs", "sft-studies", "nlg",
             "--set", "run.steps=2", "--set", "sampling.max_tokens=24", "--set", "sft.batch_size=2"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["ablate_rewards.py", *words])
    ablation_command.main(ablate_rewards.EXPERIMENT)
    text = (tmp_path / "out" / "ablations.md").read_text()
    assert text.startswith(f"# Ablations of {config}")
    assert f"`python experiments/ablations/ablate_rewards.py --config {config}`" in text
    assert "| GRPO, BLEU and ROUGE-L | 1 |" in text and "generator's reader" not in text
    assert (tmp_path / "out" / "images" / "ablation_rewards.svg").exists()
    records = ablation_file.read(tmp_path / "out" / "records" / "rewards.json.xz")["records"]
    assert list(records) == ["base-seed0", "mccs-seed0", "nlg-seed0", "sft-studies-seed0"]
    assert {path: path.stat().st_mtime_ns for path in before} == before

    monkeypatch.setattr("sys.argv", ["ablate_rare.py", "--config", str(config)])
    with pytest.raises(SystemExit) as left:
        ablation_command.main(ablate_rare.EXPERIMENT)
    assert left.value.code == 2 and "is an experiment on data.form=phantom_rare" in capsys.readouterr().err
