"""A run that goes on is held to what it was given: base, labeler, studies, and the adapter that it starts from."""

import json
import shutil
import sys

import pytest
import torch
from command import CONFIG
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import write_checkpoint

from mrg_grpo.cli import main
from mrg_grpo.data.study import Study
from mrg_grpo.run.folder import RunFolder
from mrg_grpo.run.inputs import END, LARGE, digest, digest_of_studies

SMALL = [
    "run.test_studies=2", "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=8", "run.eval_every=0",
    "run.follow_studies=0", "run.save_every=1", "grpo.decay=false", "grpo.beta=0.01",
]  # fmt: skip


def train(folder, steps, *more, command="train"):
    """The exit code of a run in `folder`; more: settings, or --resume."""
    settings = [*SMALL, f"run.steps={steps}", f"run.output_dir={folder}", *(x for x in more if not x.startswith("--"))]
    flags = [x for x in more if x.startswith("--")]
    return main([command, CONFIG, *flags, *[part for setting in settings for part in ("--set", setting)]])


def kls(run):
    return [json.loads(line)["kl"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_overwritten_start_adapter_changes_no_reference(tmp_path, capsys):
    """The warm start's folder may be written anew between stop and resume; the run keeps its own copy of the start."""
    assert train(tmp_path / "warm", 1) == 0
    adapter = tmp_path / "warm" / "adapter"
    given = f"model.adapter={adapter}"
    assert train(tmp_path / "whole", 2, given) == 0
    assert train(tmp_path / "run", 1, given) == 0
    kept = tmp_path / "run" / "start_adapter"
    assert sorted(path.name for path in kept.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    weights = load_file(adapter / "adapter_model.safetensors")
    other = {name: torch.randn_like(weight) for name, weight in weights.items()}
    save_file(
        {name: torch.randn_like(weight) for name, weight in weights.items()}, adapter / "adapter_model.safetensors"
    )
    assert train(tmp_path / "run", 2, given, "--resume") == 0
    assert kls(tmp_path / "run") == kls(tmp_path / "whole")
    shutil.rmtree(adapter)
    assert train(tmp_path / "run", 3, given, "--resume") == 0
    capsys.readouterr()
    images = ["report", str(tmp_path / "x.png"), "--config", str(tmp_path / "run")]
    Image.effect_noise((64, 64), 60).save(tmp_path / "x.png")
    assert main([*images, "--base"]) == 0 and f"policy: {kept}\n" in capsys.readouterr().err

    file = kept / "adapter_model.safetensors"  # a start that is no longer its own is refused
    save_file(other, file)
    assert train(tmp_path / "run", 4, given, "--resume") == 2
    assert "model.adapter (adapter_model.safetensors) changed since the run began" in capsys.readouterr().err


def test_a_run_that_was_killed_before_it_began_begins(tmp_path, capsys, monkeypatch):
    assert train(tmp_path / "warm", 1) == 0
    given, run = f"model.adapter={tmp_path / 'warm' / 'adapter'}", tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(RunFolder, "begin", lambda self: sys.exit("killed"))
        train(run, 1, given)
    assert (run / "inputs.json").exists() and (run / "start_adapter").exists() and not (run / "config.toml").exists()
    assert train(run, 1, given) == 0
    capsys.readouterr()
    for name in ("inputs.json", "start_adapter"):  # without a run's beginning beside them they are somebody's
        (tmp_path / "own" / name).mkdir(parents=True)
        assert train(tmp_path / "own", 1) == 2 and f"has {name}" in capsys.readouterr().err
        (tmp_path / "own" / name).rmdir()


def write_data(root, order="abcdef", report="Clear lungs."):
    record = lambda name, split: {  # noqa: E731
        "id": name, "report": report, "image_path": [f"{name}.png"], "split": split,
    }  # fmt: skip
    splits = {"train": [record(name, "train") for name in order], "val": [], "test": [record("h", "test")]}
    (root / "annotation.json").write_text(json.dumps(splits))


def reorder(root, base):
    write_data(root, "fedcba")


def reword(root, base):
    write_data(root, report="Large right pleural effusion.")


def another_template(root, base):
    path = base / "chat_template.jinja"
    path.write_text(path.read_text() + "{# another #}")


def other_weights(root, base):
    path = base / "model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, path, {"format": "pt"})


def one_file_more(root, base):
    (base / "chat_template.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (reorder, "the studies of data.root (train)"), (reword, "the studies of data.root (test, train)"),
        (another_template, "model.path (chat_template.jinja)"), (other_weights, "model.path (model.safetensors)"),
        (one_file_more, "model.path (chat_template.json)"), (None, ""),
    ],
)  # fmt: skip
def test_what_changed_since_the_run_began_is_named_and_nothing_is_lost(change, words, tmp_path, capsys):
    base = write_checkpoint(tmp_path / "base")
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for name in "abcdefh":
        Image.effect_noise((64, 64), 60).save(root / "images" / f"{name}.png")
    write_data(root)
    settings = [f"model.path={base}", "data.form=iu_xray_r2gen", f"data.root={root}", "lora.rank=2"]
    assert train(tmp_path / "run", 1, *settings) == 0
    log = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    (base / "README.md").write_text("not read")
    if change is None:
        assert train(tmp_path / "run", 2, *settings, "--resume") == 0
        return
    change(root, base)
    capsys.readouterr()
    assert train(tmp_path / "run", 2, *settings, "--resume") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{words} changed since the run began; put the old content back" in line
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == log
    (tmp_path / "run" / "inputs.json").unlink()  # a run that began without a record goes on as it always did
    assert train(tmp_path / "run", 1, *settings, "--resume") == 0


def test_digests_tell_content_apart(tmp_path):
    one, two = tmp_path / "1.bin", tmp_path / "2.bin"
    whole = bytearray(LARGE + 2 * END)
    one.write_bytes(whole)
    for place, differs in ((0, True), (len(whole) - 1, True), (len(whole) // 2, False)):  # a large file by its ends
        two.write_bytes(whole[:place] + b"x" + whole[place + 1 :])
        assert (digest(one) != digest(two)) is differs
    two.write_bytes(whole + b"\0")
    assert digest(one) != digest(two)
    studies = [Study("a", ("/data/images/a.png",), "Clear.", "train")]
    moved = [Study("a", ("/other/images/a.png",), "Clear.", "train")]
    assert digest_of_studies(studies, "/data") == digest_of_studies(moved, "/other/")
    assert digest_of_studies(studies, "/data") != digest_of_studies(studies * 2, "/data")
