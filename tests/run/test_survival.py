"""Runs that are killed, told to stop, or find the disk full; damaged checkpoints and logs; changed settings."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import CONFIG, run
from small_grpo import build, setting

from mrg_grpo.cli import main
from mrg_grpo.config import Config, load_config
from mrg_grpo.data.load import load_splits
from mrg_grpo.embedded import labeler_path
from mrg_grpo.errors import UserError
from mrg_grpo.labelers import CheXbert
from mrg_grpo.run import checkpoint
from mrg_grpo.run.checkpoint import find_fault, resume, save_checkpoint, saved_steps
from mrg_grpo.run.folder import LOGS, MAY_CHANGE, RunFolder, adapter_of
from mrg_grpo.run.process import StopSignal, give_back_freed_memory
from mrg_grpo.toml import to_toml

SMALL = [
    "run.test_studies=2", "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=16", "run.eval_every=0",
    "run.follow_studies=0", "run.save_every=1", "run.rollouts_every=1", "grpo.decay=false",
]  # fmt: skip


def train(folder, steps, *more, command="train"):
    settings = [*SMALL, f"run.output_dir={folder}", f"run.steps={steps}"]
    return run(command, settings, *more)


@pytest.fixture(scope="session")
def one_step(tmp_path_factory, request):
    """A finished run of one step, for reading alone."""
    folder = tmp_path_factory.mktemp("one_step") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        assert train(folder, 1) == 0
    return folder


@pytest.fixture
def finished(one_step, tmp_path) -> Path:
    """A copy of it, as if it had been made there."""
    return copied(one_step, tmp_path / "run")


def copied(run, folder) -> Path:
    shutil.copytree(run, folder)
    text = (folder / "config.toml").read_text()
    assert str(run) in text
    (folder / "config.toml").write_text(text.replace(str(run), str(folder)))
    return folder


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


# ---- kills


@pytest.mark.slow
def test_twenty_kills_change_no_byte(tmp_path, request):
    """Real SIGKILLs at moments of the wall clock; which phase each hit is known (see the script)."""
    out = tmp_path / "kills.json"
    script = request.config.rootpath / "experiments" / "checks" / "kill_resume.py"
    environment = {**os.environ, "PYTHONPATH": str(request.config.rootpath)}
    subprocess.run(
        [sys.executable, str(script), "--kills", "20", "--least", "3", "-o", str(out)], check=False, env=environment
    )
    result = json.loads(out.read_text())
    assert result["kills"] >= 20 and result["differing"] == []
    assert min(result["by_phase"][phase] for phase in ("sample", "between inner passes", "checkpoint")) >= 3


# ---- checkpoints


def test_a_checkpoint_comes_to_the_disk_after_the_logs_and_their_names(tmp_path, monkeypatch):
    """Else a power cut between the two leaves a run at step 1 without a line of it."""
    events, fsync, rename = [], os.fsync, os.rename

    def seen(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}") if Path("/proc").exists() else "")
        fsync(descriptor)

    def renamed(source, target):
        events.append(f"becomes {target}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "rename", renamed)
    assert train(tmp_path / "run", 1) == 0
    before = events[: events.index(f"becomes {tmp_path / 'run' / 'checkpoints' / 'step-000001'}")]
    logs = [before.index(str(tmp_path / "run" / name)) for name in ("metrics.jsonl", "rollouts.jsonl")]
    assert str(tmp_path / "run") in before[max(logs) :]


@pytest.mark.parametrize("mask", [0o022, 0o002])
def test_every_file_of_a_run_has_the_rights_of_its_neighbours(tmp_path, mask):
    before = os.umask(mask)
    try:
        assert train(tmp_path / "run", 1) == 0
        CheXbert.load(labeler_path()).save(tmp_path / "labeler")
    finally:
        os.umask(before)
    rights = {path: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert len(rights) > 12 and set(rights.values()) == {0o666 & ~mask}, rights


@pytest.fixture(scope="module")
def grpo(tiny_checkpoint):
    return build(setting(tiny_checkpoint(scale=0.1)))


@pytest.fixture
def saved(grpo, tmp_path) -> Path:
    """A run folder with checkpoints of steps 1 and 2, and an optimiser that has a state."""
    for step in (1, 2):
        for parameter in grpo.policy.trainable():
            parameter.grad = torch.full_like(parameter, 0.1 * step)
        grpo.optimizer.step()
        save_checkpoint(tmp_path, step, grpo.policy, grpo.optimizer)
    return tmp_path


NAMES = (
    "state.pt", "checksums.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json",
    "adapter/README.md",
)  # fmt: skip


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {"cut": cut, "flipped": flip, "empty": lambda path: path.write_bytes(b""), "gone": lambda path: path.unlink()}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_damage_to_any_file_is_named_and_the_one_before_is_used(grpo, saved, name, damage):
    assert {str(p.relative_to(saved / "checkpoints" / "step-000002")) for p in saved.rglob("step-000002/**/*.*")} == {
        *NAMES
    }
    DAMAGE[damage](saved / "checkpoints" / "step-000002" / name)
    state = resume(saved, grpo.policy, grpo.optimizer)
    assert state.step == 1 and state.damaged[0].startswith("step-000002: ")
    assert name in state.damaged[0] or name == "checksums.json"


def test_a_list_of_checksums_that_leaves_files_out_is_no_proof(saved):
    for text in ("{}", "[]", '{"state.pt": "00"}'):
        (saved / "checkpoints" / "step-000002" / "checksums.json").write_text(text)
        assert "damaged" in find_fault(saved / "checkpoints" / "step-000002")


def test_with_no_sound_checkpoint_the_user_decides(grpo, saved):
    for step in (1, 2):
        cut(saved / "checkpoints" / f"step-00000{step}" / "state.pt")
    with pytest.raises(
        UserError, match=r"no checkpoint is sound \(step-000002: state.pt .*step-000001.*remove .*checkp"
    ):
        resume(saved, grpo.policy, grpo.optimizer)
    shutil.rmtree(saved / "checkpoints")
    assert resume(saved, grpo.policy, grpo.optimizer).step == 0


def test_a_damaged_one_of_a_later_step_never_pushes_out_a_sound_one(grpo, saved):
    for step in (8, 9):
        shutil.copytree(saved / "checkpoints" / "step-000002", saved / "checkpoints" / f"step-00000{step}")
        cut(saved / "checkpoints" / f"step-00000{step}" / "state.pt")
    (saved / "checkpoints" / ".writing-000009").mkdir()
    save_checkpoint(saved, 3, grpo.policy, grpo.optimizer)
    assert [path.name for path in saved_steps(saved)] == ["step-000002", "step-000003"]
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["step-000002", "step-000003"]


def test_copies_that_the_user_puts_aside_are_not_checkpoints(grpo, saved):
    for name in ("step-best", "step-000002.bak"):
        shutil.copytree(saved / "checkpoints" / "step-000002", saved / "checkpoints" / name)
    assert resume(saved, grpo.policy, grpo.optimizer).step == 2
    for step in (3, 4):
        save_checkpoint(saved, step, grpo.policy, grpo.optimizer)
    kept = ["step-000002.bak", "step-000003", "step-000004", "step-best"]
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == kept


@pytest.mark.parametrize("damage", [False, True])
def test_what_a_kill_kept_from_removal_goes_on_resume_and_evidence_stays(grpo, saved, monkeypatch, damage):
    """A kill after a checkpoint was renamed and before the oldest was removed; no later save comes at a run's end."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "remove_old", lambda run_dir, step: None)
        for step in (3, 4):
            save_checkpoint(saved, step, grpo.policy, grpo.optimizer)
    if damage:
        cut(saved / "checkpoints" / "step-000004" / "state.pt")
    state = resume(saved, grpo.policy, grpo.optimizer)
    kept = [2, 3, 4] if damage else [3, 4]
    assert state.step == (3 if damage else 4) and saved_steps(saved) == [
        saved / "checkpoints" / f"step-{step:06d}" for step in kept
    ]


