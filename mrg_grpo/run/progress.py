"""What a run shows while it runs: one progress bar, now and then a sampled report.

On a terminal the bar shows reward, KL, length, seconds per phase and the time left, as many as there is room for.
Anywhere else (a log file, CI) there is no bar: a plain line at the first, the last and every tenth step, with the time
left and every term of the reward.
Reports are printed on a terminal alone, every `run.show_every` steps, and never with `run.keep_text = false`.
Of many ranks the first shows.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass

from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.grpo import StepResult
from mrg_grpo.terminal import columns, time_left, wrap

PLAIN_EVERY = 10
ON_BAR = ("reward", "kl", "length")
BAR = "train {n_fmt}/{total_fmt} |{bar:10}| {remaining} left  {desc}"
BAR_WIDTH = 38
"""Columns of the bar without its description, up to four digits of steps and hours left."""
WIDEST = 100
"""Columns of a sampled report, where the terminal has more."""


@dataclass(frozen=True)
class Sample:
    """One sampled report beside its reference."""

    study_id: str
    completion: str
    reference: str
    reward: float
    advantage: float

    def text(self, step: int, room: int = WIDEST) -> str:
        head = f"step {step}, {printable(self.study_id)}: reward {self.reward:.3f}, advantage {self.advantage:+.2f}"
        parts = (("sampled", self.completion), ("reference", self.reference))
        texts = (wrap(printable(words), room, f"  {name:<10}", " " * 12) for name, words in parts)
        return "\n".join([wrap(head, room), *texts])


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
        self.steps, self.start, self.began = run.steps, start, time.monotonic()
        hidden = None if distributed.is_first() else True
        self.bar = tqdm(total=run.steps, initial=start, disable=hidden, dynamic_ncols=True, bar_format=BAR)
        self.every = 0 if self.bar.disable or not run.keep_text else run.show_every

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def step(self, number: int, metrics: dict[str, float], sample: Sample | None = None) -> None:
        """After each optimisation step."""
        self.bar.set_description_str(on_bar(metrics, shutil.get_terminal_size().columns - BAR_WIDTH), refresh=False)
        self.bar.update()
        if self.bar.disable and (number % PLAIN_EVERY == 0 or number in (1, self.steps)):
            spent = "skipped" if metrics.get("skipped") else f"({phases(metrics)})"
            parts = (f"step {number}/{self.steps}", self.left(number), numbers(metrics), spent)
            print("  ".join(filter(None, parts)), flush=True)
        if sample and self.every and number % self.every == 0:
            self.write(sample.text(number, min(columns() or WIDEST, WIDEST)))

    def left(self, number: int) -> str:
        """The time to the last step, as the steps of this process went; evaluation and tests come on top."""
        spent, done = time.monotonic() - self.began, number - self.start
        return time_left(spent, done, self.steps - self.start) if number < self.steps else ""

    def validation(self, number: int, values: dict[str, float]) -> None:
        """After each periodic validation."""
        shown = (("micro-F1", "f1_micro_13_uncertain_positive"), ("clinical cosine", "clinical_cosine"),
                 ("format", "format_compliance"))  # fmt: skip
        texts = (f"{title} " + ("-" if math.isnan(values[name]) else f"{values[name]:.3f}") for title, name in shown)
        self.write(f"validation after step {number}: {', '.join(texts)}")

    def write(self, text: str) -> None:
        """A line above the bar."""
        self.bar.write(text)


def on_bar(metrics: dict[str, float], room: int) -> str:
    """Reward, KL, length (or loss) and the seconds, as many of them as there is room for."""
    step = f"step {metrics['seconds/step']:.1f}s" if "seconds/step" in metrics else ""
    named = [numbers(metrics, ON_BAR[:count]) for count in range(len(ON_BAR), 0, -1)]
    named = named if named[0] else [numbers(metrics, ("loss",))]
    fits = (f"{named[0]}  {phases(metrics, 1)}", f"{named[0]}  {step}", *named)
    return next((text for text in fits if len(text) <= room), "")


def numbers(metrics: dict[str, float], names: tuple[str, ...] = ()) -> str:
    """These metrics; without names the reward and each of its terms, KL, length and loss."""
    spreads = {f"{name}_std" for name in metrics}
    terms = (name for name in metrics if name.startswith("reward/") and name not in spreads)
    shown = (name for name in names or ("reward", *terms, "kl", "length", "loss") if name in metrics)
    return "  ".join(f"{name.removeprefix('reward/')} {metrics[name]:.3g}" for name in shown)


def phases(metrics: dict[str, float], digits: int = 2) -> str:
    """Seconds of each phase and of the whole step."""
    spent = {name.removeprefix("seconds/"): v for name, v in metrics.items() if name.startswith("seconds/")}
    return " ".join(f"{name} {value:.{digits}f}s" for name, value in spent.items())
