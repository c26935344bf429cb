"""Many ranks: the same steps as one process, evaluation in its order, and no rank that outlives another."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import command_line, in_a_child
from many import on_ranks, running
from small_grpo import LetterLabeler, build, parameters, setting

from mrg_grpo import distributed
from mrg_grpo.cli import main
from mrg_grpo.data.phantom.dataset import export
from mrg_grpo.evaluation.decode import judge, predict
from mrg_grpo.model import rollout
from mrg_grpo.model.fsdp import bytes_here
from mrg_grpo.run.faults import Guard
from mrg_grpo.run.stream import StudyStream


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(scale=0.1)


def three_steps(config, studies, stops=()):
    """Three steps -> parameters, the gradient of each pass summed over ranks, metrics, bytes of parameters here.

    stops: token ids that end a report too, so that many are short and those of one rank end before another's.
    """
    grpo, gradients, plain = build(config), [], distributed.reduce_gradients
    grpo.policy.stop_ids += stops
    grpo.rewards.terms = {"ccs": lambda reports: torch.tensor([len(set(text)) / 12 for text in reports.completions])}

    def reduce_and_keep(own):
        plain(own)
        gradients.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in own]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "reduce_gradients", reduce_and_keep)
        patch.setattr(rollout, "CHECK_EVERY", 2)
        stream = StudyStream(studies, config.grpo.studies_per_step, seed=0)
        steps = [grpo.step(loaded.prompts, number) for number, loaded in stream.prompts(grpo.policy.encoder, 1, 3)]
    return parameters(grpo), gradients, [step.metrics for step in steps], bytes_here(grpo.policy.model)


def timeless(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith(("seconds", "memory"))}


def assert_same(one, many, grad=1e-9, moved=1e-9):
    for parameters_, gradients, metrics, _ in many:
        assert (parameters_ - one[0]).abs().max() < moved
        for ours, whole in zip(gradients, one[1], strict=True):
            assert (ours - whole).norm() <= grad * whole.norm() and whole.norm() > 0
        for ours, whole in zip(metrics, one[2], strict=True):
            assert timeless(ours) == pytest.approx(timeless(whole), rel=1e4 * moved, abs=1e4 * moved)
        assert torch.equal(parameters_, many[0][0])  # to the last bit: nothing but the gradient is ever sent


CASES = {
    "even": {"studies_per_step": 4, "beta": 0.1},
    "uneven, parts of groups, two passes, by tokens": {
        "studies_per_step": 3, "beta": 0.1, "inner_passes": 2, "aggregate": "token", "micro_batch": 3,
    },
    "a rank with none, spread of the batch": {"studies_per_step": 1, "beta": 0.0, "scale": "batch"},
    "uneven, spread of the batch": {"studies_per_step": 5, "beta": 0.0, "scale": "batch", "aggregate": "constant"},
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES)[1:])
def test_two_ranks_take_the_steps_of_one(checkpoint, studies, tmp_path, case):
    config = setting(checkpoint, **CASES[case])
    assert_same(three_steps(config, studies), on_ranks(2, tmp_path, three_steps, config, studies))


def test_in_fp32_the_gradients_agree(checkpoint, studies, tmp_path):
    """The same three steps from the same state: Adam's first steps would turn a last bit into a sign.

    Three studies: two ranks share them unevenly, of four ranks one has none.
    """
    config = setting(checkpoint, "float32", studies_per_step=3, learning_rate=1e-12)
    one = three_steps(config, studies)
    for world in (2, 4):
        folder = tmp_path / str(world)
        folder.mkdir()
        many = on_ranks(world, folder, three_steps, config, studies)
        assert_same(one, many, grad=1e-5, moved=1e-8)


def lost(studies, *places):
    """The same studies, of which some have a picture that is gone."""
    return [replace(one, images=("gone.png",)) if n in places else one for n, one in enumerate(studies)]


@pytest.mark.parametrize("places", [(0, 3), (0, 1, 2, 3, 4)])
def test_ranks_leave_out_the_studies_that_one_process_does(checkpoint, studies, tmp_path, places):
    """Denominators and random streams are of the studies that are left."""
    config = setting(checkpoint, **CASES["uneven, parts of groups, two passes, by tokens"])
    stream = StudyStream(lost(studies, *places), 3, 0)
    left = [[one.id for one in stream.batch(step) if one.images != ("gone.png",)] for step in (1, 2, 3)]
    assert min(map(len, left)) < 3
    if all(left):
        one = three_steps(config, lost(studies, *places))
        assert_same(one, on_ranks(2, tmp_path, three_steps, config, lost(studies, *places)))
    for loaded in on_ranks(2, tmp_path, loaded_ids, config, lost(studies, *places)):
        assert loaded == loaded_ids(config, lost(studies, *places))
        assert [ids for ids, _ in loaded] == left


def loaded_ids(config, studies):
    """Of three steps the ids on all ranks, in order, and those that are left out."""
    encoder, found = build(config).policy.encoder, []
    for _, loaded in StudyStream(studies, 3, 0).prompts(encoder, 1, 3):
        own = loaded.prompts.study_ids[: int(loaded.prompts.counts.sum())] if loaded.prompts else []
        ids = [study for part in distributed.all_gather(own) for study in part]
        found.append((ids, {study: error.what for study, error in sorted(loaded.unread.items())}))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_four_ranks_take_the_steps_of_one(checkpoint, studies, tmp_path, case):
    config = setting(checkpoint, **CASES[case])
    assert_same(three_steps(config, studies), on_ranks(4, tmp_path, three_steps, config, studies))


# ---- a base in shards


def in_shards(config, yes=True):
    config.model.shard = yes
    return config


STOPS = range(0, 256, 3)


@pytest.mark.parametrize(
    "case", [list(CASES)[1], *(pytest.param(case, marks=pytest.mark.slow) for case in list(CASES)[2:])]
)
def test_a_base_in_shards_takes_the_same_steps(checkpoint, studies, tmp_path, case):
    config = setting(checkpoint, **CASES[case])
    one = three_steps(config, studies, STOPS)
    two = on_ranks(2, tmp_path, three_steps, in_shards(config), studies, STOPS)
    assert_same(one, two)
    assert min(metrics["length"] for metrics in one[2]) < 6  # and the ranks' reports ended at different tokens
    whole = sum(one[3].values())
    for *_, sizes in two:
        layers = 2 * sizes["sharded"] + sizes["whole"] - whole  # what FSDP pads, and nothing else, is more
        assert 0 <= layers < 0.01 * whole and sizes["sharded"] > 0.3 * whole


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_layers_in_shards_are_recomputed_and_prompts_held_in_parts(tiny_checkpoint, studies, tmp_path, family):
    checkpoint = tiny_checkpoint(scale=0.1, family=family)
    one = three_steps(setting(checkpoint, **CASES["even"]), studies, STOPS)
    config = in_shards(setting(checkpoint, **{**CASES["even"], "recompute": "all", "studies_per_pass": 1}))
    assert_same(one, on_ranks(2, tmp_path, three_steps, config, studies, STOPS))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "gemma3", "llava", "internvl"])
def test_every_family_runs_in_shards(tiny_checkpoint, studies, tmp_path, family):
    config = setting(tiny_checkpoint(scale=0.1, family=family), **CASES["even"])
    one = three_steps(config, studies, STOPS)
    assert_same(one, on_ranks(2, tmp_path, three_steps, in_shards(config), studies, STOPS))


# ---- evaluation


def judged(config, studies):
    grpo = build(config)
    grpo.policy.stop_ids += STOPS
    result = judge(predict(grpo.policy, studies, config), LetterLabeler(), config)
    return result.predictions.generated, result.labels, result.statistics, [s.id for s in result.predictions.studies]


@pytest.mark.parametrize("world, shard", [(2, True), pytest.param(4, False, marks=pytest.mark.slow)])
def test_evaluation_on_ranks_is_that_of_one_process(checkpoint, studies, tmp_path, world, shard):
    config = setting(checkpoint)
    config.run.decode_batch, config.sampling.max_tokens = 2, 24
    one = judged(config, studies[:5])
    assert len(set(one[0])) > 1
    for many in on_ranks(world, tmp_path, judged, in_shards(config, shard), studies[:5]):
        assert many[0] == one[0] and torch.equal(many[1], one[1]) and torch.equal(many[2], one[2])


def test_evaluation_on_ranks_leaves_out_what_one_process_does(checkpoint, studies, tmp_path):
    """Two a group: of one group nothing is left, of another one rank has nothing of its own."""
    config = setting(checkpoint)
    config.run.decode_batch = 1
    one = judged(config, lost(studies, 2, 3, 4))
    assert one[3] == ["s0", "s1", "s5"]
    for many in on_ranks(2, tmp_path, judged, in_shards(config), lost(studies, 2, 3, 4)):
        assert many[0] == one[0] and torch.equal(many[1], one[1]) and many[3] == one[3]


# ---- ends

SMALL = [
    "run.test_studies=2", "grpo.studies_per_step=3", "grpo.group_size=2", "sampling.max_tokens=16", "run.eval_every=0",
    "run.follow_studies=0", "grpo.decay=false", "run.rollouts_every=1",
]  # fmt: skip
LATER = """
calls = 0
def reward(completions, **columns):
    global calls
    calls += 1
    if calls == 3 and os.environ["RANK"] == "1":
        {what}
    return [float(i) for i in range(len(completions))]
