"""Record finished runs of the embedded default and print the table of the README.

for s in 0 1 2; do make train SET="run.seed=$s run.output_dir=runs/seed$s"; done
python experiments/ablations/collect_seeds.py runs/seed0 runs/seed1 runs/seed2 -o experiments/results/phantom.json
"""

import argparse
import json
from pathlib import Path

from mrg_grpo.config import load_config

ROWS = (
    ("test split", "f1_micro_13_uncertain_positive", "micro CE-F1, 13 conditions"),
    ("test split", "clinical_cosine", "clinical cosine"),
    ("test split", "format_compliance", "format compliance"),
    ("both reports keep to the form", "f1_micro_13_uncertain_positive", "micro CE-F1 where both keep to the form"),
    ("judged by the generator's own reader", "f1_micro_13_uncertain_positive", "micro CE-F1 by the generator's reader"),
)


def record(run: Path) -> dict:
    """What one run ended with, and what it took."""
    config = load_config(run / "config.toml")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "seed": config.run.seed,
        "command": f'make train SET="run.seed={config.run.seed} run.steps={config.run.steps} run.output_dir={run}"',
        "steps": len(steps),
        "seconds_in_steps": round(sum(step["seconds/step"] for step in steps), 1),
        "peak_memory_gb": max(step["memory_gb"] for step in steps),
        **json.loads((run / "evaluation.json").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    records = [record(run) for run in arguments.runs]
    arguments.output.write_text(json.dumps(records, indent=1) + "\n")
    print("| metric, test studies | " + " | ".join(f"seed {r['seed']}" for r in records) + " |")
    print("|---|" + "---|" * len(records))
    for side, name, title in ROWS:
        cells = []
        for one in records:
            row = one["sides"][side]["metrics"][name]
            d = row["difference"]
            change = f"{d['value']:+.3f} [{d['low']:.3f}, {d['high']:.3f}]"
            cells.append(f"{row['before']['value']:.3f} -> {row['after']['value']:.3f}, {change}")
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
