"""What a run shows while it runs: one progress bar, now and then a sampled report, TensorBoard if asked for.

On a terminal the bar shows reward, KL, length, seconds per phase and the time left, cut to the terminal's width.
Anywhere else (a log file, CI) there is no bar: a plain line at the first, the last and every tenth step.
Reports are printed on a terminal alone, every `run.show_every` steps, and never with `run.keep_text = false`.
"""

from __future__ import annotations

import importlib.util
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mrg_grpo.config import Config
from mrg_grpo.errors import UserError
from mrg_grpo.grpo import StepResult

SHOWN = ("reward", "reward/mccs", "reward/format", "kl", "length", "loss")
PLAIN_EVERY = 10
BAR = "{desc} {n_fmt}/{total_fmt} |{bar:16}| {remaining} left  {postfix}"


@dataclass(frozen=True)
class Sample:
    """One sampled report beside its reference."""

    study_id: str
    completion: str
    reference: str
    reward: float
    advantage: float

    def text(self, step: int, width: int = 100) -> str:
        head = f"step {step}, {self.study_id}: reward {self.reward:.3f}, advantage {self.advantage:+.2f}"
        parts = (("sampled", self.completion), ("reference", self.reference))
        wrap = lambda name, words: textwrap.fill(  # noqa: E731
            printable(words), width, initial_indent=f"  {name:<10}", subsequent_indent=" " * 12
        )
        return "\n".join([head, *(wrap(name, words) for name, words in parts)])


def first_sample(result: StepResult) -> Sample:
    """The first report of the step's first group: taken by place, not by merit."""
    reports = result.table.reports
    return Sample(
        reports.studies[0].id,
        reports.completions[0],
        reports.studies[0].report,
        float(result.table.total[0]),
        float(result.advantages[0, 0]),
    )


def printable(text: str) -> str:
    """One line without control characters: a sampled token must not be able to steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


class Live:
    """The display of one run, a context manager around its steps."""

    def __init__(self, config: Config, start: int = 0) -> None:
        run = config.run
        self.steps = run.steps
        self.bar = tqdm(total=run.steps, initial=start, desc="train", disable=None, dynamic_ncols=True, bar_format=BAR)
        self.every = 0 if self.bar.disable or not run.keep_text else run.show_every
        self.board = board_writer(Path(run.output_dir) / "tensorboard", start) if run.tensorboard else None

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def step(self, number: int, metrics: dict[str, float], sample: Sample | None = None) -> None:
        """After each optimisation step."""
        self.bar.set_postfix_str(
            numbers(metrics) + "  " + phases(metrics, shutil.get_terminal_size().columns >= 140), refresh=False
        )
        self.bar.update()
        if self.bar.disable and (number % PLAIN_EVERY == 0 or number in (1, self.steps)):
            print(f"step {number}/{self.steps}  {numbers(metrics)}  ({phases(metrics, whole=True)})", flush=True)
        if sample and self.every and number % self.every == 0:
            self.write(sample.text(number))
        if self.board is not None:
            for name, value in metrics.items():
                self.board.add_scalar(name, value, number)

    def validation(self, number: int, values: dict[str, float]) -> None:
        """After each periodic validation."""
        f1, cosine = values["f1_micro_13_uncertain_positive"], values["clinical_cosine"]
        form = values["format_compliance"]
        self.write(
            f"validation after step {number}: micro-F1 {f1:.3f}, clinical cosine {cosine:.3f}, format {form:.3f}"
        )
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"validation/{name}", value, number)

    def write(self, text: str) -> None:
        """A line above the bar."""
        self.bar.write(text)


def numbers(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name.removeprefix('reward/')} {metrics[name]:.3g}" for name in SHOWN if name in metrics)


def phases(metrics: dict[str, float], whole: bool) -> str:
    """Seconds per phase, or of the whole step alone where there is no room."""
    spent = {k.removeprefix("seconds/"): v for k, v in metrics.items() if k.startswith("seconds/")}
    return " ".join(f"{name} {value:.2f}s" for name, value in spent.items() if whole or name == "step")


def require_tensorboard(config: Config) -> None:
    """Say so before the run begins, not at its first step."""
    if config.run.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "run.tensorboard = true needs the package tensorboard, which is not installed: "
            "pip install 'mrg_grpo[log]', or set run.tensorboard = false"
        )


def board_writer(folder: Path, start: int) -> Any:
    """An event file; what an interrupted run logged after the step it resumes from is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start + 1)
