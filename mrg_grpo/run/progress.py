"""What a run shows while it runs: one progress bar, now and then a sampled report, TensorBoard if asked for.

On a terminal the bar shows reward, KL, length, seconds per phase and the time left, cut to the terminal's width.
Anywhere else (a log file, CI) there is no bar: a plain line at the first, the last and every tenth step.
Reports are printed on a terminal alone, every `run.show_every` steps, and never with `run.keep_text = false`.
Of many ranks the first shows.
"""

from __future__ import annotations

import importlib.util
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.errors import UserError
from mrg_grpo.grpo import StepResult

SHOWN = ("reward", "reward/mccs", "reward/format", "kl", "length", "loss")
PLAIN_EVERY = 10
ON_BAR = ("reward", "kl", "length")
BAR = "train {n_fmt}/{total_fmt} |{bar:10}| {remaining} left  {desc}"
BAR_WIDTH = 38
"""Columns of the bar without its description, up to four digits of steps and hours left."""


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


class Progress:
    """The display of one run, a context manager around its steps."""

    def __init__(self, config: Config, start: int = 0) -> None:
        run = config.run
        self.steps = run.steps
        hidden = None if distributed.is_first() else True
        self.bar = tqdm(total=run.steps, initial=start, disable=hidden, dynamic_ncols=True, bar_format=BAR)
        self.every = 0 if self.bar.disable or not run.keep_text else run.show_every
        board = run.tensorboard and distributed.is_first()
        self.board = board_writer(Path(run.output_dir) / "tensorboard", start) if board else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def step(self, number: int, metrics: dict[str, float], sample: Sample | None = None) -> None:
        """After each optimisation step."""
        self.bar.set_description_str(on_bar(metrics, shutil.get_terminal_size().columns - BAR_WIDTH), refresh=False)
        self.bar.update()
        if self.bar.disable and (number % PLAIN_EVERY == 0 or number in (1, self.steps)):
            print(f"step {number}/{self.steps}  {numbers(metrics)}  ({phases(metrics)})", flush=True)
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


def on_bar(metrics: dict[str, float], width: int) -> str:
    """Reward, KL, length (or loss), and as much of the seconds as there is room for."""
    shown = numbers(metrics, ON_BAR) or numbers(metrics, ("loss",))
    step = f"step {metrics['seconds/step']:.1f}s" if "seconds/step" in metrics else ""
    fits = (text for text in (f"{shown}  {phases(metrics, 1)}", f"{shown}  {step}", shown) if len(text) <= width)
    return next(fits, shown)


def numbers(metrics: dict[str, float], names: tuple[str, ...] = SHOWN) -> str:
    return "  ".join(f"{name.removeprefix('reward/')} {metrics[name]:.3g}" for name in names if name in metrics)


def phases(metrics: dict[str, float], digits: int = 2) -> str:
    """Seconds of each phase and of the whole step."""
    spent = {name.removeprefix("seconds/"): v for name, v in metrics.items() if name.startswith("seconds/")}
    return " ".join(f"{name} {value:.{digits}f}s" for name, value in spent.items())


def require_tensorboard(config: Config) -> None:
    """Say so before the run begins, not at its first step."""
    if config.run.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "run.tensorboard = true needs the package tensorboard, which is not installed: "
            ".venv/bin/pip install -c constraints.txt -e '.[log]', or set run.tensorboard = false"
        )


def board_writer(folder: Path, start: int) -> Any:
    """An event file; what an interrupted run logged after the step it resumes from is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start + 1)
