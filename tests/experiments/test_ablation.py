"""The ablation helper: what is finished is skipped, what was stopped goes on, what changed runs anew; records, page."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_run import write_run

from experiments.ablations import (
    ablate_format,
    ablate_group,
    ablate_margin,
    ablate_rare,
    ablate_rewards,
    ablation,
    ablation_command,
    ablation_page,
    ablation_record,
)
from experiments.ablations.ablation import Arm, Bench, Claim, Experiment
from experiments.ablations.ablation_record import behaviour, packed, record_of, thinned, unpacked, validation_of
from experiments.docs import charts
from mrg_grpo.config import load_config
from mrg_grpo.data.phantom.dataset import export, load
from mrg_grpo.errors import UserError

EXPERIMENTS = [
    module.EXPERIMENT for module in (ablate_rewards, ablate_rare, ablate_margin, ablate_format, ablate_group)
]


@pytest.fixture(autouse=True)
def at_the_project_root(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)


ARMS = (
    Arm("base", "start", command="none"),
    Arm("mccs", "MCCS"),
    Arm("sft", "token-level", command="sft", same_time_as="mccs"),
    Arm("short", "short sft", ("run.steps=3",), command="sft", shown=False),
    Arm("after", "from the short sft", start="short"),
)
TOY = Experiment("toy", "A question", ARMS, control="mccs", quick=("mccs",))


@pytest.fixture
def bench(tmp_path):
    return Bench(TOY, ("run.steps=4",), runs=tmp_path / "runs", results=tmp_path / "results")


@pytest.fixture
def called(bench, monkeypatch):
    """Commands that would have been run; each leaves behind what the real one does."""
    calls = []

    def fake(words):
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        folder = Path(settings.get("run.output_dir", bench.runs / "elsewhere"))
        calls.append((words[0], settings, "--resume" in words))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter").mkdir(exist_ok=True)
        if words[0] != "evaluate":
            (folder / "config.toml").write_text(f"[run]\nsteps = {settings['run.steps']}\n")
        seconds = 0.5 if words[0] == "sft" else 3.0
        steps = [{"step": i + 1, "seconds/step": 9.0 if i < 6 else seconds} for i in range(int(settings["run.steps"]))]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        (folder / "evaluation.json").write_text("{}")

    monkeypatch.setattr(ablation, "call", fake)
    monkeypatch.setattr(ablation, "record_of", lambda folder, command, config: {"seconds_in_steps": 12.0})
    return calls


def test_a_finished_arm_is_not_run_again(bench, called):
    first = ablation.run_arm(bench, ARMS[1], 0)
    assert [name for name, _, _ in called] == ["train"] and first["arm"] == "mccs" and first["seed"] == 0
    assert "--set run.steps=4" in first["command"] and "run.seed=0" in first["command"]
    assert ablation.run_arm(bench, ARMS[1], 0) == first and len(called) == 1
    ablation.run_arm(bench, ARMS[1], 1)
    assert len(called) == 2 and called[1][1]["run.seed"] == "1"
    assert sorted(path.name for path in (bench.results / "toy").iterdir()) == ["mccs-seed0.json", "mccs-seed1.json"]


def test_a_record_of_other_settings_is_made_anew(bench, called, monkeypatch):
    ablation.run_arm(bench, ARMS[1], 0)
    changed = replace(ARMS[1], settings=("reward.mccs.margin=0.4",))
    ablation.run_arm(bench, changed, 0)
    assert len(called) == 2 and called[0][1]["run.output_dir"] != called[1][1]["run.output_dir"]
    monkeypatch.setattr(ablation, "digest", lambda path: "other weights")
    ablation.run_arm(bench, changed, 0)
    assert len(called) == 3


def test_an_arm_that_two_experiments_share_runs_once(bench, called):
    record = ablation.run_arm(bench, ARMS[1], 0)
    other = Experiment("other", "Another", (Arm("m0.6", "margin 0.6", ("reward.mccs.margin=0.6",)),), control="m0.6")
    beside = replace(bench, experiment=other)
    assert ablation.run_arm(beside, other.arms[0], 0)["fingerprint"] == record["fingerprint"] and len(called) == 1
    kept = json.loads((bench.results / "other" / "m0.6-seed0.json").read_text())
    assert kept["arm"] == "m0.6" and kept["title"] == "margin 0.6"


def test_arms_to_choose_from_are_judged_on_the_validation_split_too(bench, called, monkeypatch):
    monkeypatch.setattr(ablation, "validation_of", lambda folder, config: {"labels": str(folder)})
    choosing = replace(bench, experiment=replace(TOY, name="choice", choosing=True))
    plain = ablation.run_arm(bench, ARMS[1], 0)
    assert "validation" not in plain and len(called) == 1
    record = ablation.run_arm(choosing, ARMS[1], 0)  # the run is there, its adapter alone is asked
    folder = bench.runs / bench.fingerprint(ARMS[1], 0)
    assert [name for name, _, _ in called] == ["train", "evaluate"]
    assert record["validation"] == {"labels": str(folder / "evaluate-val")} and record.items() > plain.items()
    assert ablation.run_arm(choosing, ARMS[1], 0) == record and len(called) == 2
    choosing.record_path(ARMS[1], 0).unlink()
    (folder / "adapter").rmdir()
    (folder / "evaluation.json").unlink()
    ablation.run_arm(choosing, ARMS[1], 0)  # a record of another experiment is there, the adapter is not
    assert [name for name, _, _ in called] == ["train", "evaluate", "train", "evaluate"]


def test_a_stopped_arm_goes_on_and_a_done_run_is_only_recorded(bench, called):
    folder = bench.runs / bench.fingerprint(ARMS[1], 0)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("")
    ablation.run_arm(bench, ARMS[1], 0)
    assert called[0][2]  # --resume
    bench.record_path(ARMS[1], 0).unlink()
    ablation.run_arm(bench, ARMS[1], 0)
    assert len(called) == 1  # its evaluation is there


def test_an_arm_from_anothers_adapter_runs_that_first(bench, called):
    ablation.run_arm(bench, ARMS[4], 0)
    assert [name for name, _, _ in called] == ["sft", "train"]
    start = bench.runs / bench.fingerprint(ARMS[3], 0) / "adapter"
    assert called[1][1]["model.adapter"] == str(start)
    start.rmdir()
    bench.record_path(ARMS[4], 0).unlink()
    with pytest.raises(UserError, match="is gone; delete"):
        ablation.run_arm(bench, ARMS[4], 0)


def test_token_level_training_gets_the_time_of_the_other_arm(bench, called):
    ablation.run_arm(bench, ARMS[2], 0)
    *probes, (name, settings, _) = called
    assert [probe for probe, _, _ in probes] == ["sft", "train"] * ablation.ROUNDS  # in turns
    assert {probe["run.steps"] for _, probe, _ in probes} == {str(ablation.PROBE)} and name == "sft"
    assert settings["run.steps"] == "24"  # 4 steps of 3 seconds at 0.5 a step, the slow first ones left out
    assert json.loads(bench.seconds_path.read_text()) == {
        "sft, think and report": [0.5] * ablation.ROUNDS,
        "train, think and report": [3.0] * ablation.ROUNDS,
    }
    twin = replace(ARMS[2], name="twin", settings=("sft.learning_rate=1e-3",))
    both = replace(bench, experiment=replace(TOY, arms=(*ARMS, twin)))
    for arm, seed in ((twin, 0), (twin, 1), (ARMS[2], 1)):  # one measurement for all of a kind and all seeds
        ablation.run_arm(both, arm, seed)
        assert called[-1][1]["run.steps"] == "24"
    assert len(called) == len(probes) + 1 + 3


def test_an_arm_takes_values_of_the_configuration_it_changes(bench, tmp_path):
    arm = Arm("x", "x", ("sft.learning_rate=@grpo.learning_rate", "sft.batch_size=@grpo.studies_per_step"), "sft")
    mine = tmp_path / "mine.toml"
    mine.write_text("[grpo]\nlearning_rate = 3e-6\nstudies_per_step = 4\n")
    for config, rate, studies in (("experiments/phantom.toml", 1e-3, 8), (str(mine), 3e-6, 4)):
        sft = load_config(config, replace(bench, config=config).settings(arm, 0)).sft
        assert (sft.learning_rate, sft.batch_size) == (rate, studies)


def test_another_measurement_makes_another_arm(bench, called):
    before = bench.fingerprint(ARMS[2], 0), bench.fingerprint(ARMS[1], 0)
    ablation.step_seconds(bench)
    assert len(called) == 2 * ablation.ROUNDS and ablation.step_seconds(bench) and len(called) == 2 * ablation.ROUNDS
    measured = bench.fingerprint(ARMS[2], 0)
    bench.seconds_path.write_text(bench.seconds_path.read_text().replace("3.0", "3.5"))
    assert len({before[0], measured, bench.fingerprint(ARMS[2], 0)}) == 3
    assert bench.fingerprint(ARMS[1], 0) == before[1]


def test_steps_are_measured_for_each_form_and_from_the_arms_own_start(bench, called):
    brief = Arm("brief", "report alone", ("prompt.think=false",), "sft", start="short", same_time_as="mccs")
    ablation.run_arm(replace(bench, experiment=replace(TOY, arms=(*ARMS, brief))), brief, 0)
    kinds = [(name, settings.get("prompt.think")) for name, settings, _ in called]
    assert kinds[0] == ("sft", None)  # the start
    assert kinds[1:] == [("sft", "false"), ("sft", None), ("train", None)] * ablation.ROUNDS + [("sft", "false")]
    started = [settings["model.adapter"] for name, settings, _ in called if settings.get("prompt.think") == "false"]
    assert len(started) == ablation.ROUNDS + 1 and len(set(started)) == 1


def test_arms_side_by_side_run_what_they_build_on_first_and_once(bench, called):
    ablation.run_all(bench, [(arm, seed) for seed in (0, 1) for arm in (ARMS[4], ARMS[2])], jobs=4)
    names = [name for name, _, _ in called]
    assert names.count("sft") == ablation.ROUNDS + 2 * (1 + 1) and names.count("train") == ablation.ROUNDS + 2
    continued = [i for i, (_, settings, _) in enumerate(called) if "model.adapter" in settings]
    probes = 2 * ablation.ROUNDS  # then of each seed the short sft and an arm, then what builds on the short one
    assert continued == [probes + 4, probes + 5]
    assert all(bench.record_path(arm, seed).exists() for arm in ARMS[2:] for seed in (0, 1))


def test_a_failing_arm_ends_those_that_wait(bench, monkeypatch):
    calls = []

    def failing(words):
        calls.append(words)
        raise SystemExit(3)

    monkeypatch.setattr(ablation, "call", failing)
    with pytest.raises(SystemExit) as stop:
        ablation.run_all(bench, [(ARMS[1], seed) for seed in range(9)], jobs=1)
    assert stop.value.code == 3 and len(calls) < 9


def test_no_jobs_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ablate_rewards.py", "--jobs", "0"])
    with pytest.raises(SystemExit) as stop:
        ablation_command.main(ablate_rewards.EXPERIMENT)
    assert stop.value.code == 2 and capsys.readouterr().err == "--jobs 0: at least 1\n"


def test_a_stop_ends_the_whole(bench, monkeypatch):
    monkeypatch.setattr(ablation.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=143))
    with pytest.raises(SystemExit) as stop:
        ablation.run_arm(bench, ARMS[1], 0)
    assert stop.value.code == 143 and not bench.record_path(ARMS[1], 0).exists()


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_arm_differs_and_changes_what_it_says(experiment):
    bench = Bench(experiment)
    names = [arm.name for arm in experiment.arms]
    assert len(set(names)) == len(names) and experiment.control in names and set(experiment.quick) <= set(names)
    prints = {arm.name: bench.fingerprint(arm, 0) for arm in experiment.arms}
    assert len(set(prints.values())) == len(prints)
    for arm in experiment.arms:
        config = load_config(ablation.CONFIG, bench.settings(arm, 0))
        weights = {name: weight for name, weight in config.reward.weights.items() if weight}
        task = sum(weight for name, weight in weights.items() if name != "format")
        assert task == pytest.approx(0.0 if arm.name == "format-only" else 0.75)
        assert config.grpo.group_size * config.grpo.studies_per_step == 64
        assert weights.get("format", 0.0) == (0.0 if "no-format" in arm.name else 0.25)
    for claim in experiment.claims:
        assert experiment.arm(claim.better) and experiment.arm(claim.than)


def test_shared_arms_of_the_four_experiments():
    prints = {
        (experiment.name, arm.name): Bench(experiment).fingerprint(arm, 0)
        for experiment in EXPERIMENTS
        for arm in experiment.arms
    }
    default = prints["rewards", "mccs"]
    assert default == prints["margin", "m0.6"] == prints["format", "mccs"] == prints["group", "g8"]
    assert prints["rewards", "ce_f1"] == prints["format", "ce_f1"]


def test_arms_without_mccs_outlive_a_new_margin():
    rewards = EXPERIMENTS[0]
    moved = Bench(rewards, added=("reward.mccs.margin=0.3",))
    same = {arm.name for arm in rewards.arms if moved.fingerprint(arm, 0) == Bench(rewards).fingerprint(arm, 0)}
    moving = {"mccs", "rarity", "sft", "sft-1e-3", "sft-no-think"}  # the last three have the time of the first
    assert same == {arm.name for arm in rewards.arms} - moving


@pytest.mark.parametrize(
    ("setting", "moved"),
    [
        ("reward.mccs.zero_vectors=0.0", {"mccs", "mccs-0.2", "rarity", "rarity-0.2", "ccs", "unsigned"}),
        ("reward.mccs.weighting=rarity", {"mccs", "mccs-0.2", "ccs"}),  # rarity has it as it is
    ],
)
def test_an_arm_is_another_by_every_setting_that_its_reward_reads(setting, moved):
    rewards = EXPERIMENTS[0]
    other = Bench(rewards, added=(setting,))
    trained = [arm for arm in rewards.arms if arm.command == "train"]
    assert {arm.name for arm in trained if other.fingerprint(arm, 0) != Bench(rewards).fingerprint(arm, 0)} == moved


# ---- records and page


def made_record(folder, arm, seed, wrong):
    """A record of a run whose reports are right but for every `wrong`-th, which is another study's."""
    write_run(folder, steps=6, tests=12)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for i in range(0, 12, wrong):
        rows[i] |= {key: rows[i - 1][key] for key in ("prediction", "labels")}
        rows[i]["generated"] = f"<report>{rows[i]['prediction']}</report>"
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(folder / "config.toml")
    return {"arm": arm, "title": arm, "seed": seed, "fingerprint": "x", "command": "c",
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
    experiment = Experiment("toy", "A question", arms, control="bad", claims=claims)
    page = folder / "docs" / "ablations.md"
    bench = Bench(experiment, runs=folder / "runs", results=folder / "results", page=page)
    for arm, wrong in ((arms[0], 12), (arms[1], 1)):
        record = made_record(folder / arm.name, arm.name, 0, wrong)
        for seed in SEEDS:
            of_now = {"seed": seed, "fingerprint": bench.fingerprint(arm, seed)}
            ablation.keep(bench.record_path(arm, seed), record | of_now)
    page.parent.mkdir()
    page.write_text("# Head\n\n<!-- ablation other -->\nkept\n<!-- ablation other -->\n\nthe end\n")
    ablation_page.write_page(bench)
    return bench, page


def test_a_record_scores_as_the_evaluator_does(written):
    bench, _ = written
    record = json.loads(bench.record_path(bench.experiment.arms[0], 0).read_text())
    again = ablation_page.metrics_from_sums(ablation_page.study_statistics(record, "labeler").sum(0))
    for name in ("f1_micro_13_uncertain_positive", "clinical_cosine", "mccs", "polarity_accuracy", "report_length"):
        assert record["metrics"][name][0] == pytest.approx(float(again[name]), abs=1e-5), name
    studies = load(sizes={"test": 12})["test"]
    assert record["studies"] == [study.id for study in studies]
    assert ablation_page.generator_labels(record["studies"]).tolist() == [list(study.labels) for study in studies]


def test_the_page_has_its_tables_and_keeps_what_is_not_its_own(written):
    bench, page = written
    text = page.read_text()
    assert text.startswith("# Head\n\n<!-- ablation other -->\nkept\n<!-- ablation other -->\n\nthe end\n")
    assert "the good one" in text and "never run" not in text
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
    mark = ablation_page.marker("paper toy")
    asked.page.write_text(f"# Head\n{mark}\n{mark}\n{before}")
    ablation_page.write_page(asked)
    head, top, rest = asked.page.read_text().split(mark)
    assert head == "# Head\n" and "**A question**" in top and "Good beats bad" in top and "Bad beats good" not in top
    assert "| Bad beats good" in rest and "**A question**" not in before


def test_a_claim_needs_every_seed(written):
    bench, _ = written
    good, bad = ablation_page.results_of(bench)
    lucky = ablation_page.Result(good.arm, {**good.records, 2: bad.records[2]})
    first = ablation_page.claim_table(bench, [lucky, bad])[2]
    _, f1, by_seed, *_, seen = first.split(" | ")
    assert float(f1.split("[")[1].split(",")[0]) > 0 and seen == "not shown, not shown |"  # over studies it looks sure
    assert [float(d) > 0 for d in by_seed.split(" [")[0].split(", ")] == [True, True, False]
    two = [ablation_page.Result(r.arm, {seed: r.records[seed] for seed in (0, 1)}) for r in (good, bad)]
    assert ablation_page.claim_table(bench, two)[2].endswith("no verdict (2 of 3 seeds) |")


def test_a_record_of_other_settings_is_not_on_the_page(written):
    bench, page = written
    assert "Left out" not in page.read_text() and ablation_page.left_out(bench) == []
    path = bench.record_path(bench.experiment.arms[0], 1)
    kept = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(kept) | {"fingerprint": "of before"}))
        assert sorted(ablation_page.results_of(bench)[0].records) == [0, 2]
        assert "no longer the arm's: good seed 1." in ablation_page.section(bench, ablation_page.results_of(bench))
    finally:
        path.write_text(kept)


