"""A long run under watch: does memory stay flat, do files stay closed, are all numbers finite?

    python experiments/checks/soak.py                 # 2,000 steps of the embedded default, 80 minutes on two cores
    python experiments/checks/soak.py --steps 40      # a look

Starts the real command in a process of its own and looks at it from outside within 20 ms of every step's end: memory,
open files, threads. Memory is judged from step 100 on, where pools and caches have filled: the median of the last
hundred steps over that of steps 101 to 200 (of fewer steps: of the last and the second tenth). Judged is what the
process holds itself (RssAnon): the rest of its resident set is program code in files, which the kernel reads and drops
as it likes.
Writes results/soak.json, and a line per look to RUN/looks.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results" / "soak.json"


@dataclass
class Look:
    """The process after a step, MiB = 2**20 bytes."""

    step: int
    anonymous_mib: float
    """Of its resident set what is in no file."""
    rss_mib: float
    open_files: int
    threads: int


def look(pid: int, step: int) -> Look:
    """From /proc (Linux)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    anonymous, rss = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))
    return Look(step, anonymous, rss, open_files, int(status["Threads"]))


def watch(process: subprocess.Popen, metrics: Path) -> Iterator[Look]:
    """A look whenever metrics.jsonl has grown, until the process ends."""
    size = 0
    while process.poll() is None:
        grown = metrics.stat().st_size if metrics.exists() else 0
        if grown > size:
            size = grown
            try:
                now = look(process.pid, 0)  # the next step has begun: first the look, then which one it is of
            except (FileNotFoundError, ProcessLookupError, KeyError):  # it has just ended
                return
            now.step = metrics.read_text().count("\n")
            yield now
        time.sleep(0.02)


def growth(values: list[float]) -> float:
    """Median of the end over median of the beginning, minus 1; what comes before the beginning warms up."""
    block = 100 if len(values) >= 300 else max(1, len(values) // 10)
    return statistics.median(values[-block:]) / statistics.median(values[block : 2 * block]) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--run", type=Path, default=Path("runs/soak"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    settings = [f"run.steps={options.steps}", f"run.output_dir={options.run}"]
    command = ["train", "experiments/phantom_bench.toml", *(part for x in settings for part in ("--set", x))]
    run = ROOT / options.run
    start = time.time()
    process = subprocess.Popen([sys.executable, "-m", "mrg_grpo", *command], cwd=ROOT)
    looks = []
    for now in watch(process, run / "metrics.jsonl"):
        looks.append(now)
        with (run / "looks.jsonl").open("a") as file:
            file.write(json.dumps(asdict(now)) + "\n")
    if process.wait() or not looks:
        sys.exit(f"the run ended with {process.returncode}")
    training = [x for x in looks if x.step < options.steps]  # after the last one the test split is decoded
    numbers = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = {
        "command": "mrg-grpo " + " ".join(command),
        "steps": len(numbers),
        "skipped": sum(row.get("skipped", 0.0) for row in numbers),
        "not_finite": sum(not math.isfinite(value) for row in numbers for value in row.values()),
        "minutes": round((time.time() - start) / 60, 1),
        "memory_growth": growth([x.anonymous_mib for x in training]),
        "rss_growth": growth([x.rss_mib for x in training]),
        "open_files_first_and_last": [training[0].open_files, training[-1].open_files],
        "open_files_growth": growth([float(x.open_files) for x in training]),
        "threads_growth": growth([float(x.threads) for x in training]),
        "reward_first_and_last_hundred": [
            statistics.mean(row["reward"] for row in part) for part in (numbers[:100], numbers[-100:])
        ],
        "looks": [asdict(x) for x in looks if x.step % 50 == 0 or x.step == 1],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print({name: value for name, value in result.items() if name != "looks"})


if __name__ == "__main__":
    main()
