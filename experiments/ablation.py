"""Ablations: arms that differ in a few settings, run with several seeds, each kept once it is finished.

An arm is a command of `mrg-grpo` and settings changed from experiments/phantom.toml. The files ablate_*.py say which
arms there are; this one runs them, `ablation_page` writes docs/ablations.md, `ablation_command` is their command line.

Deliberate choices
* Equal effort: no arm is tuned. All take the settings of experiments/phantom.toml, change what they are about, and see
  the same studies in the same order with the same seed.
* An arm is known by a fingerprint of its settings, its start and the embedded weights, so a record of other settings or
  of another labeler is never mixed in, and an arm that two experiments share runs once.
* A record holds the labels of every test study, so tables and tests can be made again without the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from ablation_record import record_of, validation_of

from mrg_grpo import embedded
from mrg_grpo.config import MccsConfig, RewardConfig, load_config
from mrg_grpo.config_text import to_toml
from mrg_grpo.errors import UserError

CONFIG = "experiments/phantom.toml"
RUNS = Path("runs/ablations")
RESULTS = Path("experiments/results/ablations")
PAGE = Path("docs/ablations.md")
COMMON = ("run.eval_studies=200", "run.follow_studies=0", "run.show_every=0", "run.rollouts_every=5")
QUICK = ("run.steps=80", "run.test_studies=300", "run.eval_studies=100")
PROBE = 12
"""Steps that measure how long a step takes, where arms are given another arm's time."""
PROBING = Lock()
"""Arms side by side that share a probe must not run it twice at once."""


@dataclass(frozen=True)
class Arm:
    """One line of a table."""

    name: str
    title: str
    settings: tuple[str, ...] = ()
    """`table.key=value`, changed from CONFIG."""
    command: str = "train"
    """train (GRPO), sft (token-level), or none: the start policy as it is."""
    start: str = ""
    """An arm of the same experiment whose adapter this one continues; "" is the embedded base."""
    same_time_as: str = ""
    """An arm of the same experiment; this one takes as many steps as fit the time of its steps, by probes of both."""
    shown: bool = True
    """False for an arm that only makes a start for others."""


@dataclass(frozen=True)
class Claim:
    """A sentence to be tested: the first arm is better than the second."""

    text: str
    better: str
    than: str
    of_paper: bool = False
    """Stands at the top of the page too."""


@dataclass(frozen=True)
class Experiment:
    name: str
    question: str
    arms: tuple[Arm, ...]
    control: str
    """The arm that all others are tested against."""
    quick: tuple[str, ...] = ()
    """Arms of the quick version."""
    claims: tuple[Claim, ...] = field(default=())
    settings: tuple[str, ...] = ()
    """Of all its arms, `table.key=value`."""
    choosing: bool = False
    """Arms to choose a default from: the final adapters also decode the whole validation split, which decides."""

    def arm(self, name: str) -> Arm:
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UserError(f"{self.name} has no arm {name}; it has {', '.join(arm.name for arm in self.arms)}")


@dataclass
class Bench:
    """Where an experiment's runs and records lie, and what is added to every arm's settings."""

    experiment: Experiment
    added: tuple[str, ...] = ()
    config: str = CONFIG
    runs: Path = RUNS
    results: Path = RESULTS
    page: Path = PAGE
    label: str = ""
    """Of the version, "quick" or "": records of versions lie apart."""

    @property
    def name(self) -> str:
        return f"{self.experiment.name}-{self.label}" if self.label else self.experiment.name

    def record_path(self, arm: Arm, seed: int) -> Path:
        return self.results / self.name / f"{arm.name}-seed{seed}.json"

    def settings(self, arm: Arm, seed: int) -> list[str]:
        return [*COMMON, *self.added, *self.experiment.settings, *arm.settings, f"run.seed={seed}"]

    def fingerprint(self, arm: Arm, seed: int) -> str:
        """Twelve hexadecimal digits of everything that the arm's numbers follow from."""
        config = load_config(self.config, self.settings(arm, seed))
        config.run.output_dir = ""
        leave_unread(config.reward, trained=arm.command == "train")
        others = [self.fingerprint(self.experiment.arm(name), seed) for name in (arm.start, arm.same_time_as) if name]
        files = (config.model.path or embedded.base_path(), config.labeler.path or embedded.labeler_path())
        whole = [arm.command, to_toml(config), bool(arm.start), *others, *(digest(str(file)) for file in files)]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:12]


def leave_unread(reward: RewardConfig, trained: bool) -> None:
    """Settings of the cosine terms that no weighted term reads get one value: a new default makes no new arm."""
    cosine, signed, margin = (
        trained and any(reward.weights.get(name) for name in names)
        for names in (("mccs", "ccs", "unsigned_cosine"), ("mccs", "ccs"), ("mccs",))
    )
    reward.mccs = MccsConfig(
        margin=reward.mccs.margin if margin else 0.0,
        weighting=reward.mccs.weighting if signed else "none",
        zero_vectors=reward.mccs.zero_vectors if cosine else 1.0,
    )


@cache
def digest(path: str) -> str:
    """sha256 of a weights file, or of the safetensors of a folder; of a name on a hub, the name."""
    if not Path(path).exists():
        return path
    total = hashlib.sha256()
    for file in sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else [Path(path)]:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def finished(bench: Bench, arm: Arm, seed: int) -> dict[str, Any] | None:
    """The arm's kept record: its own, or that of an experiment which ran the same; None if it is still to be run."""
    wanted, own = bench.fingerprint(arm, seed), bench.record_path(arm, seed)
    others = sorted(path for path in bench.results.glob(f"*/*-seed{seed}.json") if path != own)
    for path in ([own] if own.exists() else []) + others:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["fingerprint"] == wanted:
            if path != own:
                record |= {"arm": arm.name, "title": arm.title}
                keep(own, record)
            return record
        if path == own:
            print(f"{own}: of other settings or weights; it is made anew")
    return None


