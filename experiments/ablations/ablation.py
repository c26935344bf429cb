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
from typing import Any

from experiments.ablations.ablation_record import record_of, validation_of
from mrg_grpo import embedded
from mrg_grpo.config import MccsConfig, RewardConfig, load_config
from mrg_grpo.errors import UserError
from mrg_grpo.toml import to_toml

CONFIG = "experiments/phantom.toml"
RUNS = Path("runs/ablations")
RESULTS = Path("experiments/results/ablations")
PAGE = Path("docs/ablations.md")
COMMON = ("run.eval_studies=200", "run.follow_studies=0", "run.show_every=0", "run.rollouts_every=5")
QUICK = ("run.steps=80", "run.test_studies=300", "run.eval_studies=100")
ROUNDS, PROBE, WARM_UP = 3, 16, 6
"""How long steps take, where arms are given another arm's time: rounds of this many steps, the first ones left out."""


@dataclass(frozen=True)
class Arm:
    """One line of a table."""

    name: str
    title: str
    settings: tuple[str, ...] = ()
    """`table.key=value`, changed from the configuration; `table.key=@other.key` takes the value that it has there."""
    command: str = "train"
    """train (GRPO), sft (token-level), or none: the start policy as it is."""
    start: str = ""
    """An arm of the same experiment whose adapter this one continues; "" is the embedded base."""
    same_time_as: str = ""
    """An arm of the same experiment; this one takes as many steps as fit the time of its steps (`step_seconds`)."""
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

    @property
    def seconds_path(self) -> Path:
        return self.results / self.name / "step_seconds.json"

    def settings(self, arm: Arm, seed: int) -> list[str]:
        common = [*COMMON, *self.added, *self.experiment.settings]
        return [*common, *resolved(arm.settings, self.config, common), f"run.seed={seed}"]

    def fingerprint(self, arm: Arm, seed: int) -> str:
        """Twelve hexadecimal digits of everything that the arm's numbers follow from."""
        config = load_config(self.config, self.settings(arm, seed))
        config.run.output_dir = ""
        leave_unread(config.reward, trained=arm.command == "train")
        others = [self.fingerprint(self.experiment.arm(name), seed) for name in (arm.start, arm.same_time_as) if name]
        if arm.same_time_as and self.seconds_path.exists():
            others.append(str(steps_in_time(self, arm, seed)))
        files = (config.model.path or embedded.base_path(), config.labeler.path or embedded.labeler_path())
        whole = [arm.command, to_toml(config), bool(arm.start), *others, *(digest(str(file)) for file in files)]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:12]


def resolved(settings: Sequence[str], path: str, common: Sequence[str]) -> list[str]:
    """`sft.learning_rate=@grpo.learning_rate` -> the number that the configuration has there."""
    if not any("=@" in setting for setting in settings):
        return list(settings)
    config, plain = load_config(path, list(common)), []
    for setting in settings:
        key, _, value = setting.partition("=")
        if value.startswith("@"):
            table, name = value[1:].split(".")
            value = getattr(getattr(config, table), name)
        plain.append(f"{key}={value}")
    return plain


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
    if arm.same_time_as:
        step_seconds(bench)  # its steps are of its fingerprint
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
    settings = [*bench.settings(arm, seed), *from_start(bench, arm, seed)]
    if arm.same_time_as:
        settings.append(f"run.steps={steps_in_time(bench, arm, seed)}")
    command = carry_out(bench, arm, folder, settings)
    config = load_config(bench.config, settings)
    record = {
        "arm": arm.name, "title": arm.title, "seed": seed, "fingerprint": bench.fingerprint(arm, seed),
        "command": command, "config": to_toml(config), **record_of(folder, arm.command, config),
    }  # fmt: skip
    keep(bench.record_path(arm, seed), record)
    return record


def from_start(bench: Bench, arm: Arm, seed: int) -> list[str]:
    """What makes it go on from the arm that it starts from, which is run first; that run's folder is needed."""
    if not arm.start:
        return []
    arm = bench.experiment.arm(arm.start)
    run_arm(bench, arm, seed)
    adapter = bench.runs / bench.fingerprint(arm, seed) / "adapter"
    if not adapter.is_dir():
        raise UserError(f"{adapter} is gone; delete {bench.record_path(arm, seed)} and run again")
    return [f"model.adapter={adapter}"]


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
    more = ["--resume"] if (folder / "config.toml").exists() else []
    if arm.command == "none":
        more = ["--base", "-o", str(folder)]
    call([*words, *more])
    return shown


def options(settings: Sequence[str]) -> list[str]:
    """Settings as a command line has them."""
    return [word for setting in settings for word in ("--set", setting)]


def call(words: Sequence[str]) -> None:
    code = subprocess.run([sys.executable, "-m", "mrg_grpo", *words], check=False).returncode
    if code != 0:
        raise SystemExit(code if code > 0 else 128 - code)


def steps_in_time(bench: Bench, arm: Arm, seed: int) -> int:
    """Steps that fit the time of the other arm's; the same for every seed."""
    other = bench.experiment.arm(arm.same_time_as)
    slow, fast = (statistics.median(step_seconds(bench)[kind(bench, one)]) for one in (other, arm))
    return max(1, round(load_config(bench.config, bench.settings(other, seed)).run.steps * slow / fast))


def kind(bench: Bench, arm: Arm) -> str:
    """Arms of one command and form take equally long for a step."""
    think = load_config(bench.config, bench.settings(arm, 0)).prompt.think
    return f"{arm.command}, {'think and report' if think else 'report alone'}"


def step_seconds(bench: Bench) -> dict[str, list[float]]:
    """Mean seconds of a step by kind of arm, one number per round; measured once, then read from the experiment's file.

    One kind after the other, round after round, so that what else the machine does meets all of them: the seconds of
    whole runs are those of very different hours.
    """
    if bench.seconds_path.exists():
        return json.loads(bench.seconds_path.read_text(encoding="utf-8"))
    timed = [arm for arm in bench.experiment.arms if arm.same_time_as]
    others = [bench.experiment.arm(arm.same_time_as) for arm in timed]
    kinds = {kind(bench, arm): arm for arm in reversed([*others, *timed])}
    found: dict[str, list[float]] = {name: [] for name in sorted(kinds)}
    for turn in range(ROUNDS):
        for name in found:
            folder = bench.runs / f"{bench.name}-seconds" / f"{name.replace(', ', '-').replace(' ', '-')}-{turn}"
            found[name].append(round(seconds_of_a_step(bench, kinds[name], folder), 4))
    keep(bench.seconds_path, found)
    return found


def seconds_of_a_step(bench: Bench, arm: Arm, folder: Path) -> float:
    """Mean of PROBE steps of the arm, without the first ones, which warm up."""
    if not (folder / "evaluation.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # stopped half-way
        more = [f"run.output_dir={folder}", f"run.steps={PROBE}", "run.eval_every=0", "run.test_studies=2"]
        call([arm.command, bench.config, *options([*bench.settings(arm, 0), *from_start(bench, arm, 0), *more])])
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return statistics.mean([json.loads(line)["seconds/step"] for line in lines][WARM_UP:])


def run_all(bench: Bench, pairs: Sequence[tuple[Arm, int]], jobs: int) -> None:
    """Arms and seeds, `jobs` at a time; those that others build on come first, so that none is run twice at once."""

    if any(arm.same_time_as for arm, _ in pairs):
        step_seconds(bench)  # while nothing else runs
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
