"""Our step beside TRL's GRPOTrainer: same weights, pictures, prompts, lengths, LoRA, dtype, torch and threads.

    make bench            # makes .venv-bench (TRL needs torchvision for this model) and runs this file

Each engine runs in fresh processes, in pairs one after the other; a ratio is taken within a pair, and the median of the
pairs is the result, so that a machine whose speed drifts does not decide. Memory is the peak of the resident set minus
what it was when the model was loaded. Writes results/step_against_trl.json row by row, and goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.benchmarks import cases, ours, performance_page
from mrg_grpo.preflight.hours import arithmetic
from mrg_grpo.preflight.plan import model_sizes, step_shape

RESULTS = Path(__file__).resolve().parents[1] / "results" / "step_against_trl.json"
MICRO_BATCH = 4
"""Ours: reports per forward pass in training, the fastest of 0, 2, 4 and 8 on two cores."""


def peak_gflops(threads: int) -> float:
    """The machine's matrix-product peak: the best of some products of 1,024 x 1,024, fp32."""
    torch.set_num_threads(threads)
    a, b, best = torch.randn(1024, 1024), torch.randn(1024, 1024), float("inf")
    for _ in range(30):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best / 1e9


def run(module: str, arguments: list[str], threads: int) -> dict:
    """One engine in a process of its own; the last line it prints is its result."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", f"experiments.benchmarks.{module}", *arguments, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(case: cases.Case, beta: float, checkpoint: Path, images: Path, options: argparse.Namespace) -> dict:
    """`pairs` rounds of one case: ours as it is by default, TRL."""
    base = [case.name, "--checkpoint", str(checkpoint), "--images", str(images), "--beta", str(beta),
            "--steps", str(options.steps)]  # fmt: skip
    own = [*base, "--micro-batch", str(MICRO_BATCH)]
    rounds = []
    for _ in range(options.pairs):
        rounds.append((run("ours", own, options.threads), run("peer", base, options.threads)))
    ours_, theirs_ = zip(*rounds)
    seconds = [[statistics.median(r["seconds"]) for r in engines] for engines in rounds]
    config = ours.configuration(case, checkpoint, beta, MICRO_BATCH)
    flop = sum(arithmetic(model_sizes(config), step_shape(config, case.views), beta=beta).values())
    return {
        "case": case.name, "beta": beta, "pairs": len(rounds),
        "speed_ratio": statistics.median(theirs / mine for mine, theirs in seconds),
        "speed_ratios": sorted(round(theirs / mine, 2) for mine, theirs in seconds),
        "memory_ratio": statistics.median(mine["peak_mib"] / theirs["peak_mib"] for mine, theirs in rounds),
        "our_seconds": middle(ours_, "seconds"), "trl_seconds": middle(theirs_, "seconds"),
        "our_mib": statistics.median(r["peak_mib"] for r in ours_),
        "trl_mib": statistics.median(r["peak_mib"] for r in theirs_),
        "phases": phases(ours_),
        "gflop_needed": flop / 1e9,
        "peak_gflops": peak_gflops(options.threads),
        "versions": {"torch": torch.__version__, "trl": theirs_[0]["engine"]},
    }  # fmt: skip


def middle(results: Sequence[dict], name: str) -> float:
    """Median over all timed steps of all processes."""
    return statistics.median(x for r in results for x in r[name])


def phases(results: Sequence[dict]) -> dict[str, float]:
    """Median seconds of each phase."""
    return {name: round(statistics.median(r["phases"][name] for r in results), 3) for name in results[0]["phases"]}


def line(row: dict) -> str:
    return (
        f"({row['case']}) beta {row['beta']:g}: {row['speed_ratio']:.2f} times as fast as TRL "
        f"({row['our_seconds']:.2f} s against {row['trl_seconds']:.2f} s), {row['memory_ratio']:.2f} of its memory "
        f"({row['our_mib']:.0f} against {row['trl_mib']:.0f} MiB); "
        f"pairs {row['speed_ratios']}, phases {row['phases']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=sorted(cases.CASES), choices=sorted(cases.CASES))
    parser.add_argument("--betas", nargs="+", type=float, default=[0.0, 0.04])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a process, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--anew", action="store_true", help="measure rows that the file has already once more")
    options = parser.parse_args()
    kept: dict = json.loads(options.out.read_text()) if options.out.exists() and not options.anew else {"rows": []}
    rows = kept["rows"]
    done = {(row["case"], row["beta"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, images = cases.write_checkpoint(Path(folder) / "checkpoint"), Path(folder) / "images"
        peak = max(peak_gflops(options.threads), kept.get("peak_gflops", 0.0))
        print(
            f"{options.threads} threads, {peak:.0f} GFLOP/s in matrix products, torch {torch.__version__}", flush=True
        )
        for beta in options.betas:
            for name in options.cases:
                if (name, beta) in done:
                    continue
                row = compare(cases.CASES[name], beta, checkpoint, images, options)
                rows.append(row)
                print(line(row), flush=True)
                peak = max(peak, row["peak_gflops"])  # a busy moment is no peak
                options.out.write_text(json.dumps({"peak_gflops": peak, "rows": rows}, indent=1) + "\n")
                if options.out == RESULTS:
                    performance_page.write()


if __name__ == "__main__":
    main()
