"""The command line of the files ablate_*.py.

    python experiments/ablations/ablate_rewards.py --seeds 0 1 2     # skips what is finished, goes on with the rest
    python experiments/ablations/ablate_rewards.py --quick           # core arms, seed 0, short runs
    python experiments/ablations/ablate_rewards.py --page            # rewrite the page from the records alone
    python experiments/ablations/ablate_rewards.py --config my.toml  # the same arms on your own data and model
    python experiments/ablations/ablate_rewards.py --arm mine=my_module:f   # and one with a reward of your own

Deliberate choice
* Another configuration, or one with settings (--set) or arms (--arm) of its own, has a folder of its own: records and
  page of the project are of experiments/phantom_bench.toml as it stands.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from experiments.ablations.ablation import CONFIG, QUICK, Arm, Bench, Experiment, run_all
from experiments.ablations.ablation_page import write_page
from mrg_grpo.commands import path
from mrg_grpo.config import RewardConfig
from mrg_grpo.errors import UserError
from mrg_grpo.rewards import require_terms


def main(experiment: Experiment) -> None:
    """The command line of an ablate_*.py."""
    parser = argparse.ArgumentParser(description=experiment.question)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", help="these arms alone")
    parser.add_argument("--arm", action="append", default=[], metavar="NAME=TERM", dest="own",
                        help="one more arm, whose task term is TERM, for example mine=my_module:f")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(experiment.quick)}; {' '.join(QUICK)}")
    parser.add_argument("--jobs", type=int, default=1, help="arms side by side, each on its share of the cores")
    parser.add_argument("--page", action="store_true", help="rewrite the page from the records, run nothing")
    parser.add_argument("--config", type=path, default=CONFIG, help=f"what the arms change; default {CONFIG}")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="of all arms")
    parser.add_argument(
        "--out",
        type=lambda text: Path(path(text)),
        help="folder of runs, records and page; default runs/ablations-CONFIG",
    )
    arguments = parser.parse_args()
    try:
        own = [own_arm(text) for text in arguments.own]
        experiment = replace(experiment, arms=(*experiment.arms, *own))
        core = [*experiment.quick, *(arm.name for arm in own)]
        names = arguments.arms or (core if arguments.quick else [arm.name for arm in experiment.arms])
        bench = bench_of(experiment, arguments)
        if arguments.jobs < 1:
            raise UserError(f"--jobs {arguments.jobs}: at least 1")
        pairs = [(experiment.arm(name), seed) for seed in arguments.seeds for name in names]
        if not arguments.page:
            threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # of the commands that are started
            run_all(bench, pairs, arguments.jobs)
        write_page(bench)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def own_arm(text: str) -> Arm:
    """`mine=my_module:f` -> the arm "mine", which pays by that term."""
    name, _, term = text.partition("=")
    if not re.fullmatch(r"[\w.-]+", name) or not term:
        raise UserError(f'--arm {text}: write it as name=term, for example "mine=my_module:f"')
    require_terms(RewardConfig(weights={term: 1.0}))
    return Arm(name, f"GRPO, {term}".replace("{", "{{").replace("}", "}}"), task=(term,))


def bench_of(experiment: Experiment, arguments: argparse.Namespace) -> Bench:
    """Where to: the project's own records and page, or a folder for another configuration."""
    added = (*(QUICK if arguments.quick else ()), *arguments.set)
    bench = Bench(experiment, added, arguments.config, label="quick" if arguments.quick else "")
    if Path(arguments.config) == Path(CONFIG) and not arguments.set and not arguments.out and not arguments.own:
        return bench
    if experiment.settings and Path(arguments.config) != Path(CONFIG):
        raise UserError(f"{experiment.name} is an experiment on {' '.join(experiment.settings)}; take another one")
    folder = arguments.out or Path("runs") / f"ablations-{Path(arguments.config).stem}"
    return replace(bench, runs=folder / "runs", results=folder / "records", page=folder / "ablations.md")
