"""Record finished runs of the built-in default; the table and the learning curve of README.md out of them.

for s in 0 1 2; do make train SET="run.seed=$s run.output_dir=runs/seed$s"; done
python -m experiments.ablations.collect_seeds runs/seed0 runs/seed1 runs/seed2
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from experiments.ablations.ablation_record import thinned
from experiments.docs import charts, sections
from mrg_grpo.config import load_config
from mrg_grpo.files import write_whole

RESULTS = Path("experiments/results/phantom.json")
README, SECTION = Path("README.md"), "readme results"
PICTURE = Path("docs/images/learning-curve.svg")
F1, COSINE = "f1_micro_13_uncertain_positive", "clinical_cosine"
ROWS = {
    F1: "micro F1, 13 conditions",
    COSINE: "[clinical cosine](docs/explanation/evaluation.md#metrics)",
    "format_compliance": "answers as `<think>…</think><report>…</report>`",
}
SIDES = ("before", "after")
CURVES = {"reward/mccs": "MCCS of sampled reports", "reward/format": "share in the wanted form"}
POINTS = 15
"""Of a curve of sampled reports: means of equal stretches of the run."""


def record(run: Path) -> dict:
    """What one run ended with, how it got there, and what it took."""
    config = load_config(run / "config.toml")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    began, ended = ((run / name).stat().st_mtime for name in ("config.toml", "evaluation.json"))
    return {
        "seed": config.run.seed,
        "command": f'make train SET="run.seed={config.run.seed} run.output_dir={run}"',
        "steps": len(steps),
        "minutes": round((ended - began) / 60, 1),
        "seconds_in_steps": round(sum(step["seconds/step"] for step in steps), 1),
        "peak_memory_gb": max(step["memory_gb"] for step in steps),
        "curves": {
            name: [[round(x * len(steps)), y] for x, y in thinned([step[name] for step in steps], POINTS)]
            for name in CURVES
        },
        **json.loads((run / "evaluation.json").read_text()),
    }


def section(records: Sequence[dict]) -> str:
    """What stands between README's markers: the curve beside the three rows, and the minutes."""
    seeds = len(records)
    minutes = min(one["minutes"] for one in records)  # the others had less than the whole machine
    memory = max(one["peak_memory_gb"] for one in records)
    studies = records[0]["sides"]["test split"]["studies"]
    lines = [
        f'<img src="{PICTURE}" alt="Learning curves of {seeds} seeds: both reward terms of the sampled reports" '
        'align="right" width="55%">',
        "",
        f"| test split, {seeds} seeds | before GRPO | after {records[0]['steps']} steps |",
        "|---|---|---|",
    ]
    for name, title in ROWS.items():
        before, after = (
            [one["sides"]["test split"]["metrics"][name][side]["value"] for one in records] for side in SIDES
        )
        lines.append(f"| {title} | {spread(before)} | {spread(after)} |")
    lines += [
        "",
        f"A run takes about {minutes:.0f} minutes on two free CPU cores and {memory:.1f} GB of memory: "
        f"{records[0]['steps']} steps, then {studies:,} test studies decoded before and after. Mean of {seeds} seeds, "
        "with the range where they differ; the table that a run prints has the intervals.",
    ]  # fmt: skip
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """The mean, and the smallest and largest where they differ."""
    least, most = (f"{value:.2f}" for value in (min(values), max(values)))
    mean = f"{sum(values) / len(values):.2f}"
    return mean if least == most else f"{mean} ({least} to {most})"


def picture(records: Sequence[dict]) -> str:
    """SVG: both reward terms of sampled reports, by step and seed."""
    panels = {
        title: {f"seed {one['seed']}": [(x, y) for x, y in one["curves"][name]] for one in records}
        for name, title in CURVES.items()
    }
    return charts.lines("Learning curves of the built-in model", panels)


def redraw() -> None:
    """README's table and its picture from the stored records."""
    records = json.loads(RESULTS.read_text(encoding="utf-8"))
    charts.write(PICTURE, picture(records))
    sections.rewrite(README, {SECTION: section(records)})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    write_whole(RESULTS, json.dumps([record(run) for run in parser.parse_args().runs], indent=1) + "\n")
    redraw()


if __name__ == "__main__":
    main()
