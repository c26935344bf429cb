"""A run is its folder, wherever that has been moved or copied to; a folder of somebody's own is never taken for one."""

import json
import shutil

import pytest
from command import CONFIG
from PIL import Image

from mrg_grpo.cli import main
from mrg_grpo.config import load_config
from mrg_grpo.errors import UserError
from mrg_grpo.toml import written_by_run

SMALL = [
    "run.test_studies=2", "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=16", "run.eval_every=0",
    "run.follow_studies=0", "run.save_every=1", "grpo.decay=false",
]  # fmt: skip


def sets(*settings):
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module", autouse=True)
def few_phantoms():
    """Of the run and of all that is done with it: `evaluate` labels every training report for its baselines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mrg_grpo.data.phantom.dataset.SIZES", {"train": 64, "val": 16, "test": 16})
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of one step, begun under another name than it has now."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", CONFIG, *sets(*SMALL, "run.steps=1", f"run.output_dir={folder / 'a'}")]) == 0
    return (folder / "a").rename(folder / "b")


@pytest.fixture
def moved(begun, tmp_path, monkeypatch):
    """A copy of it, read from another working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(begun, tmp_path / "b")
    return tmp_path / "b"


@pytest.mark.parametrize("name", ["b", "b/config.toml", "./b/"])
def test_resume_goes_on_where_the_folder_is(moved, begun, name, capsys):
    before = sorted(begun.rglob("*"))
    assert main(["train", name, "--resume", *sets("run.steps=2")]) == 0
    printed = capsys.readouterr().out
    assert "resuming after step 1" in printed and "changed since the run began: run.steps\n" in printed
    assert len((moved / "metrics.jsonl").read_text().splitlines()) == 2
    assert sorted(begun.rglob("*")) == before and not (begun.parent / "a").exists()
    assert load_config(moved).run.output_dir == str(moved)


@pytest.mark.slow
def test_report_and_evaluate_take_the_adapter_that_lies_there(moved, begun, capsys):
    Image.effect_noise((64, 64), 60).save("x.png")
    for config in ("b", "b/config.toml"):
        assert main(["report", "x.png", "--config", config]) == 0
        assert capsys.readouterr().err.startswith("policy: b/adapter (the last, after step 1)\n")
    assert main(["evaluate", "b"]) == 0
    assert "predictions and evaluation: b/evaluate-test\n" in capsys.readouterr().out
    assert json.loads((moved / "evaluate-test" / "evaluation.json").read_text())["adapter"] == "b/adapter"
    moved.rename(moved.parent / "c")  # and what was evaluated before the move is that of the same adapter
    assert main(["evaluate", "c"]) == 0 and not (begun.parent / "a").exists()


def test_a_setting_that_names_another_folder_begins_another_run(moved, tmp_path, capsys):
    assert load_config("b", ["run.output_dir=new"]).run.output_dir == "new"
    (tmp_path / "own.toml").write_text('include = "b/config.toml"\n[run]\noutput_dir = "new"\n')
    assert load_config("own.toml").run.output_dir == "new"
    (tmp_path / "config.toml").write_text('include = "b/config.toml"\n')  # names the run that it includes
    assert load_config("config.toml").run.output_dir == "b"


def test_a_folder_without_a_run_is_no_configuration(tmp_path, capsys):
    assert main(["train", str(tmp_path), "--resume"]) == 2
    assert "a folder without a run's config.toml" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_configuration_in_its_own_output_folder_is_never_replaced(tmp_path, capsys, more):
    own = tmp_path / "config.toml"
    own.write_text(f"# my notes: do not lose\n[run]\noutput_dir = {json.dumps(str(tmp_path))}\nsteps = 1\n")
    before = own.read_bytes()
    assert not written_by_run(own)
    assert main(["train", str(own), *more]) == 2
    assert "a config.toml that no run wrote" in capsys.readouterr().err
    assert own.read_bytes() == before and list(tmp_path.iterdir()) == [own]
    with pytest.raises(UserError, match=r"without a run's config\.toml"):
        load_config(tmp_path)