"""


def command(folder, steps, *settings, name="train", resume=False):
    settings = [*SMALL, f"run.output_dir={folder}", f"run.steps={steps}", *settings]
    return command_line(name, settings, *(["--resume"] if resume else []))


def exits(arguments):
    sys.exit(main(arguments))


@pytest.mark.parametrize(
    "end",
    [
        "raise ValueError('a report too many')",
        *(pytest.param(end, marks=pytest.mark.slow) for end in ("os.kill(os.getpid(), 9)", "os._exit(1)")),
    ],
)
def test_a_rank_that_dies_ends_the_other_and_speaks_first(tmp_path, monkeypatch, end):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "dies_in_test.py").write_text("import os\n" + LATER.format(what=end))
    arguments = command(tmp_path / "run", 9, "reward.weights={ 'dies_in_test:reward' = 1.0 }", "grpo.beta=0")
    with running(2, tmp_path, exits, arguments) as (first, dying):
        dying.join(120)
        died = time.monotonic()
        first.join(30)
        assert first.exitcode == 2 and dying.exitcode == {"raise": 2, "os.ki": -9, "os._e": 1}[end[:5]]
        assert time.monotonic() - died < 30
    said = [line for line in (tmp_path / "stderr").read_text().splitlines() if line.startswith("mrg-grpo")]
    assert "rank 0: another rank has ended (" in said.pop()
    assert ["rank 1: reward dies_in_test:reward failed" in line for line in said] == [True] * end.startswith("raise")
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def killed(config, studies):
    """Rank 1 is killed while it samples its second step; the other's error, or none."""
    grpo, calls = build(config), []

    def reward(reports):
        calls.append(reports)
        if len(calls) == 2 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([len(set(text)) / 12 for text in reports.completions])

    grpo.rewards.terms = {"ccs": reward}
    try:
        for number, loaded in StudyStream(studies, 2, seed=0).prompts(grpo.policy.encoder, 1, 2):
            grpo.step(loaded.prompts, number)
    except distributed.PeerLostError as error:
        return str(error)