def keep(path: Path, record: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def run_arm(bench: Bench, arm: Arm, seed: int) -> dict[str, Any]:
    """The arm's record, from its file if it is finished; else the arm is run, or goes on where it was stopped."""
    record, folder = finished(bench, arm, seed), bench.runs / bench.fingerprint(arm, seed)
    missing = bench.experiment.choosing and "validation" not in (record or {})
    if record is None or (missing and not (folder / "adapter").is_dir()):
        record = run_anew(bench, arm, seed, folder)
    else:
        print(f"{bench.name}: {arm.name} seed {seed} is finished", flush=True)
    if missing:
        settings, output = bench.settings(arm, seed), folder / "evaluate-val"
        words = ["evaluate", bench.config, *options(settings), "--adapter", str(folder / "adapter")]
        call([*words, "--split", "val", "-o", str(output)])
        record |= {"validation": validation_of(output, load_config(bench.config, settings))}
        keep(bench.record_path(arm, seed), record)
    return record


def run_anew(bench: Bench, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """The arm's run, after what it builds on, and its record."""
    print(f"{bench.name}: {arm.name} seed {seed}: {arm.title}", flush=True)
    settings = bench.settings(arm, seed)
    if arm.start:
        run_arm(bench, bench.experiment.arm(arm.start), seed)
        settings.append(f"model.adapter={adapter_of(bench, bench.experiment.arm(arm.start), seed)}")
    if arm.same_time_as:
        settings.append(f"run.steps={steps_in_time(bench, arm, seed, folder, settings)}")
    command = carry_out(bench, arm, folder, settings)
    config = load_config(bench.config, settings)
    record = {
        "arm": arm.name, "title": arm.title, "seed": seed, "fingerprint": bench.fingerprint(arm, seed),
        "command": command, "config": to_toml(config), **record_of(folder, arm.command, config),
    }  # fmt: skip
    keep(bench.record_path(arm, seed), record)
    return record


def adapter_of(bench: Bench, arm: Arm, seed: int) -> Path:
    """The adapter of a finished arm; its run folder is needed, a record is not enough."""
    adapter = bench.runs / bench.fingerprint(arm, seed) / "adapter"
    if not adapter.is_dir():
        raise UserError(f"{adapter} is gone; delete {bench.record_path(arm, seed)} and run again")
    return adapter


def carry_out(bench: Bench, arm: Arm, folder: Path, settings: list[str]) -> str:
    """Run the arm's command to its end, unless it was; the command line. A stop by signal ends this program too."""
    steps = load_config(bench.config, settings).run.steps
    settings = [*settings, f"run.eval_every={max(1, steps // 5)}", f"run.output_dir={folder}"]
    words = ["evaluate" if arm.command == "none" else arm.command, bench.config]
    words += options(settings)
    shown = shlex.join(["mrg-grpo", *words])
    done = folder / "evaluation.json"
    if done.exists():
        return shown
    more = ["--base"] if arm.command == "none" else ["--resume"] if (folder / "config.toml").exists() else []
    call([*words, *more])
    return shown


def options(settings: Sequence[str]) -> list[str]:
    """Settings as a command line has them."""
    return [word for setting in settings for word in ("--set", setting)]


def call(words: Sequence[str]) -> None:
    code = subprocess.run([sys.executable, "-m", "mrg_grpo", *words], check=False).returncode
    if code != 0:
        raise SystemExit(code if code > 0 else 128 - code)


def steps_in_time(bench: Bench, arm: Arm, seed: int, folder: Path, settings: list[str]) -> int:
    """Steps that fit the time of the other arm's; a stopped run keeps what it began with.

    By a few steps of both, one right after the other: the seconds of whole runs are of whatever else the machine did.
    """
    if (folder / "config.toml").exists():
        return load_config(folder / "config.toml").run.steps
    other = bench.experiment.arm(arm.same_time_as)
    theirs = bench.settings(other, seed)
    # one pair of probes for all arms of this command and form: their steps cost the same
    name = bench.fingerprint(other, seed)
    form = "" if load_config(bench.config, settings).prompt.think else "-no-think"
    with PROBING:
        slow = seconds_of_a_step(bench, other.command, theirs, bench.runs / f"{name}-probe")
        fast = seconds_of_a_step(bench, arm.command, settings, bench.runs / f"{name}-{arm.command}{form}-probe")
    return max(1, round(load_config(bench.config, theirs).run.steps * slow / fast))


def seconds_of_a_step(bench: Bench, command: str, settings: Sequence[str], folder: Path) -> float:
    """Median of PROBE steps of the command, without the first ones, which warm up."""
    if not (folder / "evaluation.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # stopped half-way
        more = [f"run.output_dir={folder}", f"run.steps={PROBE}", "run.eval_every=0", "run.test_studies=2"]
        call([command, bench.config, *options([*settings, *more])])
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return statistics.median([json.loads(line)["seconds/step"] for line in lines][2:])


def run_all(bench: Bench, pairs: Sequence[tuple[Arm, int]], jobs: int) -> None:
    """Arms and seeds, `jobs` at a time; those that others build on come first, so that none is run twice at once."""

    needed = [(bench.experiment.arm(arm.start), seed) for arm, seed in pairs if arm.start]
    first = list(dict.fromkeys([*needed, *(pair for pair in pairs if not pair[0].start)]))
    later = [pair for pair in pairs if pair not in first]
    for wave in (first, later):
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(run_arm, bench, *pair) for pair in wave]
            try:
                for one in running:
                    one.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
