"""Running ablations: what is finished is skipped, what was stopped goes on, what changed runs anew."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.ablations import (
    ablate_format,
    ablate_group,
    ablate_margin,
    ablate_rare,
    ablate_rewards,
    ablation,
    ablation_command,
    ablation_file,
    ablation_origin,
)
from experiments.ablations.ablation import Arm, Bench, Experiment, key
from experiments.ablations.ablation_origin import same
from mrg_grpo.config import load_config

EXPERIMENTS = [
    module.EXPERIMENT for module in (ablate_rewards, ablate_rare, ablate_margin, ablate_format, ablate_group)
]


ARMS = (
    Arm("base", "start", command="none"),
    Arm("mccs", "MCCS"),
    Arm("sft", "token-level", command="sft", same_time_as="mccs"),
    Arm("short", "short sft", ("run.steps=3",), command="sft", shown=False),
    Arm("after", "from the short sft", start="short"),
)
TOY = Experiment("toy", "A question", "About it.", ARMS, control="mccs", quick=("mccs",))


@pytest.fixture
def bench(tmp_path):
    return Bench(TOY, ("run.steps=4",), runs=tmp_path / "runs", results=tmp_path / "results")


@pytest.fixture
def called(bench, monkeypatch):
    """Commands that would have been run; each leaves behind what the real one does."""
    calls = []

    def fake(words, name=""):
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        folder = Path(settings.get("run.output_dir", bench.runs / "elsewhere"))
        calls.append((words[0], settings, "--resume" in words))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter").mkdir(exist_ok=True)
        if words[0] != "evaluate":
            (folder / "config.toml").write_text("")
        seconds = 0.5 if words[0] == "sft" else 3.0
        steps = [{"step": i + 1, "seconds/step": 9.0 if i < 6 else seconds} for i in range(int(settings["run.steps"]))]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        (folder / "evaluation.json").write_text("{}")

    monkeypatch.setattr(ablation, "call", fake)
    monkeypatch.setattr(ablation, "record_of", lambda folder, command, config: {"seconds_in_steps": 12.0})
    return calls


def kept(bench):
    """Its records by name."""
    return ablation_file.read(bench.file)["records"]


def forget(bench, arm, seed=0):
    """Its records without one."""
    rest = kept(bench)
    del rest[key(arm, seed)]
    bench.file.unlink()
    ablation_file.keep(bench.file, records=rest)


def test_a_finished_arm_is_not_run_again(bench, called):
    first = ablation.run_arm(bench, ARMS[1], 0)
    assert [name for name, _, _ in called] == ["train"] and first["arm"] == "mccs" and first["seed"] == 0
    assert "--set run.steps=4" in first["command"] and "run.seed=0" in first["command"]
    assert ablation.run_arm(bench, ARMS[1], 0) == first and len(called) == 1
    ablation.run_arm(bench, ARMS[1], 1)
    assert len(called) == 2 and called[1][1]["run.seed"] == "1"
    assert [path.name for path in bench.results.iterdir()] == ["toy.json.xz"]
    assert list(kept(bench)) == ["mccs-seed0", "mccs-seed1"] and kept(bench)["mccs-seed0"] == first


def test_a_record_of_other_settings_is_made_anew(bench, called, monkeypatch, capsys):
    ablation.run_arm(bench, ARMS[1], 0)
    (bench.folder(ARMS[1], 0) / "left behind").write_text("")
    changed = replace(ARMS[1], settings=("reward.mccs.margin=0.4",))
    ablation.run_arm(bench, changed, 0)
    assert len(called) == 2 and not called[1][2]  # not continued, though the folder is the same
    assert not (bench.folder(ARMS[1], 0) / "left behind").exists()
    said = capsys.readouterr().out
    assert "toy: the record of mccs seed 0 is of other settings or weights; it is made anew" in said
    assert f"{bench.folder(ARMS[1], 0)}: a run of other settings or weights; it is made anew" in said
    monkeypatch.setattr(ablation_origin, "digest", lambda path: "other weights")
    ablation.run_arm(bench, changed, 0)
    assert len(called) == 3


def test_a_folder_that_says_not_whose_run_it_holds_is_not_continued(bench, called, capsys):
    folder = bench.folder(ARMS[1], 0)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("")
    (folder / "evaluation.json").write_text("{}")
    ablation.run_arm(bench, ARMS[1], 0)
    assert len(called) == 1 and not called[0][2] and "it is made anew" in capsys.readouterr().out


def test_a_record_outlives_settings_that_are_renamed_or_new(bench, called):
    ablation.run_arm(bench, ARMS[1], 0)
    record = kept(bench)["mccs-seed0"]
    now = bench.origin(ARMS[1], 0)
    line = next(line for line in record["config"].splitlines() if line.startswith("fast_decode = "))
    for other in (line.replace("fast_decode", "merge_lora"), ""):  # its name before, and a record older than it
        assert same(record | {"config": record["config"].replace(line, other)}, now)
    for other in ("fast_decode = false", "of_a_later_version = 1"):
        assert not same(record | {"config": record["config"].replace(line, other)}, now)
    assert not same(record | {"kind": "sft"}, now) and not same(record | {"weights": {}}, now)
    assert not same(record | {"start": now}, now) and not same(record | {"same_time_as": now}, now)


def test_records_that_are_kept_at_once_are_all_kept(tmp_path):
    path = tmp_path / "deep" / "toy.json.xz"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ablation_file.keep(path, records={f"arm-seed{i}": {"seed": i}}), range(24)))
    ablation_file.keep(path, step_seconds={"train": [1.0]})
    content = ablation_file.read(path)
    assert content["records"] == {f"arm-seed{i}": {"seed": i} for i in range(24)}
    assert content["step_seconds"] == {"train": [1.0]} and [file.name for file in path.parent.iterdir()] == [path.name]
    other = tmp_path / "again.json.xz"
    ablation_file.keep(other, records=dict(reversed(content["records"].items())), step_seconds={"train": [1.0]})
    assert other.read_bytes() == path.read_bytes()


def test_a_write_that_fails_leaves_the_records_there_were(tmp_path, monkeypatch):
    path = tmp_path / "toy.json.xz"
    ablation_file.keep(path, records={"a-seed0": {"seed": 0}})
    monkeypatch.setattr(ablation_file, "sync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        ablation_file.keep(path, records={"b-seed0": {"seed": 0}})
    assert list(ablation_file.read(path)["records"]) == ["a-seed0"]


def test_an_arm_that_two_experiments_share_runs_once(bench, called):
    ablation.run_arm(bench, ARMS[1], 0)
    arm = Arm("m0.6", "margin 0.6", ("reward.mccs.margin=0.6",))
    other = Experiment("other", "Another", "About it.", (arm,), control="m0.6")
    beside = replace(bench, experiment=other)
    ablation.run_arm(beside, other.arms[0], 0)
    assert len(called) == 1
    first, second = kept(bench)["mccs-seed0"], kept(beside)["m0.6-seed0"]
    assert second == first | {"arm": "m0.6", "title": "margin 0.6"}


def test_arms_to_choose_from_are_judged_on_the_validation_split_too(bench, called, monkeypatch):
    monkeypatch.setattr(ablation, "validation_of", lambda folder, config: {"labels": str(folder)})
    choosing = replace(bench, experiment=replace(TOY, name="choice", choosing=True))
    plain = ablation.run_arm(bench, ARMS[1], 0)
    assert "validation" not in plain and len(called) == 1
    record = ablation.run_arm(choosing, ARMS[1], 0)  # the run is there, its adapter alone is asked
    folder = bench.folder(ARMS[1], 0)
    assert [name for name, _, _ in called] == ["train", "evaluate"]
    assert record["validation"] == {"labels": str(folder / "evaluate-val")} and record.items() > plain.items()
    assert ablation.run_arm(choosing, ARMS[1], 0) == record and len(called) == 2
    forget(choosing, ARMS[1])
    (folder / "adapter").rmdir()
    ablation.run_arm(choosing, ARMS[1], 0)  # a record of another experiment is there, the adapter is not
    assert [name for name, _, _ in called] == ["train", "evaluate", "train", "evaluate"]


def test_a_stopped_arm_goes_on_and_a_done_run_is_only_recorded(bench, called):
    folder = bench.folder(ARMS[1], 0)
    assert folder == bench.runs / "toy" / "mccs-seed0"
    ablation_origin.claim(folder, bench.origin(ARMS[1], 0))
    (folder / "config.toml").write_text("")
    ablation.run_arm(bench, ARMS[1], 0)
    assert called[0][2]  # --resume
    forget(bench, ARMS[1])
    ablation.run_arm(bench, ARMS[1], 0)
    assert len(called) == 1 and kept(bench)  # its evaluation is there


def test_an_arm_from_anothers_adapter_runs_that_first(bench, called):
    ablation.run_arm(bench, ARMS[4], 0)
    assert [name for name, _, _ in called] == ["sft", "train"]
    start = bench.folder(ARMS[3], 0)
    assert called[1][1]["model.adapter"] == str(start / "adapter")
    ablation.run_arm(bench, ARMS[4], 0)
    assert len(called) == 2  # finished arms need no adapter
    shutil.rmtree(start)
    forget(bench, ARMS[4])
    ablation.run_arm(bench, ARMS[4], 0)  # its adapter is gone: the start runs again, and so does what is not recorded
    assert [name for name, _, _ in called] == ["sft", "train", "sft"] and kept(bench)["after-seed0"]


def test_token_level_training_gets_the_time_of_the_other_arm(bench, called):
    ablation.run_arm(bench, ARMS[2], 0)
    *probes, (name, settings, _) = called
    assert [probe for probe, _, _ in probes] == ["sft", "train"] * ablation.ROUNDS  # in turns
    assert {probe["run.steps"] for _, probe, _ in probes} == {str(ablation.PROBE)} and name == "sft"
    assert settings["run.steps"] == "24"  # 4 steps of 3 seconds at 0.5 a step, the slow first ones left out
    assert ablation_file.read(bench.file)["step_seconds"] == {
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
    for config, rate, studies in (("experiments/phantom_bench.toml", 1e-3, 8), (str(mine), 3e-6, 4)):
        sft = load_config(config, replace(bench, config=config).settings(arm, 0)).sft
        assert (sft.learning_rate, sft.batch_size) == (rate, studies)


def test_another_measurement_makes_another_arm(bench, called):
    before = bench.origin(ARMS[2], 0), bench.origin(ARMS[1], 0)
    ablation.step_seconds(bench)
    assert len(called) == 2 * ablation.ROUNDS and ablation.step_seconds(bench) and len(called) == 2 * ablation.ROUNDS
    measured = bench.origin(ARMS[2], 0)
    ablation_file.keep(bench.file, step_seconds={"train, think and report": [3.5] * ablation.ROUNDS})
    again = bench.origin(ARMS[2], 0)
    assert not same(before[0], measured) and not same(measured, again) and not same(before[0], again)
    assert same(bench.origin(ARMS[1], 0), before[1])


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
    assert set(kept(bench)) == {key(arm, seed) for arm in ARMS[2:] for seed in (0, 1)}


def test_a_failing_arm_ends_those_that_wait(bench, monkeypatch):
    calls = []

    def failing(words, name):
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
    assert stop.value.code == 143 and not kept(bench)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_arm_differs_and_changes_what_it_says(experiment):
    bench = Bench(experiment)
    names = [arm.name for arm in experiment.arms]
    assert len(set(names)) == len(names) and experiment.control in names and set(experiment.quick) <= set(names)
    origins = [bench.origin(arm, 0) for arm in experiment.arms]
    assert not any(same(one, other) for i, one in enumerate(origins) for other in origins[:i])
    for arm in experiment.arms:
        config = load_config(ablation.CONFIG, bench.settings(arm, 0))
        weights = {name: weight for name, weight in config.reward.weights.items() if weight}
        task = sum(weight for name, weight in weights.items() if name != "format")
        assert task == pytest.approx(0.0 if arm.name == "format-only" else 0.75)
        assert config.grpo.group_size * config.grpo.studies_per_step == 64
        assert weights.get("format", 0.0) == (0.0 if "no-format" in arm.name else 0.25)
    for claim in experiment.claims:
        assert experiment.arm(claim.better) and experiment.arm(claim.than)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_kept_record_is_of_its_arm_as_it_is_now(experiment, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "call", lambda words: pytest.fail(f"would run {words}"))
    pairs = [(arm, seed) for arm in experiment.arms for seed in (0, 1, 2)]
    ablation.run_all(Bench(experiment), pairs, jobs=1)
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == sorted(f"{experiment.name}: {arm.name} seed {seed} is finished" for arm, seed in pairs)


def test_shared_arms_of_the_four_experiments():
    def of(module, name):
        return Bench(module.EXPERIMENT).origin(module.EXPERIMENT.arm(name), 0)

    for module, name in ((ablate_margin, "m0.6"), (ablate_format, "mccs"), (ablate_group, "g8")):
        assert same(of(ablate_rewards, "mccs"), of(module, name))
    assert same(of(ablate_rewards, "ce_f1"), of(ablate_format, "ce_f1"))
    assert not same(of(ablate_rewards, "mccs"), of(ablate_rare, "mccs"))


def test_arms_without_mccs_outlive_a_new_margin():
    rewards = EXPERIMENTS[0]
    moved = Bench(rewards, added=("reward.mccs.margin=0.3",))
    alike = {arm.name for arm in rewards.arms if same(moved.origin(arm, 0), Bench(rewards).origin(arm, 0))}
    moving = {"mccs", "rarity", "sft", "sft-1e-3", "sft-no-think"}  # the last three have the time of the first
    assert alike == {arm.name for arm in rewards.arms} - moving


@pytest.mark.parametrize(
    ("setting", "moved"),
    [
        ("reward.mccs.zero_vectors=0.0", {"mccs", "mccs-0.2", "rarity", "rarity-0.2", "ccs", "unsigned"}),
        ("reward.clinical.denial=0.5", set()),
        ("reward.mccs.weighting=rarity", {"mccs", "mccs-0.2", "ccs"}),  # rarity has it as it is
    ],
)
def test_an_arm_is_another_by_every_setting_that_its_reward_reads(setting, moved):
    rewards = EXPERIMENTS[0]
    other = Bench(rewards, added=(setting,))
    trained = [arm for arm in rewards.arms if arm.command == "train"]
    assert {arm.name for arm in trained if not same(other.origin(arm, 0), Bench(rewards).origin(arm, 0))} == moved


def test_the_settings_of_the_clinical_term_make_another_arm_where_it_is_read():
    own = Arm("clinical", "clinical", task=("clinical",))
    plain, other = (Bench(EXPERIMENTS[0], added=one).origin(own, 0) for one in ((), ("reward.clinical.denial=0.5",)))
    assert not same(plain, other)


def test_names_on_a_hub_stand_for_themselves_and_files_for_their_bytes(tmp_path):
    assert ablation_origin.digest("FreedomIntelligence/HuatuoGPT-Vision-7B-Qwen2.5VL").startswith(
        "FreedomIntelligence/"
    )
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"one")
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"two")
    (tmp_path / "attributes.safetensors").write_bytes(b"no label goes through it")
    (tmp_path / "whole").write_bytes(b"onetwo")
    assert ablation_origin.digest(str(tmp_path)) == ablation_origin.digest(str(tmp_path / "whole"))
