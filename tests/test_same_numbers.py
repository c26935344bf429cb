"""What the engine computes stays what it was: short runs of the real `train` against a recorded file.

Eight runs on phantom studies, on one thread: the embedded default as it is; the embedded base in float64, whose reports
earn MCCS and ROUGE-L; and the tiny checkpoint of every family in float64, which earns letters. Held are metrics.jsonl
without times and memory, the adapter and the greedy reports. On the machine that recorded the floats are held to the
last digit, on others to rounding; the reports are held everywhere.

    python tests/test_same_numbers.py --record      # after a change that is meant to move the numbers: write them anew
"""

import hashlib
import json
import math
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from tiny import write_checkpoint

from mrg_grpo.config import load_config
from mrg_grpo.model.families import FAMILIES
from mrg_grpo.train import train

HERE = Path(__file__).resolve().parent
RECORD = HERE / "records" / "same_numbers.json"
CONFIG = HERE.parent / "experiments" / "phantom.toml"

SMALL = [
    "model.device='cpu'",
    "run.steps=3",
    "run.seed=0",
    "run.test_studies=16",
    "run.eval_every=2",
    "run.eval_studies=8",
]
TWO_PASSES = [
    "model.dtype='float64'", "run.test_studies=4", "run.eval_studies=2", "run.follow_studies=0", "grpo.inner_passes=2",
    "grpo.beta=0.05", "grpo.micro_batch=2", "grpo.group_size=3", "grpo.studies_per_step=2", "grpo.decay=false",
    "reward.mccs.weighting='rarity'",
]  # fmt: skip
REPORTS = ["sampling.max_tokens=120", "reward.weights={ mccs = 0.7, rouge_l = 0.3 }"]
LETTERS = ["sampling.max_tokens=40", "reward.weights={ mccs = 0.7, rouge_l = 0.3, 'letters:letters' = 1.0 }"]
RUNS = {
    "default": SMALL,
    "reports": [*SMALL, *TWO_PASSES, *REPORTS],
    **{family: [*SMALL, *TWO_PASSES, *LETTERS] for family in sorted(FAMILIES)},
}
PHANTOM = {"train": 64, "val": 16, "test": 16}
"""Studies of the splits: rarity weights need a label of every training report."""


@contextmanager
def on_one_thread():
    """Sums in one order, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measured(name: str, folder: Path) -> dict:
    """Make the run in `folder` and read what it left."""
    settings = [*RUNS[name], f"run.output_dir={str(folder / 'run')!r}"]
    if name in FAMILIES:
        settings.append(f"model.path={str(write_checkpoint(folder / 'tiny', scale=0.1, family=name))!r}")
    with on_one_thread(), patch.dict("mrg_grpo.data.phantom.dataset.SIZES", PHANTOM):
        assert train(load_config(CONFIG, settings)) == 0
    return left_in(folder / "run")


def left_in(run: Path) -> dict:
    """metrics.jsonl without times and memory, digest and sums of the adapter, the generated texts."""
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    return {
        "metrics": [timeless(record) for record in lines(run / "metrics.jsonl")],
        "adapter": {
            part: sums(t for name, t in sorted(adapter.items()) if part in name) for part in ("lora_A", "lora_B")
        },
        "digest": digest(adapter),
        "generated": [record["generated"] for record in lines(run / "predictions.jsonl")],
    }


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def timeless(record: dict) -> dict:
    return {name: value for name, value in record.items() if not name.startswith(("seconds", "memory"))}


def sums(tensors) -> dict:
    """Of all numbers: how many, their sum, the sums of magnitudes and of squares."""
    flat = torch.cat([tensor.flatten().double() for tensor in tensors])
    return {
        "count": len(flat), "sum": math.fsum(flat.tolist()), "magnitudes": math.fsum(flat.abs().tolist()),
        "squares": math.fsum(flat.square().tolist()),
    }  # fmt: skip


def digest(tensors: dict) -> str:
    """SHA-256 over names, types and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def machine() -> dict:
    """What decides the last digit."""
    cpuinfo = Path("/proc/cpuinfo")
    named = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return {
        "torch": torch.__version__, "cpu": named[0].split(":")[1].strip() if named else "",
        "instructions": torch.backends.cpu.get_cpu_capability(), "threads": 1,
    }  # fmt: skip


def assert_near(ours: dict, recorded: dict, tolerance: float) -> None:
    """To rounding. Two kinds of number are nothing but rounding: a loss on policy, of fp32 rewards, and the gap."""
    assert ours["generated"] == recorded["generated"]
    for now, then in zip(ours["metrics"], recorded["metrics"], strict=True):
        assert list(now) == list(then)
        for name, value in then.items():
            least = 1e-5 if name.startswith(("loss", "sampling_gap")) else tolerance / 100
            assert now[name] == pytest.approx(value, rel=tolerance, abs=least), name
    for part, then in recorded["adapter"].items():
        now = ours["adapter"][part]
        assert now["count"] == then["count"]
        assert now["sum"] == pytest.approx(then["sum"], abs=tolerance * then["magnitudes"])
        for name in ("magnitudes", "squares"):
            assert now[name] == pytest.approx(then[name], rel=tolerance)


@pytest.mark.parametrize("name", [pytest.param("default", marks=pytest.mark.slow), *list(RUNS)[1:]])
def test_the_numbers_are_those_recorded(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)  # letters.py
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    ours, recorded = json.loads(json.dumps(measured(name, tmp_path))), record["runs"][name]
    if machine() == record["machine"]:
        for part, then in recorded.items():
            assert ours[part] == then, part
    else:
        assert_near(ours, recorded, 1e-3 if name == "default" else 1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_what_is_recorded_moves_the_policy(name):
    """A record of runs that earn nothing, or never leave their start, would hold anything to be the same."""
    run = json.loads(RECORD.read_text(encoding="utf-8"))["runs"][name]
    assert len(run["metrics"]) == 3 and all(step["grad_norm"] > 0 and step["reward_std"] > 0 for step in run["metrics"])
    assert run["metrics"][-1]["kl"] > 0 and run["adapter"]["lora_B"]["magnitudes"] > 0
    assert RECORD.stat().st_size < 60_000


def write_record() -> None:
    """Make every run and write the file."""
    runs = {}
    for name in RUNS:
        with TemporaryDirectory() as folder:
            runs[name] = measured(name, Path(folder))
    text = json.dumps({"machine": machine(), "runs": runs}, ensure_ascii=True, indent=1)
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("usage: python tests/test_same_numbers.py --record")
    write_record()
