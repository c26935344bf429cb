"""Ablations: arms that differ in a few settings, run with several seeds, each kept once it is finished.

An arm is a command of `mrg-grpo` and settings changed from experiments/phantom_bench.toml. The files ablate_*.py say
which arms there are; this one runs them, `ablation_file` keeps their records, `ablation_page` writes the page of them
(PAGE), `ablation_command` is their command line.

Deliberate choices
* Equal effort: no arm is tuned. All take the settings of experiments/phantom_bench.toml, change what they are about,
  and see the same studies in the same order with the same seed.
* An arm that is about the reward replaces the whole table of weights: its own terms share the weight that the
  configuration gives to its task terms, and every other term keeps its weight in every arm.
* An arm is finished when there is a record of the same origin (`ablation_origin`: command, settings, weights), so
  one of other settings or of another labeler is never mixed in, and an arm that two experiments share runs once.
* A record holds the labels of every test study, so tables and tests can be made again without the run.
"""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

from experiments.ablations import ablation_file
from experiments.ablations.ablation_origin import Origin, claim, configuration, holds, origin, same
from experiments.ablations.ablation_record import record_of, validation_of
from mrg_grpo.config import load_config
from mrg_grpo.errors import UserError
from mrg_grpo.toml import to_toml

CONFIG = "experiments/phantom_bench.toml"
RUNS = Path("runs/ablations")
RESULTS = Path("experiments/results/ablations")
PAGE = Path("docs/results/ablations.md")
COMMON = ("run.eval_studies=200", "run.follow_studies=0", "run.show_every=0", "run.rollouts_every=5")
TASK_TERMS = ("mccs", "ccs", "unsigned_cosine", "clinical", "ce_f1", "bleu", "rouge_l")
"""Terms that say how good a report is: those that an arm about the reward replaces."""
QUICK = ("run.steps=80", "run.test_studies=300", "run.eval_studies=100")
ROUNDS, PROBE, WARM_UP = 3, 16, 6
"""How long steps take, where arms are given another arm's time: rounds of this many steps, the first ones left out."""


@dataclass(frozen=True)
class Arm:
    """One line of a table."""

    name: str
    title: str
    """In it {margin} stands for the margin that the arm has."""
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
    task: tuple[str, ...] | None = None
    """Terms that share the weight of the task equally, in place of the configuration's own; None keeps those."""
    form: bool = True
    """False leaves the format term out."""


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
    about: str
    """What a reader learns from it, in two sentences under the heading."""
    arms: tuple[Arm, ...]
    control: str
    """The arm that all others are tested against."""
    quick: tuple[str, ...] = ()
    """Arms of the quick version."""
    claims: tuple[Claim, ...] = field(default=())
    settings: tuple[str, ...] = ()
    """Of all its arms, `table.key=value`."""
    overview: Mapping[str, str] = field(default_factory=dict)
    """The arms that answer most of the question at one look, from the top, and what they are trained by; {} draws no
    such picture."""
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
    side_by_side: bool = False
    """Whether arms run at once, so that each line of their output must name its arm."""

    @property
    def name(self) -> str:
        return f"{self.experiment.name}-{self.label}" if self.label else self.experiment.name

    @property
    def file(self) -> Path:
        """Of its records."""
        return self.results / f"{self.name}{ablation_file.SUFFIX}"

    def folder(self, arm: Arm, seed: int) -> Path:
        """Of its run."""
        return self.runs / self.name / key(arm, seed)

    def settings(self, arm: Arm, seed: int) -> list[str]:
        common = [*COMMON, *self.added, *self.experiment.settings]
        return [*common, *reward_of(arm, self.config, common), *resolved(arm.settings, self.config, common),
                f"run.seed={seed}"]  # fmt: skip

    def title(self, arm: Arm) -> str:
        """As it is written on the page."""
        return arm.title.format(margin=f"{load_config(self.config, self.settings(arm, 0)).reward.mccs.margin:g}")

    def settled(self, arm: Arm, seed: int) -> list[str]:
        """With the steps of an arm that has another's time, once steps are measured."""
        known = arm.same_time_as and ablation_file.read(self.file)["step_seconds"]
        return [*self.settings(arm, seed), *([f"run.steps={steps_in_time(self, arm, seed)}"] if known else [])]

    def origin(self, arm: Arm, seed: int) -> Origin:
        """What the arm's numbers follow from, as it is now."""
        start, other = (
            self.origin(self.experiment.arm(name), seed) if name else None for name in (arm.start, arm.same_time_as)
        )
        return origin(arm.command, load_config(self.config, self.settled(arm, seed)), start, other)


