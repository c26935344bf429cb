"""A run that is told to stop finishes its step, saves, says how to go on, and ends with 128 + the signal."""

import json
import signal
import subprocess
import sys
import time

import pytest

SETTINGS = [
    "run.test_studies=2", "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=16", "run.eval_every=0",
    "run.save_every=1000", "run.steps=1000",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_names_the_way_on(number, tmp_path, request):
    run = tmp_path / "run"
    settings = [part for setting in [*SETTINGS, f"run.output_dir={run}"] for part in ("--set", setting)]
    command = [sys.executable, "-m", "mrg_grpo", "train", "experiments/phantom.toml", *settings]
    process = subprocess.Popen(command, cwd=request.config.rootpath, stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 300
    while not (run / "metrics.jsonl").exists() and time.time() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (run / "checkpoints" / f"step-{steps[-1]:06d}" / "checksums.json").is_file()
    assert f"stopped after step {steps[-1]}" in printed and "--resume" in printed
