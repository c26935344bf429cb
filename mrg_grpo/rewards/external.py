"""Optional rewards and metrics by dotted path, with TRL's signature: `f(completions, **columns) -> list[float | None]`.

Anything made for TRL plugs in unchanged: "package.module:function" or "package.module.function". Columns, one entry per
completion:

    prompts           the question; "" in `mrg-grpo score`
    reports           what stood inside <report>
    reference         the reference report
    study_id
    labels            14 class ids of the report, a list in the order of mrg_grpo.labels.CONDITIONS
    reference_labels  14 class ids of the reference
    images            list of the study's image paths; in `mrg-grpo score` [] where the file names none
    completion_ids    token ids; in training alone

All are handed over by name, as TRL does; a function without **columns gets those that it names. None adds nothing to
the sum, as 0 does; only the logged mean leaves it out. What comes back is checked before it can reach an advantage: a
NaN would poison a whole group in silence. The columns are copies, and what importing or calling foreign code changes
for the whole process (gradients, default dtype and device, threads, random state, working folder) is put back.
"""

import importlib
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrg_grpo.errors import UserError

LARGEST = torch.finfo(torch.float32).max
"""Rewards are fp32: what is finite in Python may not be finite there."""
EITHER_WAY, ANY_NAME = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_KEYWORD
ONLY_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, ANY_NAME)
"""Kinds of parameters."""
ANYTHING = (Exception, SystemExit)
"""What foreign code may raise; a reward that exits must not end a run as if it were done."""


class ExternalReward:
    """A reward by dotted path; `name` is that path. Or any function of such a signature, by a name of its own."""

    def __init__(self, path: str, function: Callable[..., Any] | None = None) -> None:
        """Resolve the path now, so that a typing error ends the run before it starts. Raises UserError."""
        self.name = path
        self.function = function or metric_from_path(path)

    def __call__(self, completions: list[str], **columns: Sequence) -> tuple[Tensor, Tensor]:
        """B completions -> values (B,) float and present (B,) bool; values are 0 where not present.

        Raises UserError that names the reward and the report where the function fails, or returns anything but one
        finite number or None per completion.
        """
        try:
            scores = called(self.function, completions, columns)
        except ANYTHING as error:  # it is re-raised with the place it happened
            raise UserError(
                f"reward {self.name} failed on {self._culprit(completions, columns)}: {_line(error)}"
            ) from error
        if inspect.isawaitable(scores):
            if inspect.iscoroutine(scores):
                scores.close()
            raise UserError(f"reward {self.name} is asynchronous; give a plain function that returns its list")
        scores = self._as_list(scores, len(completions))
        for row, score in enumerate(scores):
            if score is not None and not (isinstance(score, int | float) and abs(score) <= LARGEST):  # nor NaN
                raise UserError(
                    f"reward {self.name} returned {_shown(score)} for {_name(row, columns)}; it must be a finite "
                    "number, or None, which adds nothing"
                )
        present = torch.tensor([score is not None for score in scores], dtype=torch.bool)
        return torch.tensor([0.0 if score is None else float(score) for score in scores]), present

    def _as_list(self, scores: Any, expected: int) -> list:
        """A list, tuple, array or tensor of scores as a list; arrays of one number in it as that number."""
        kind = type(scores).__name__
        try:
            scores = scores.tolist() if hasattr(scores, "tolist") else scores
        except ANYTHING as error:  # a sparse tensor, or one that holds no numbers
            raise UserError(
                f"reward {self.name} returned a {kind} that is no list ({_line(error)}); it must be a list of "
                f"{expected}"
            ) from error
        if not isinstance(scores, list | tuple):
            raise UserError(f"reward {self.name} returned {type(scores).__name__}; it must be a list of {expected}")
        if len(scores) != expected:
            raise UserError(f"reward {self.name} returned {len(scores)} scores for {expected} completions")
        return [_number(score) for score in scores]

    def _culprit(self, completions: list[str], columns: dict[str, Sequence]) -> str:
        """Which report it was: the first one that fails alone too."""
        for row, completion in enumerate(completions):
            alone = {
                key: [column[row]] if _per_report(column, completions) else column for key, column in columns.items()
            }
            try:
                called(self.function, [completion], alone)
            except ANYTHING:  # the same foreign code again; which exception does not matter here
                return _name(row, columns)
        return f"{len(completions)} completions (on none of them alone)"


