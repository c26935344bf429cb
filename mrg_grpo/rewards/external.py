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
NaN would poison a whole group in silence.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    """A reward by dotted path; `name` is that path."""

    def __init__(self, path: str) -> None:
        """Resolve the path now, so that a typing error ends the run before it starts. Raises UserError."""
        self.name = path
        self.function = metric_from_path(path)

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
            if score is not None and not (_is_number(score) and abs(score) <= LARGEST):  # NaN is not below it
                raise UserError(
                    f"reward {self.name} returned {score!r} for {_name(row, columns)}; it must be a finite number, "
                    "or None, which adds nothing"
                )
        present = torch.tensor([score is not None for score in scores], dtype=torch.bool)
        return torch.tensor([0.0 if score is None else float(score) for score in scores]), present

    def _as_list(self, scores: Any, expected: int) -> list:
        if isinstance(scores, Tensor) or hasattr(scores, "tolist"):
            scores = scores.tolist()
        if not isinstance(scores, list | tuple):
            raise UserError(f"reward {self.name} returned {type(scores).__name__}; it must be a list of {expected}")
        if len(scores) != expected:
            raise UserError(f"reward {self.name} returned {len(scores)} scores for {expected} completions")
        return [score.item() if hasattr(score, "item") else score for score in scores]

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

    It gets every column; without **columns in its signature those that it names, so that a new one breaks no old one.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C
        return function(completions, **columns)
    given = {"completions": completions, **columns}
    first = parameters[0] if parameters else None
    by_name = first is None or first.kind in ONLY_BY_NAME or (first.kind is EITHER_WAY and first.name in given)
    arguments = [] if by_name else [given.pop("completions")]
    if not any(parameter.kind is ANY_NAME for parameter in parameters):
        named = {parameter.name for parameter in parameters}
        given = {name: column for name, column in given.items() if name in named}
    return function(*arguments, **given)


def _per_report(column: Any, completions: list[str]) -> bool:
    return isinstance(column, list | tuple) and len(column) == len(completions)


def _name(row: int, columns: dict[str, Sequence]) -> str:
    studies = columns.get("study_id")
    return f"completion {row}" + (f" (study {studies[row]})" if studies is not None and len(studies) > row else "")


def _is_number(score: Any) -> bool:
    return isinstance(score, int | float)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