def test_the_interval_over_seeds_is_students():
    scipy_stats = pytest.importorskip("scipy.stats")  # comes with scikit-learn
    ones, others = [0.71, 0.75, 0.76], [0.70, 0.71, 0.69]
    cell = ablation_page.over_seeds(ones, others)
    low, high = scipy_stats.ttest_ind(ones, others).confidence_interval(0.95)
    assert cell.startswith("+0.010, +0.040, +0.070 [")
    shown = [float(x) for x in cell.split("[")[1].rstrip("]").split(", ")]
    assert shown == pytest.approx([low, high], abs=6e-4)
    assert ablation_page.over_seeds(ones[:2], others[:2]) == "+0.010, +0.040"


def test_how_often_the_judges_agree_is_said(written):
    bench, _ = written
    good, bad = ablation_page.results_of(bench)
    blank = "0" * 14
    labels, reader = (["1" + blank[1:], "2" + blank[1:]], ["1" + blank[1:], "21" + blank[2:]])
    record = {"labels": " ".join(labels), "reader_labels": " ".join(reader)}
    same = record | {"reader_labels": record["labels"]}
    pair = [ablation_page.Result(good.arm, {0: same}), ablation_page.Result(bad.arm, {4: record})]
    (line, _) = ablation_page.agreement(pair)
    assert "in 83.3% of" in line and line.endswith("in 66.7% at worst (the bad one, seed 4).")
    assert ablation_page.agreement([ablation_page.Result(good.arm, {0: {"labels": record["labels"]}})]) == []


