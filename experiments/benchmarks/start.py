"""From the command to the first step, and how soon a phantom study is there.

    python -m experiments.benchmarks.start

Runs `mrg-grpo train experiments/phantom.toml`, as `make train` does, in a fresh process and folder, waits for the first
line of metrics.jsonl, and stops it. The first step begins its own `seconds/step` before that line. Beside it: the
imports alone in a process of their own; the whole training split of 8,000; the first study's picture and the slowest of
50 random ones; pictures a second of one thread, and of the two threads that work ahead of the step.
Writes results/start.json; `performance_page` makes docs/results/performance.md of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks import performance_page
from mrg_grpo.data.phantom import case as phantom_case
from mrg_grpo.data.phantom import dataset as phantom
from mrg_grpo.data.phantom.text import write_report
from mrg_grpo.data.prefetch import prefetch

RESULTS = performance_page.RESULTS / "start.json"
CONFIG = "experiments/phantom.toml"
LIMIT = 600


def first_step(threads: int, settings: list[str]) -> dict[str, float]:
    """Seconds from the command to the beginning and to the end of step 1."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "mrg_grpo", "train", CONFIG]
        for setting in (f"run.output_dir={run}", *settings):
            command += ["--set", setting]
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        try:
            line = awaited(run / "metrics.jsonl", child)
            ended = time.perf_counter() - start
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    return {"first_step_ended": ended, "first_step_began": ended - line["seconds/step"]}


def awaited(path: Path, child: subprocess.Popen) -> dict:
    """The first whole line of a log that a process is about to write."""
    for _ in range(LIMIT * 50):
        if path.exists() and "\n" in (text := path.read_text(encoding="utf-8")):
            return json.loads(text.split("\n")[0])
        if child.poll() is not None:
            raise RuntimeError(f"the run ended with {child.returncode} before its first step")
        time.sleep(0.02)
    raise RuntimeError(f"no step within {LIMIT} s")


def imports() -> float:
    """Seconds of a process that imports what a run needs, and nothing else."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mrg_grpo.train"], check=True)
    return time.perf_counter() - start


def studies(count: int) -> dict[str, float]:
    """The phantom's own figures, on `count` pictures drawn one after the other and as many by two threads."""
    start = time.perf_counter()
    train = phantom.load(sizes={"train": phantom.SIZES["train"]})["train"]
    whole = time.perf_counter() - start
    drawn = random.Random(0).sample(range(1, len(train)), 2 * count)
    alone = []
    for index in (0, *drawn[:count]):  # report and picture of a study that nothing was made of before
        start = time.perf_counter()
        write_report(phantom_case.sample_case("train", index))
        phantom.image_of(train[index].images[0])
        alone.append(time.perf_counter() - start)
    start = time.perf_counter()
    addresses = [train[index].images[0] for index in drawn[count:]]
    ahead = sum(1 for _ in prefetch(addresses, phantom.image_of, workers=2, ahead=8))
    together = time.perf_counter() - start
    return {
        "split": len(train), "split_seconds": whole, "first_study": alone[0], "slowest_of_random": max(alone[1:]),
        "random": count, "images_a_second": 1 / statistics.mean(alone[1:]), "images_a_second_ahead": ahead / together,
    }  # fmt: skip


def measure(rounds: int, threads: int, count: int, settings: list[str]) -> dict:
    """Medians of `rounds` starts, and the figures of the phantom."""
    starts = [{**first_step(threads, settings), "imports": imports()} for _ in range(rounds)]
    middle = {name: statistics.median(start[name] for start in starts) for name in starts[0]}
    return {"threads": threads, "starts": starts, **middle, **studies(count)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one small start, nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    small = ["grpo.studies_per_step=1", "grpo.group_size=2", "sampling.max_tokens=8", "run.follow_studies=0"]
    rounds, count, settings = (1, 4, small) if options.quick else (options.rounds, 50, [])
    result = measure(rounds, options.threads, count, settings)
    print(performance_page.start(result))
    if not options.quick:
        performance_page.keep(options.out, result)


if __name__ == "__main__":
    main()