def key(arm: Arm, seed: int) -> str:
    """The name of a record and of a run's folder."""
    return f"{arm.name}-seed{seed}"


def reward_of(arm: Arm, path: str, common: Sequence[str]) -> list[str]:
    """The arm's whole table of weights as a setting; none where it has the configuration's own."""
    if arm.task is None and arm.form:
        return []
    weights = arm_weights(load_config(path, list(common)).reward.weights, arm)
    return [f"reward.weights={{ {', '.join(f'{json.dumps(name)} = {weight!r}' for name, weight in weights.items())} }}"]


def arm_weights(own: Mapping[str, float], arm: Arm) -> dict[str, float]:
    """The configuration's weights with the arm's terms in the place of its task terms, at their weight together."""
    task = {name: weight for name, weight in own.items() if name in TASK_TERMS and weight}
    others = {name: weight for name, weight in own.items() if name not in TASK_TERMS and weight}
    if not arm.form:
        others.pop("format", None)
    if arm.task is None:
        return {**task, **others}
    if not task:
        raise UserError(
            f"reward.weights: none of {', '.join(TASK_TERMS)} has a weight, which {arm.name} would take over"
        )
    return {**{name: sum(task.values()) / len(arm.task) for name in arm.task}, **others}


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


def finished(bench: Bench, arm: Arm, seed: int) -> dict[str, Any] | None:
    """The arm's kept record: its own, or that of an arm which ran the same; None if it is still to be run."""
    wanted = bench.origin(arm, seed)
    own = ablation_file.read(bench.file)["records"].get(key(arm, seed))
    if own and same(own, wanted):
        return own
    if own:
        print(f"{bench.name}: the record of {arm.name} seed {seed} is of other settings or weights; it is made anew")
    for path in sorted(bench.results.glob(f"*{ablation_file.SUFFIX}")):
        for record in ablation_file.read(path)["records"].values():
            if record["seed"] == seed and same(record, wanted):
                return keep(bench, arm, record)
    return None


def keep(bench: Bench, arm: Arm, record: dict[str, Any]) -> dict[str, Any]:
    """The record, kept under the arm's name."""
    record = {**record, "arm": arm.name, "title": bench.title(arm)}
    ablation_file.keep(bench.file, records={key(arm, record["seed"]): record})
    return record


def adapter_of(record: dict[str, Any]) -> Path | None:
    """Where the record's run left its adapter; None if that is gone, or another run's by now."""
    folder = Path(configuration(record).run.output_dir)
    return folder / "adapter" if holds(folder, record) and (folder / "adapter").is_dir() else None


def run_arm(bench: Bench, arm: Arm, seed: int, adapter: bool = False) -> dict[str, Any]:
    """The arm's record if it is finished; else the arm is run, or goes on where it was stopped.

    adapter: the adapter of its run is needed too, and the arm is run again where that is gone.
    """
    if arm.same_time_as:
        step_seconds(bench)  # its steps are of its origin
    record = finished(bench, arm, seed)
    unjudged = bench.experiment.choosing and "validation" not in (record or {})
    if record is None or ((adapter or unjudged) and not adapter_of(record)):
        record = run_anew(bench, arm, seed)
    else:
        print(f"{bench.name}: {arm.name} seed {seed} is finished", flush=True)
    if unjudged:
        settings, where = bench.settings(arm, seed), adapter_of(record)
        assert where is not None
        output = where.with_name("evaluate-val")
        words = ["evaluate", bench.config, *options(settings), "--adapter", str(where)]
        call([*words, "--split", "val", "-o", str(output)], key(arm, seed) if bench.side_by_side else "")
        validation = validation_of(output, load_config(bench.config, settings))
        record = keep(bench, arm, {**record, "validation": validation})
    return record