def test_what_reports_mention_is_counted():
    labels = torch.tensor([[1, 2, 3, 0], [0, 0, 1, 1]])
    assert ablation_page.mentions(labels) == [2.5, 1.5, 0.5]


@pytest.mark.parametrize("freedom", [4, 8, 10, 30, 1000])
def test_the_quantile_of_t(freedom):
    scipy_stats = pytest.importorskip("scipy.stats")  # comes with scikit-learn
    assert ablation_page.t_quantile(freedom) == pytest.approx(scipy_stats.t.ppf(0.975, freedom), rel=3e-3)


def test_what_is_gained_where_the_start_kept_to_the_form(written):
    bench, _ = written
    good, bad = ablation_page.results_of(bench)
    start = ablation_page.Result(replace(bad.arm, command="none"), {})
    for marks in ("0", "1"):  # none or all of its reports keep to it
        start.records = {0: bad.records[0] | {"compliant": marks * 12}}
        assert ablation_page.form_table([start, good]) == [] == ablation_page.form_table([good, bad])
    start.records = {0: (half := bad.records[0] | {"compliant": "10" * 6})}
    head, _, _, _, row, _ = ablation_page.form_table([start, good])
    assert head.startswith("On the 6 test studies in which the bad one kept")
    f1 = [float(ablation_page.metrics_from_sums(ablation_page.study_statistics(record, "labeler")[::2].sum(0))[
        ablation_page.F1]) for record in (half, good.records[0])]  # fmt: skip
    assert row.startswith("| the good one | 3 |") and row.split(" | ")[2].split()[0] == f"{f1[1] - f1[0]:+.3f}"