def is_path(name: str) -> bool:
    """Whether a term or metric is a function by dotted path."""
    return "." in name or ":" in name


def metric_from_path(path: str) -> Callable[..., Any]:
    """ "package.module:function" or "package.module.function" -> the callable. Raises UserError.

    The folder that the command is started from is searched last, for functions of one's own.
    """
    module_name, separator, attribute = path.partition(":")
    if not separator:
        module_name, _, attribute = path.rpartition(".")
    if not module_name or not attribute:
        raise UserError(f'reward "{path}" is not a dotted path; write package.module:function')
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with state_kept():
            found: Any = importlib.import_module(module_name)
    except ANYTHING as error:  # importing runs foreign code
        absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        where = f"; a file of yours must be in the folder the command is started from, {os.getcwd()}" if absent else ""
        raise UserError(f'reward "{path}": cannot import {module_name} ({_line(error)}){where}') from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f'reward "{path}": {module_name} has no {attribute}')
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f'reward "{path}" is {type(found).__name__}, not a function')
    return found


def called(function: Callable[..., Any], completions: list[str], columns: Mapping[str, Any]) -> Any:
    """Call a function of TRL's signature by name; one whose first parameter is no column gets the completions there.

    It gets a copy of every column; without **columns in its signature of those that it names, so that a new one breaks
    no old one.
    """
    completions, columns = list(completions), {name: _copied(column) for name, column in columns.items()}
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C
        with state_kept():
            return function(completions, **columns)
    given = {"completions": completions, **columns}
    first = parameters[0] if parameters else None
    by_name = first is None or first.kind in ONLY_BY_NAME or (first.kind is EITHER_WAY and first.name in given)
    arguments = [] if by_name else [given.pop("completions")]
    if not any(parameter.kind is ANY_NAME for parameter in parameters):
        named = {parameter.name for parameter in parameters}
        given = {name: column for name, column in given.items() if name in named}
    with state_kept():
        return function(*arguments, **given)


@contextmanager
def state_kept() -> Iterator[None]:
    """Within: foreign code. What it changes for the whole process is as it was afterwards."""
    gradients, dtype, device, threads = (
        torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    )  # fmt: skip
    numbers, ours, arrays, folder = torch.get_rng_state(), random.getstate(), np.random.get_state(), os.getcwd()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(numbers)
        random.setstate(ours)
        np.random.set_state(arrays)
        os.chdir(folder)


def _copied(column: Any) -> Any:
    """A column of one entry per completion, the lists in it copied too."""
    if not isinstance(column, list | tuple):
        return column
    return [list(entry) if isinstance(entry, list) else entry for entry in column]


def _per_report(column: Any, completions: list[str]) -> bool:
    return isinstance(column, list | tuple) and len(column) == len(completions)


def _name(row: int, columns: dict[str, Sequence]) -> str:
    studies = columns.get("study_id")
    return f"completion {row}" + (f" (study {studies[row]})" if studies is not None and len(studies) > row else "")


def _number(score: Any) -> Any:
    """An array or tensor of one number as that number; anything else as it is."""
    try:
        return score.item() if hasattr(score, "item") else score
    except ANYTHING:  # an array of several, or of none
        return score


def _shown(score: Any) -> str:
    """A score in a message: short, also where it has thousands of digits or lines."""
    try:
        text = " ".join(repr(score).split())
    except ANYTHING:  # Python writes no whole number of more than 4,300 digits
        text = f"{type(score).__name__} that cannot be written"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