def run_anew(bench: Bench, arm: Arm, seed: int) -> dict[str, Any]:
    """The arm's run, after what it builds on, and its record."""
    print(f"{bench.name}: {arm.name} seed {seed}: {bench.title(arm)}", flush=True)
    folder, wanted = bench.folder(arm, seed), bench.origin(arm, seed)
    settings = [*bench.settled(arm, seed), *from_start(bench, arm, seed)]
    asked = load_config(bench.config, settings).run
    every = max(1, asked.steps // 5) if asked.eval_every else 0
    settings += [f"run.eval_every={every}", f"run.output_dir={folder}"]
    if folder.exists() and not holds(folder, wanted):
        print(f"{folder}: a run of other settings or weights; it is made anew", flush=True)
        shutil.rmtree(folder)
    claim(folder, wanted)
    command = carry_out(bench, arm, seed, settings)
    config = load_config(bench.config, settings)
    record = {"seed": seed, "command": command, **wanted, "config": to_toml(config)}
    return keep(bench, arm, {**record, **record_of(folder, arm.command, config)})


def from_start(bench: Bench, arm: Arm, seed: int) -> list[str]:
    """What makes it go on from the arm that it starts from, which is run first if its adapter is not there."""
    if not arm.start:
        return []
    record = run_arm(bench, bench.experiment.arm(arm.start), seed, adapter=True)
    return [f"model.adapter={adapter_of(record)}"]


def carry_out(bench: Bench, arm: Arm, seed: int, settings: list[str]) -> str:
    """Run the arm's command to its end, unless it was; the command line. A stop by signal ends this program too."""
    folder, name = bench.folder(arm, seed), key(arm, seed) if bench.side_by_side else ""
    words = ["evaluate" if arm.command == "none" else arm.command, bench.config]
    words += options(settings)
    done = (folder / "evaluation.json").exists() and (arm.command == "none" or (folder / "adapter").is_dir())
    if not done:
        more = ["--resume"] if (folder / "config.toml").exists() else []
        call([*words, *(["--base", "-o", str(folder)] if arm.command == "none" else more)], name)
    return shlex.join(["mrg-grpo", *words])


def options(settings: Sequence[str]) -> list[str]:
    """Settings as a command line has them."""
    return [word for setting in settings for word in ("--set", setting)]


def call(words: Sequence[str], name: str = "") -> None:
    """Run a command of `mrg-grpo`; with a name, each line of its output begins with that."""
    command = [sys.executable, "-m", "mrg_grpo", *words]
    code = named_output(command, name) if name else subprocess.run(command, check=False).returncode
    if code != 0:
        raise SystemExit(code if code > 0 else 128 - code)


def named_output(command: Sequence[str], name: str) -> int:
    """Run a command, its lines with the name in front; the exit code."""
    with subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, text=True) as process:
        for line in process.stdout or ():
            print(f"{name}: {line}", end="", flush=True)
    return process.returncode


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
    if known := ablation_file.read(bench.file)["step_seconds"]:
        return known
    timed = [arm for arm in bench.experiment.arms if arm.same_time_as]
    others = [bench.experiment.arm(arm.same_time_as) for arm in timed]
    kinds = {kind(bench, arm): arm for arm in reversed([*others, *timed])}
    found: dict[str, list[float]] = {name: [] for name in sorted(kinds)}
    for turn in range(ROUNDS):
        for name in found:
            folder = bench.runs / bench.name / f"seconds-{name.replace(', ', '-').replace(' ', '-')}-{turn}"
            found[name].append(round(seconds_of_a_step(bench, kinds[name], folder), 4))
    ablation_file.keep(bench.file, step_seconds=found)
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
    bench = replace(bench, side_by_side=jobs > 1)
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
