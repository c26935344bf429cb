"""The errors that a user can mend, and how an error is quoted. Standard library alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and ends with exit code 2. Anything else that
    escapes is a bug and ends with a traceback and exit code 1.
    """


class ImageError(UserError):
    """A picture that cannot be shown, or a study with it. `what` is the message without what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


class NotFiniteError(UserError):
    """A step cannot be taken. `names`: what was not finite, in the order of the step; `evidence`: what led to it."""

    def __init__(self, names: list[str], evidence: dict[str, Any]) -> None:
        super().__init__(f"{', '.join(names)} not finite: lower the learning rate, or look at the data of this step")
        self.names, self.evidence = names, evidence


def nearest(name: str, known: Iterable[str]) -> str:
    """A question about a mistyped name, "" where no known one is like it."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def first_line(error: BaseException) -> str:
    """What an exception says first, without its full stop; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