def test_a_killed_rank_ends_the_others_exchange(checkpoint, studies, tmp_path):
    with running(2, tmp_path, killed, setting(checkpoint), studies) as (first, dying):
        dying.join(120)
        first.join(30)
        assert dying.exitcode == -signal.SIGKILL and not first.is_alive()
    assert "another rank has ended (" in torch.load(tmp_path / "0.pt")


def test_a_wrong_setting_is_said_once(tmp_path):
    with running(2, tmp_path, exits, command(tmp_path / "run", 1, "grpo.group_size=1")) as processes:
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [2, 2]
    assert (tmp_path / "stderr").read_text().count("must be at least 2") == 1
    assert not (tmp_path / "run").exists()


def skipped(config, studies, folder):
    """Two steps, in the first of which rank 1 alone has a reward that is not finite -> skipped, parameters."""
    grpo = build(config)
    broken = StudyStream(studies, 3, seed=0).batch(1)[2].id
    grpo.rewards.terms = {
        "ccs": lambda reports: torch.tensor([math.inf if s.id == broken else len(set(t)) / 12
                                             for s, t in zip(reports.studies, reports.completions)])
    }  # fmt: skip
    guard = Guard(folder, config, grpo.policy, grpo.optimizer)
    batches = StudyStream(studies, 3, seed=0).prompts(grpo.policy.encoder, 1, 1)
    step = lambda number, prompts: (grpo.step(prompts, number).metrics, None)  # noqa: E731
    before = parameters(grpo)
    metrics = [guard.attempt(step, number, loaded.prompts)[0] for number, loaded in batches]
    return metrics, torch.equal(parameters(grpo), before)


