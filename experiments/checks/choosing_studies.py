"""What choosing studies gains at equal reports sampled: phantom_bench.toml on phantom and phantom_rare, three seeds.

    python -m experiments.checks.choosing_studies --scratch runs/choosing      # resumable, about 100 minutes of a core

Written before any of these runs:

* all         150 steps of 64 reports on all 8,000 training studies: 9,600 reports.
* keep        the same on those of 2,000 probed studies with "spread.mccs > 0.05". The clinical term alone, since the
              start policy's spread is mostly of the form, which is learned within 30 steps. The probe samples 16,000
              reports more, once for all seeds, and is not counted.
* resample    grpo.resample_flat = 2 and 141 steps, since some 6% of the groups of `all` have no spread: about as many
              reports. The record has the number.

Judged on the 1,000 test studies, last adapter. A difference counts where its 95% interval over studies, of the mean
over the three seeds, leaves 0 out: the studies are resampled, the same ones for both arms and all seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from experiments.docs.sections import markdown_table, rewrite
from mrg_grpo.config import load_config
from mrg_grpo.evaluation.clinical import clinical_statistics, metrics_from_sums
from mrg_grpo.evaluation.intervals import bootstrap_difference
from mrg_grpo.files import write_whole
from mrg_grpo.probe import run_probe
from mrg_grpo.train import train

RESULTS, PAGE = Path("experiments/results/choosing_studies.json"), Path("docs/guides/studies.md")
CONFIG, FORMS, SEEDS, SHARE = "experiments/phantom_bench.toml", ("phantom", "phantom_rare"), (0, 1, 2), 0.25
ARMS = {
    "all": [],
    "keep": ["data.keep=spread.mccs > 0.05"],
    "resample": ["grpo.resample_flat=2", "run.steps=141"],
}
METRICS = ("f1_micro_13_uncertain_positive", "clinical_cosine")
DRAWS = 2000


def take(form: str, arm: str, seed: int, scratch: Path) -> Path:
    """The folder of a finished run."""
    folder, probe = scratch / f"{form}-{arm}-{seed}", scratch / f"{form}-probe.jsonl"
    if (folder / "evaluation.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    settings = [f"data.form={form}", "run.eval_every=0"]
    if arm == "keep":
        run_probe(load_config(CONFIG, settings), SHARE, str(probe))
        settings.append(f"data.probe={probe}")
    settings += [f"run.seed={seed}", f"run.output_dir={folder}", *ARMS[arm]]
    assert train(load_config(CONFIG, settings)) == 0
    return folder


def statistics(folder: Path) -> Tensor:
    """(S, K) of the test studies, in the order of the split."""
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    return clinical_statistics(*(torch.tensor([row[name] for row in rows]) for name in ("labels", "reference_labels")))


def figures(folder: Path) -> dict[str, float]:
    """Metrics of the test split, and of training what was sampled and how many groups had no spread."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = metrics_from_sums(statistics(folder).sum(0))
    return {
        **{name: round(float(found[name]), 4) for name in METRICS},
        "reports": sum(line.get("sampled", 64) for line in lines),
        "groups_without_spread": round(sum(line["groups_without_spread"] for line in lines) / len(lines), 4),
        "seconds_a_step": round(sum(line["seconds/step"] for line in lines) / len(lines), 3),
    }


def difference(arm: list[Tensor], base: list[Tensor]) -> dict[str, list[float]]:
    """metric -> arm minus base, mean over seeds, with its 95% interval over studies; tensors (S, K), one a seed."""

    def mean_over_seeds(sums: Tensor) -> dict[str, Tensor]:
        found = [metrics_from_sums(own) for own in sums.split(arm[0].shape[1], dim=-1)]
        return {name: sum(one[name] for one in found) / len(found) for name in METRICS}

    sides = (torch.cat(side, dim=1).double() for side in (base, arm))
    intervals = bootstrap_difference(*sides, mean_over_seeds, DRAWS)
    return {
        name: [round(float(x), 4) for x in (own.value, own.low, own.high)] for name, own in intervals.items()
    }  # fmt: skip


def markdown(found: dict) -> str:
    """The table of the guide."""
    rows = []
    for form in FORMS:
        for arm, runs in found[form]["seeds"].items():
            f1, cosine = ([run[name] for run in runs] for name in METRICS)
            minus = found[form]["minus all"].get(arm)
            less = [f"{d:+.3f} [{low:+.3f}, {high:+.3f}]" for d, low, high in minus.values()] if minus else ["", ""]
            means = [sum(run[name] for run in runs) / len(runs) for name in ("reports", "groups_without_spread")]
            rows.append((form, arm, f"{means[0]:,.0f}", f"{means[1]:.1%}", ", ".join(f"{x:.3f}" for x in f1), less[0],
                         ", ".join(f"{x:.3f}" for x in cosine), less[1]))  # fmt: skip
    head = ("data", "arm", "reports sampled", "groups without spread", "micro F1, seeds 0, 1, 2", "less `all`",
            "clinical cosine", "less `all`")  # fmt: skip
    return markdown_table(head, rows)


def redraw() -> None:
    """The table of the guide, from the record."""
    rewrite(PAGE, {"choosing studies": markdown(json.loads(RESULTS.read_text(encoding="utf-8")))})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--scratch", type=Path, required=True, help="folder of the runs; what is there is not run again"
    )
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS, help="two processes can share the work")
    given = parser.parse_args()
    given.scratch.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"command": "python -m experiments.checks.choosing_studies --scratch runs/choosing"}
    for form in given.forms:
        folders = {arm: [take(form, arm, seed, given.scratch) for seed in SEEDS] for arm in ARMS}
        tensors = {arm: [statistics(folder) for folder in own] for arm, own in folders.items()}
        found[form] = {
            "seeds": {arm: [figures(folder) for folder in own] for arm, own in folders.items()},
            "minus all": {arm: difference(tensors[arm], tensors["all"]) for arm in ARMS if arm != "all"},
        }
        print(form, json.dumps(found[form], indent=1))
    if list(given.forms) == list(FORMS):
        write_whole(RESULTS, json.dumps(found, indent=1) + "\n")
        redraw()


if __name__ == "__main__":
    main()
