"""The errors that a user can mend, how they and other texts from outside are shown, and an error for what never ends.

Standard library alone.
"""

from __future__ import annotations

import codecs
import difflib
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


def one_line(error: BaseException) -> str:
    """All that an exception says, as one line."""
    return " ".join(str(error).split())


STEERING = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|\r(?!\n)")
"""What moves, colours or renames a terminal, breaks its lines or turns their direction; tabs and line ends do not."""


def visible(text: str, encoding: str = "utf-8") -> str:
    """A text for a terminal: what would steer it, and what `encoding` cannot hold, written as JSON's escapes.

    An id or a file name may hold anything. JSON that is printed stays the JSON that it is.
    """
    text = STEERING.sub(lambda found: _escaped(found.group()), text)
    return text.encode(encoding, "json_escapes").decode(encoding)


def _escaped(text: str) -> str:
    units = text.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def _not_encoded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _escaped(error.object[error.start : error.end]), error.end


codecs.register_error("json_escapes", _not_encoded)


@contextmanager
def time_limit(seconds: float, error: Exception) -> Iterator[None]:
    """Within: `error` is raised after this time, in a match too. In the main thread alone, where signals arrive."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
