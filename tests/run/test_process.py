"""A run that is told to stop finishes its step, saves, says how to go on, and ends with 128 + the signal."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mrg_grpo.run.process import StopSignal

SETTINGS = [
    "run.test_studies=2", "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=16", "run.eval_every=0",
    "run.save_every=1000", "run.steps=1000",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_remembered_and_the_handler_put_back(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        os.kill(os.getpid(), number)
        assert stop.number == number
    assert signal.getsignal(number) is before


def test_under_nohup_the_end_of_the_terminal_ends_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_job_in_the_background_of_a_script_hears_an_interrupt_that_is_sent_to_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the shell begins it
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.number == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_printed_to_a_terminal_that_is_gone_ends_nothing():
    """A line for a closed terminal is an error; the state behind it would not be saved."""
    code = (
        "import os, signal, sys, time\n"
        "from mrg_grpo.run.process import StopSignal\n"
        "with StopSignal() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.number: time.sleep(0.02)\n"
        "    print('a line for no one', flush=True); print('and another', file=sys.stderr, flush=True)\n"
        "    os.write(int(sys.argv[1]), b'saved')\n"
    )
    master, slave = os.openpty()
    done, written = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(written)], stdin=slave, stdout=slave, stderr=slave, pass_fds=[written],
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    os.close(written)
    assert b"ready" in os.read(master, 100)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 0 and os.read(done, 10) == b"saved"
    os.close(done)