def test_a_loaded_state_is_written_as_the_same_bytes(grpo, saved, tmp_path):
    resume(saved, grpo.policy, grpo.optimizer)
    again = save_checkpoint(tmp_path / "again", 2, grpo.policy, grpo.optimizer)
    for name in NAMES:
        assert (again / name).read_bytes() == (saved / "checkpoints" / "step-000002" / name).read_bytes(), name


# ---- a full disk, for real


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many kB, or gives it another size."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.decode().strip()}")

    def resize(kilobytes: int) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)
        return folder

    yield resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, request):
    """The four steps of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        assert train(folder, 4) == 0
    return folder


@pytest.mark.parametrize("kilobytes", [2900, 3600, 6000])
def test_a_full_disk_ends_the_run_with_the_last_checkpoint_intact(small_disk, straight, capsys, kilobytes):
    """A checkpoint is 2.4 MB: the second one (or the third) fails in its adapter, or in its optimiser state."""
    run = small_disk(kilobytes) / "run"
    assert train(run, 4) == 2
    error = last_line(capsys)
    assert "No space left on device" in error and "--resume" in error and error.startswith("mrg-grpo: ")
    sound = [path for path in saved_steps(run) if find_fault(path) is None]
    assert sound == saved_steps(run) and len(sound) == kilobytes // 2400
    small_disk(60_000)
    assert train(run, 4, "--resume") == 0
    for name in ("adapter/adapter_model.safetensors", "checkpoints/step-000004/state.pt", "predictions.jsonl"):
        assert (run / name).read_bytes() == (straight / name).read_bytes(), name
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl"])
def test_a_log_that_cannot_grow_ends_the_run_in_one_line(finished, tmp_path, capsys, name):
    (finished / name).unlink()
    (finished / name).symlink_to("/dev/full")
    run = RunFolder(load_config(CONFIG, [f"run.output_dir={tmp_path / 'other'}"]), resume=False)
    run.path = finished
    with pytest.raises(UserError, match=rf"{name}: cannot be written \(No space left on device\)"):
        run.append(name, {"step": 2})
    assert find_fault(finished / "checkpoints" / "step-000001") is None


# ---- the folder and its logs


def folder_of(tmp_path, command="train", **changes) -> RunFolder:
    config = Config()
    config.run.output_dir = str(tmp_path / "run")
    for name, value in changes.items():
        table, key = name.split("__")
        setattr(getattr(config, table), key, value)
    return RunFolder(config, (tmp_path / "run" / "config.toml").exists(), command)


def test_lines_of_later_steps_go_and_broken_ones_are_counted(tmp_path, capsys):
    run = folder_of(tmp_path)
    odd = json.dumps(
        {"step": 1, "text": "a\u2028b\x85c"}, ensure_ascii=False
    )  # line ends to str.splitlines, not to JSON
    text = f'{odd}\n{{"step": 2}}\nbro\0ken\n{{"step": 3}}\n{{"step": 4, "cut'
    for name in LOGS:
        (run.path / name).write_text(text)
    run.cut_after(2)
    assert (run.path / "metrics.jsonl").read_text() == f'{odd}\n{{"step": 2}}\n'
    assert "followed.jsonl: 1 lines are damaged and dropped" in capsys.readouterr().out
    (run.path / "followed.jsonl").write_text('{"step": 0}\n')
    run.cut_after(0)  # followed.jsonl has lines of step 0, which a run that begins anew writes again
    assert [(run.path / name).read_text() for name in LOGS] == [""] * len(LOGS)


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_cannot_be_decoded_is_refused_before_the_training(tmp_path, capsys, monkeypatch, split):
    splits = load_splits(load_config(CONFIG))
    bare = replace(splits[split][0], images=())
    monkeypatch.setattr("mrg_grpo.train.load_splits", lambda config, **_: {**splits, split: [bare, *splits[split][1:]]})
    monkeypatch.setattr("mrg_grpo.train.Policy", None)  # nothing is loaded
    assert train(tmp_path / "run", 1) == 2
    assert "1 of " in (error := capsys.readouterr().err) and "no image" in error
    assert not (tmp_path / "run" / "config.toml").exists()


def test_evaluate_names_the_policy_and_refuses_a_run_that_has_not_ended(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("# run of train\n" + to_toml(load_config(CONFIG, [f"run.output_dir={run}"])))
    assert main(["evaluate", str(run / "config.toml")]) == 2
    assert "it has not ended; go on with --resume, or say --base" in capsys.readouterr().err
    assert adapter_of(load_config(run / "config.toml"), "", base=True) == ""
    assert capsys.readouterr().err == "policy: the base, without an adapter\n"
    (run / "adapter").mkdir()
    assert adapter_of(load_config(run / "config.toml"), "", base=False) == str(run / "adapter")
    assert capsys.readouterr().err == f"policy: {run / 'adapter'}\n"


def test_no_validation_where_it_has_no_studies(tmp_path):
    assert train(tmp_path / "run", 2, "--set", "run.eval_every=1", "--set", "run.eval_studies=0") == 0
    assert not (tmp_path / "run" / "validation.jsonl").exists()


def test_an_adapter_that_is_continued_keeps_its_rank_and_says_so(one_step, tmp_path, capsys):
    adapter = one_step / "adapter"
    assert train(tmp_path / "two", 1, "--set", f"model.adapter={adapter}", "--set", "lora.rank=3") == 0
    assert f"of {adapter}; [lora] is not read" in capsys.readouterr().out


def test_a_start_that_fails_leaves_no_run_behind(tmp_path, capsys):
    assert train(tmp_path / "run", 1, "--set", "model.path=/nowhere") == 2
    assert train(tmp_path / "run", 1) == 0
    before = (tmp_path / "run" / "config.toml").read_text()
    assert train(tmp_path / "run", 2, "--resume", "--set", "run.show_every=7", "--set", "data.form=none") == 2
    assert (tmp_path / "run" / "config.toml").read_text() == before


def test_the_runs_own_config_resumes_it_whatever_it_was_begun_with(tmp_path, capsys, monkeypatch):
    (tmp_path / "resumed_for_test.py").write_text(
        "def f(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    begun_with = ["grpo.beta=0.5", "reward.weights.resumed_for_test:f=0.5", "lora.rank=3", "run.seed=7"]
    assert train(tmp_path / "run", 1, *[part for setting in begun_with for part in ("--set", setting)]) == 0
    capsys.readouterr()
    assert train(tmp_path / "run", 1, "--resume") == 2  # the file that it was begun with says something else
    assert "run.seed, lora.rank, reward.weights, grpo.beta changed" in last_line(capsys)
    own = str(tmp_path / "run" / "config.toml")
    assert main(["train", own, "--set", "run.steps=2", "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "resuming after step 1" in printed and "changed since the run began: run.steps\n" in printed
    assert main(["train", own, "--resume"]) == 0 and "changed since" not in capsys.readouterr().out


def test_changed_settings_are_named_and_those_that_change_the_meaning_refused(tmp_path, capsys):
    folder_of(tmp_path).begin()
    with pytest.raises(UserError, match=r"grpo.beta, sft.learning_rate changed since the run began"):
        folder_of(tmp_path, grpo__beta=0.5, sft__learning_rate=1.0, run__steps=7)
    with pytest.raises(UserError, match=r"sampling.fast_decode changed"):  # in bf16 a merged policy samples differently
        folder_of(tmp_path, sampling__fast_decode=False)
    capsys.readouterr()
    folder_of(tmp_path, run__steps=300, run__show_every=3)
    assert capsys.readouterr().out == "changed since the run began: run.steps, run.show_every\n"
    folder_of(tmp_path, sampling__batch=4, grpo__micro_batch=4)
    assert "no longer bit for bit, for sampling.batch, grpo.micro_batch" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"run.steps changed"):  # the learning rate falls to 0 at the last step
        folder_of(tmp_path, grpo__decay=True, run__steps=300)


def as_of_ranks(folder, ranks):
    """Make a checkpoint one of so many ranks; None: of a version that did not record it."""
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state.pop("ranks") == 1
    torch.save(state | ({"ranks": ranks} if ranks else {}), folder / "state.pt")
    sums = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").write_text(json.dumps(sums | {"state.pt": checkpoint.sha256(folder / "state.pt")}))


OTHER_RANKS = "ranks: 1, before 2; the same random numbers, sums in another order: no longer bit for bit"


def test_another_number_of_ranks_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mrg_grpo.train.finish", lambda session: 0)
    assert train(tmp_path, 1) == 0
    as_of_ranks(tmp_path / "checkpoints" / "step-000001", 2)
    capsys.readouterr()
    assert train(tmp_path, 2, "--resume") == 0
    assert OTHER_RANKS in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("before, said", [(1, ""), (2, OTHER_RANKS), (None, "")])
def test_the_same_or_an_unknown_number_of_ranks_is_not_said(grpo, saved, before, said):
    as_of_ranks(saved / "checkpoints" / "step-000002", before)
    state = resume(saved, grpo.policy, grpo.optimizer)
    assert state.step == 2 and state.other_ranks == said


def test_two_processes_never_write_one_run(finished, capsys):
    code = "import pathlib, sys, mrg_grpo.files as f; lock = f.locked(pathlib.Path(sys.argv[1])); print(1); input()"
    other = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(finished / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout and other.stdout.readline() == "1\n"
    before = (finished / "metrics.jsonl").read_bytes()
    assert train(finished, 2, "--resume") == 2
    assert "another process is writing this run" in last_line(capsys)
    assert (finished / "metrics.jsonl").read_bytes() == before
    other.kill()  # however it ends
    other.wait()
    assert train(finished, 2, "--resume") == 0


def test_a_folder_of_something_else_is_not_written_over(tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine.txt").write_text("mine")
    assert train(tmp_path, 1) == 2 and "has adapter but no config.toml" in last_line(capsys)
    assert train(tmp_path, 1, "--resume") == 2 and "has adapter but no config.toml" in last_line(capsys)
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "mine.txt"]


def test_an_evaluation_is_not_written_over_that_of_a_run(finished, small_phantom, capsys):
    run_dir = finished
    before = (run_dir / "evaluation.json").read_bytes()
    evaluate = [
        "evaluate",
        str(run_dir / "config.toml"),
        "--set",
        "run.decode_batch=50",
        "--set",
        "sampling.max_tokens=2",
    ]
    assert main([*evaluate, "-o", str(run_dir)]) == 2 and "holds a run" in last_line(capsys)
    assert main([*evaluate, "--split", "../../x"]) == 2 and "is not in the data" in last_line(capsys)
    assert not list(run_dir.glob("evaluate-*"))
    assert main(evaluate) == 0
    assert (run_dir / "evaluate-test" / "evaluation.json").is_file()
    assert (run_dir / "evaluation.json").read_bytes() == before
    written = (run_dir / "evaluate-test" / "evaluation.json").read_bytes()
    assert main([*evaluate, "--base"]) == 2
    assert f"holds the evaluation of adapter {run_dir / 'adapter'} on test; name another" in last_line(capsys)
    assert (run_dir / "evaluate-test" / "evaluation.json").read_bytes() == written


def test_fewer_steps_than_were_taken_and_a_dtype_that_followed_the_device_are_refused(tmp_path, capsys):
    first = folder_of(tmp_path, grpo__decay=False)
    first.begin()
    first.close()
    (tmp_path / "run" / "checkpoints" / "step-000007").mkdir(parents=True)
    with pytest.raises(UserError, match=r"it has taken 7 steps, run\.steps is 5"):
        folder_of(tmp_path, grpo__decay=False, run__steps=5)
    text = (tmp_path / "run" / "config.toml").read_text()
    assert 'dtype = "float32"' in text and Config().model.dtype == "auto"
    (tmp_path / "run" / "config.toml").write_text(text.replace('"float32"', '"bfloat16"'))  # as begun on a GPU
    with pytest.raises(UserError, match=r"model\.dtype changed since the run began"):
        folder_of(tmp_path, grpo__decay=False)


def test_every_setting_of_run_but_the_seed_may_change():
    own = {f"run.{name}" for name in vars(Config().run)}
    assert own - MAY_CHANGE == {"run.seed"}
    assert MAY_CHANGE - own == {
        "model.device", "grpo.studies_per_pass", "grpo.micro_batch", "sft.micro_batch", "sampling.batch",
        "grpo.recompute", "data.allow_missing", "data.workers",
    }  # fmt: skip


def test_a_run_of_the_other_command_is_refused(tmp_path):
    folder_of(tmp_path, "sft").begin()
    with pytest.raises(UserError, match=r"holds a run of sft, not of train; .*model.adapter"):
        folder_of(tmp_path, "train")
    folder_of(tmp_path, "sft")
    with pytest.raises(UserError, match=r"run.steps changed"):  # so does the warm start's, by a cosine
        folder_of(tmp_path, "sft", run__steps=300)


# ---- signals


def test_handlers_are_put_back_and_a_second_signal_ends_at_once():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGINT)
        assert end.value.code == 128 + signal.SIGINT
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_while_the_test_split_is_decoded_ends_at_once_and_names_the_way_on(tmp_path, capsys, monkeypatch):
    run_dir = tmp_path / "my run"
    monkeypatch.setattr("mrg_grpo.judging.baseline", lambda session: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        train(run_dir, 1)
    assert end.value.code == 128 + signal.SIGTERM
    assert f"go on with: mrg-grpo train '{run_dir / 'config.toml'}' --resume" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["train", str(run_dir / "config.toml"), "--resume"]) == 0


@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_signal_in_the_last_step_still_stops(tmp_path, capsys, monkeypatch, command):
    """The decoding of the test split may take hours: it is left to the resume."""
    from mrg_grpo.run.folder import RunFolder as Folder

    plain = Folder.append

    def append_and_signal(self, name, record):
        plain(self, name, record)
        if name == "metrics.jsonl":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Folder, "append", append_and_signal)
    assert train(tmp_path / "run", 1, "--set", "sft.batch_size=2", command=command) == 128 + signal.SIGTERM
    way_on = f"go on with: mrg-grpo {command} {tmp_path / 'run' / 'config.toml'} --resume"
    assert way_on in capsys.readouterr().out and not (tmp_path / "run" / "evaluation.json").exists()
    assert main([command, str(tmp_path / "run" / "config.toml"), "--resume"]) == 0
    assert (tmp_path / "run" / "evaluation.json").is_file()


def test_freed_memory_goes_back_to_the_system():
    """Pieces that lie between others in use, which the C library keeps until it is told."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    pieces = [torch.ones(10_000) for _ in range(6000)]  # 240 MB in all
    kept = pieces[::100]
    del pieces
    before = resident()
    give_back_freed_memory()
    assert before - resident() > 150e6 and all(piece.sum() == 10_000 for piece in kept)