def test_a_mean_over_seeds_stands_where_all_of_them_have_a_value():
    """A mean of other seeds at another place would be a step in the curve that no seed took."""
    records = {
        0: {"behaviour": {"a": [(0.2, 1.0), (0.594, 2.0), (0.998, 9.0)], "b": [(0.5, 1.0)], "d": [(0.2, 1.0)]}},
        1: {"behaviour": {"a": [(0.2, 3.0), (0.6, 4.0)], "d": [(0.4, 1.0)]}},
    }
    result = ablation_page.Result(Arm("x", "x"), records)
    assert ablation_page.curve(result, "a") == [(0.2, 2.0), (pytest.approx(0.597), 3.0)]
    assert ablation_page.curve(result, "b") == [(0.5, 1.0)] and ablation_page.curve(result, "c") == []
    assert ablation_page.curve(result, "d") == []  # not the same place


def test_small_multiples_show_every_curve_as_its_own_and_among_the_others():
    curves = {"one": [(0.0, 0.0), (1.0, 10.0)], "two": [(0.0, 10.0), (0.5, 5.0)], "none": []}
    strands = {"a\nb": {"one": [[(0.0, 0.0), (1.0, 0.0)], [(0.0, 0.0), (1.0, 20.0)]]}}
    svg = charts.small_multiples("t", {"a\nb": curves, "empty": {"one": []}}, x_range=(0, 1), strands=strands)
    ElementTree.fromstring(svg)
    lines = [line for line in svg.splitlines() if line.startswith("<polyline")]
    own = [line for line in lines if charts.COLOURS[0] in line]
    assert len(own) == 2 and len(lines) == 4 + 2  # each row has its own over that of the other, and its strands
    places = [[tuple(map(float, p.split(","))) for p in line.split('"')[1].split()] for line in own]
    (x0, low), (x1, high) = places[0]
    assert low > high  # 0 to 20 goes up, and y grows downwards in a picture
    (u0, v0), (u1, v1) = places[1]
    assert (u0, x1 - x0) == (x0, 2 * (u1 - u0)) and v1 - v0 == pytest.approx((low - high) / 2)
    assert ">10.0<" in svg and ">5.0<" in svg and "0 to 20" in svg and "empty" not in svg and ">none<" not in svg