def test_a_step_is_skipped_by_all_or_by_none(checkpoint, studies, tmp_path):
    config = setting(checkpoint, studies_per_step=3)
    files = []
    for world, folder in ((2, tmp_path / "two"), (1, tmp_path / "one")):
        folder.mkdir()
        for metrics, still in on_ranks(world, folder, skipped, config, studies, folder):
            assert metrics == [{"skipped": 1.0}] and still
        files.append(torch.load(folder / "faults" / "step-000001.pt", weights_only=True))
    two, one = files
    assert two["not_finite"] == one["not_finite"] and two["study_ids"] == one["study_ids"]
    assert len(one["study_ids"]) == 3
    for name in ("tokens", "mask", "reward", "advantages"):
        assert torch.equal(two[name].nan_to_num(), one[name].nan_to_num()), name


# ---- the command line


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name, shard", [("train", "false"), ("train", "true"), ("sft", "false")])
def test_torchrun_leaves_what_one_process_leaves(tmp_path, request, name, shard):
    """Of the embedded default, whose adapter is fresh; evaluation of the result too."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mrg_grpo"]
    settings = ["run.eval_every=2", "run.eval_studies=5", "run.follow_studies=3", "sft.batch_size=3"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(command(one, 3, *settings, name=name)) == 0
    environment = {**os.environ, "PYTHONPATH": str(request.config.rootpath), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*torchrun, *command(two, 3, f"model.shard={shard}", *settings, name=name)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0 and run.stdout.count("adapter, predictions and evaluation") == 1, run.stderr
    assert sorted(p.name for p in one.rglob("*")) == sorted(p.name for p in two.rglob("*"))
    for ours, whole in zip(records(two / "metrics.jsonl"), records(one / "metrics.jsonl"), strict=True):
        assert timeless(ours) == pytest.approx(timeless(whole), rel=1e-3, abs=1e-5)
    for file in ("predictions_before.jsonl", "predictions.jsonl", "validation.jsonl", "followed.jsonl"):
        assert records(two / file) == records(one / file)
    if name == "train":
        assert [r["study_id"] for r in records(two / "rollouts.jsonl")] == [
            r["study_id"] for r in records(one / "rollouts.jsonl")
        ]
    if shard == "true" or name == "sft":
        return
    for split, count in (("train", 100), ("val", 121)):  # an odd number: one rank has a filler
        export(tmp_path / "data", split, count)
    given = ["sampling.max_tokens=8", "data.form=iu_xray_r2gen", f"data.root={tmp_path / 'data'}"]
    words = ["evaluate", str(one / "config.toml"), "--split", "val", *(w for s in given for w in ("--set", s)), "-o"]
    assert in_a_child(shlex.join(["mrg-grpo", *words, str(tmp_path / "1")]), tmp_path).returncode == 0
    subprocess.run([*torchrun, *words, str(tmp_path / "2")], check=True, env=environment, capture_output=True)
    assert (tmp_path / "1" / "evaluation.json").read_text() == (tmp_path / "2" / "evaluation.json").read_text()


@pytest.mark.slow
def test_a_run_on_ranks_is_stopped_and_resumed_to_the_last_bit(tmp_path, capsys):
    """A signal that reaches one rank stops both after the same step; then on with one process, which says so."""
    with running(2, tmp_path, exits, command(tmp_path / "cut", 1000, "run.save_every=1000")) as processes:
        while not (tmp_path / "cut" / "metrics.jsonl").exists():
            time.sleep(0.1)
            assert all(process.is_alive() for process in processes)
        os.kill(processes[1].pid, signal.SIGTERM)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [128 + signal.SIGTERM] * 2
    assert (tmp_path / "stdout").read_text().count("stopped after step") == 1
    done = len(records(tmp_path / "cut" / "metrics.jsonl"))
    assert (tmp_path / "cut" / "checkpoints" / f"step-{done:06d}" / "checksums.json").is_file()
    for folder, resume in (("cut", True), ("whole", False)):
        with running(2, tmp_path, exits, command(tmp_path / folder, done + 2, resume=resume)) as processes:
            for process in processes:
                process.join(120)
            assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "stderr").read_text()
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "random numbers" not in (tmp_path / "stdout").read_text()  # the same number of ranks: nothing to say
    capsys.readouterr()
    assert main(command(tmp_path / "cut", done + 3, resume=True)) == 0
    assert "ranks: 1, before 2; the same random numbers" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to see who has ended")
def test_a_killed_torchrun_ends_its_ranks_and_the_run_is_saved(tmp_path, request):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mrg_grpo"]
    environment = {**os.environ, "PYTHONPATH": str(request.config.rootpath), "OMP_NUM_THREADS": "1"}
    run, said = tmp_path / "run", tmp_path / "said"
    arguments = [*torchrun, *command(run, 1000, "run.save_every=1000")]
    with said.open("w") as file:
        launcher = subprocess.Popen(
            arguments, env=environment, cwd=request.config.rootpath, stdout=file, stderr=subprocess.STDOUT
        )
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    while not (run / "metrics.jsonl").exists():
        assert launcher.poll() is None, said.read_text()
        time.sleep(0.1)
    ranks = [Path(f"/proc/{child}/cmdline") for child in children.read_text().split()]
    assert len([path for path in ranks if b"mrg_grpo" in path.read_bytes()]) >= 2
    launcher.kill()
    launcher.wait()
    left, end = ranks, time.monotonic() + 30
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = [path for path in left if path.exists() and b"mrg_grpo" in path.read_bytes()]
    for path in left:
        os.kill(int(path.parent.name), signal.SIGKILL)
    assert not left, "ranks go on alone"
    assert "its launcher has ended, and so does this rank" in said.read_text()  # the first that sees it stops all
    done = len(records(run / "metrics.jsonl"))
    assert (run / "checkpoints" / f"step-{done:06d}" / "checksums.json").is_file()


# ---- shares


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_shares_put_together_are_the_list(monkeypatch, world, count):
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    together, sizes = [], set()
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        own = distributed.share(range(count))
        sizes.add(len(own.items))
        counted = own.items[: len(own.items) - own.filler]
        together += counted
        whole = torch.arange(count, dtype=torch.float64) + 1
        assert distributed.own_rows(whole, len(own.items)).tolist() == [i + 1 for i in counted] + [0] * own.filler
        assert distributed.share([]).items == []
    assert together == list(range(count)) and len(sizes) == 1