WORKER = """
import os, sys, threading
from pathlib import Path
import torch
from mrg_grpo.run.process import give_back_freed_memory, settle_heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "settled":
    settle_heap()
torch.ones(7_500_000)  # 30 MB: glibc gives back no piece below twice the largest freed so far
both = threading.Barrier(2)

def work():
    pieces = [torch.ones(10_000) for _ in range(1000)]
    both.wait()

workers = [threading.Thread(target=work) for _ in range(2)]
before = resident()
for move in (threading.Thread.start, threading.Thread.join):
    for worker in workers:
        move(worker)
give_back_freed_memory()
print(resident() - before)
"""


@pytest.mark.slow
def test_memory_that_worker_threads_freed_goes_back_too():
    """40 MB each, allocated and freed by two threads at once: in a heap of its own it stays."""
    left = {}
    for way in ("settled", "as it comes"):
        done = subprocess.run([sys.executable, "-c", WORKER, way], capture_output=True, text=True, check=True)
        left[way] = int(done.stdout)
    assert left["settled"] < 5e6 < 30e6 < left["as it comes"]


ROUNDS = """
import resource, sys
import torch
from mrg_grpo.run.process import settle_heap

if sys.argv[1] == "settled":
    settle_heap()
fetched = []
for size in (1, 2, 4, 5, 10, 20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [torch.ones(size * 250_000) for _ in range(100 // size)]
    del pieces
    fetched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(fetched[1:]))
"""


@pytest.mark.slow
def test_a_step_finds_the_pages_that_the_one_before_freed():
    """100 MB in ever larger blocks: 24,400 pages, fetched each time where glibc keeps to the limits it starts with."""
    limits = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    fetched = {}
    for way in ("settled", "as it comes"):
        command = [sys.executable, "-c", ROUNDS, way]
        done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, check=True)
        fetched[way] = int(done.stdout)
    assert fetched["settled"] < 10_000 < 100_000 < fetched["as it comes"]