def test_every_curve_of_a_chart_has_a_stroke_of_its_own():
    names = [f"arm {i}" for i in range(2 * len(charts.COLOURS))]
    svg = charts.lines("t", {"panel": {name: [(0.0, 0.0), (1.0, float(i))] for i, name in enumerate(names)}})
    strokes = [line.split("stroke=")[1] for line in svg.splitlines() if line.startswith("<polyline")]
    assert len(strokes) == 2 * len(names) and len(set(strokes)) == len(names)  # in the legend and in the panel


def test_a_choice_shows_what_decides_it(written):
    bench, page = written
    heads, rule, good, bad = ablation_page.choice_table(ablation_page.results_of(bench))
    table = f"{heads}\n{rule}\n{good}\n{bad}"
    assert table not in page.read_text()  # its records have it from an experiment that chooses; this one does not
    ablation_page.write_page(replace(bench, experiment=replace(bench.experiment, choosing=True)))
    assert table in page.read_text()
    tested = ablation_page.efficacy_table(ablation_page.results_of(bench), None)[2:]
    for choice, row in zip((good, bad), tested):  # the same reports here: the same numbers
        assert choice.split(" | ")[2].split()[0] == row.split(" | ")[2].split()[0]
    assert good.split(" | ")[2] > bad.split(" | ")[2]


