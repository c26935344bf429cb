"""The built-in model with its base in 4 bits and recomputed layers, beside the default: what it learns, what it costs.

    for s in 0 1 2; do
      make train SET="model.quantize=nf4 grpo.recompute=all run.seed=$s run.output_dir=runs/nf4_$s"; done
    python -m experiments.checks.four_bits runs/nf4_0 runs/nf4_1 runs/nf4_2

What is learned comes from these runs and from the default's three in results/phantom.json, which must have taken as
many steps and judged as many test studies. Seconds and memory come from short runs of both, in turns, each in a process
of its own: the median step, and the peak of the resident set in steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.ablations import collect_seeds
from experiments.benchmarks import performance_page

RESULTS = performance_page.RESULTS / "four_bits.json"
WAYS = {"default": [], "nf4": ["model.quantize=nf4", "grpo.recompute=all"]}
SHORT = ["run.steps=6", "run.eval_every=0", "run.follow_studies=0", "run.test_studies=8", "grpo.decay=false"]


def short_run(changes: list[str], folder: Path) -> dict[str, float]:
    """A few steps in a process of its own: median seconds of those after the first, peak GB."""
    words = [w for one in [*SHORT, *changes, f"run.output_dir={folder}"] for w in ("--set", one)]
    command = [sys.executable, "-m", "mrg_grpo", "train", "experiments/phantom.toml", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "seconds": statistics.median(step["seconds/step"] for step in steps[1:]),
        "gb": max(step["memory_gb"] for step in steps),
    }


def ends(records: list[dict]) -> dict[str, dict[str, list[float]]]:
    """Metric -> before and after, a number for each seed."""
    return {
        name: {
            side: [one["sides"]["test split"]["metrics"][name][side]["value"] for one in records]
            for side in collect_seeds.SIDES
        }
        for name in collect_seeds.ROWS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    given = parser.parse_args()
    default = json.loads(collect_seeds.RESULTS.read_text(encoding="utf-8"))
    records = [collect_seeds.record(run) for run in given.runs]
    if len(kinds := {(one["steps"], one["sides"]["test split"]["studies"]) for one in (*default, *records)}) > 1:
        raise SystemExit(f"runs of different steps and test studies cannot be compared: {sorted(kinds)}")
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        for n in range(given.pairs):
            pairs.append({way: short_run(changes, Path(scratch) / f"{way}{n}") for way, changes in WAYS.items()})
    found = {
        "command": f"python -m experiments.checks.four_bits {' '.join(map(str, given.runs))}",
        "default": ends(default),
        "nf4": ends(records),
        "pairs": pairs,
    }
    performance_page.keep(RESULTS, found)


if __name__ == "__main__":
    main()