def test_the_control_is_not_tested_against_itself(written):
    bench, _ = written
    good, bad = ablation_page.results_of(bench)
    assert ablation_page.p_values(bad, bad, "labeler") == {}
    p = ablation_page.p_values(good, bad, "labeler")["clinical_cosine"]
    assert p < 0.05
    assert ablation_page.shared_seeds(good, ablation_page.Result(bad.arm, {2: {}, 3: {}})) == [2]


def test_seeds_are_summed_study_by_study(written):
    bench, _ = written
    good = ablation_page.results_of(bench)[0]
    both, one, two = (good.statistics("labeler", seeds) for seeds in ([0, 1], [0], [1]))
    assert both.shape == one.shape and torch.equal(both, one + two)


@pytest.mark.slow
def test_two_steps_of_every_kind_of_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation_record, "RESAMPLES", 50)
    short = ("run.steps=2", "run.test_studies=6", "run.eval_studies=4", "grpo.group_size=2", "grpo.studies_per_step=2",
             "sft.batch_size=2", "sampling.max_tokens=24", "grpo.decay=false")  # fmt: skip
    after = Arm("after", "rarity, from that", ("reward.mccs.weighting=rarity",), start="sft")
    hidden = Arm("hidden", "not to be shown", shown=False)  # the same as mccs: recorded, not run again
    experiment = replace(TOY, arms=(ARMS[1], ARMS[2], after, hidden))
    page = tmp_path / "docs" / "ablations.md"
    bench = Bench(experiment, short, runs=tmp_path / "runs", results=tmp_path / "results", page=page)
    for name in ("mccs", "sft", "after", "hidden"):
        ablation.run_arm(bench, experiment.arm(name), 0)
    page.parent.mkdir()
    page.write_text("# Head\n")
    ablation_page.write_page(bench)
    text = page.read_text()
    assert "| MCCS | 1 |" in text and "| token-level | 1 |" in text and "not to be shown" not in text
    record = json.loads(bench.record_path(after, 0).read_text())
    assert record["steps"] == 2 and len(record["studies"]) == 6 and record["behaviour"]["mentioned"]
    assert [path.parent.name for path in tmp_path.glob("runs/*/rarity_weights.json")] == [record["fingerprint"]]


@pytest.mark.slow
def test_the_same_arms_on_other_data_leave_the_projects_records_alone(tmp_path, monkeypatch, capsys):
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
    own = [*Path("experiments/results").rglob("*"), Path("docs/ablations.md")]
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
    records = sorted(path.name for path in (tmp_path / "out" / "records" / "rewards").iterdir())
    assert records == ["base-seed0.json", "mccs-seed0.json", "nlg-seed0.json", "sft-studies-seed0.json"]
    assert {path: path.stat().st_mtime_ns for path in before} == before

    monkeypatch.setattr("sys.argv", ["ablate_rare.py", "--config", str(config)])
    with pytest.raises(SystemExit) as left:
        ablation_command.main(ablate_rare.EXPERIMENT)
    assert left.value.code == 2 and "is an experiment on data.form=phantom_rare" in capsys.readouterr().err


def test_names_on_a_hub_stand_for_themselves_and_files_for_their_bytes(tmp_path):
    assert ablation.digest("FreedomIntelligence/HuatuoGPT-Vision-7B-Qwen2.5VL").startswith("FreedomIntelligence/")
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    (tmp_path / "whole").write_bytes(b"onetwo")
    assert ablation.digest(str(tmp_path)) == ablation.digest(str(tmp_path / "whole"))
