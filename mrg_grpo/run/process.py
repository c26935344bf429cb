"""What a long run asks of its processes: to end in good order at a signal, or with their parent, and a heap that
neither grows nor thrashes."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys

PR_SET_PDEATHSIG = 1
"""Linux's number for it, sys/prctl.h."""
_prctl = getattr(ctypes.CDLL(None), "prctl", None)
M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -3, -1
"""glibc's numbers for them, malloc.h."""


STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""Signals that end a run in good order; Windows has no SIGHUP."""


class StopSignal:
    """Within: at SIGTERM, Ctrl-C and the end of the terminal (SIGHUP, which nohup wards off) the step is finished and
    saved, then the run ends with 128 + signal.

    A second one ends the run at once, which loses no more than a kill does. With `at_once` the first one does, and says
    that: there is no step to finish.
    """

    def __init__(self, at_once: str = "") -> None:
        self.number, self.at_once = 0, at_once

    def __enter__(self) -> StopSignal:
        # a shell's background job ignores Ctrl-C, but one that is sent to it is meant for it; nohup means what it says
        numbers = [n for n in STOPPING if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._remember) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame) -> None:
        leave_dead_terminal()
        if self.at_once:
            print(self.at_once, flush=True)
        if self.number or self.at_once:
            sys.exit(128 + number)
        self.number = number


def leave_dead_terminal() -> None:
    """Send what is still printed nowhere, where the terminal it went to is gone: a line must not end the run before
    its state is saved."""
    for descriptor in (1, 2):
        try:
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        except OSError:  # it is closed
            continue


def end_with_parent() -> None:
    """Have the system kill this process once the thread that started it has ended, however it did: on Linux.

    For a child to call before it becomes another program.
    """
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def settle_heap() -> None:
    """Have all threads use one heap that keeps what a step frees for the next, where the C library can: glibc.

    It gives worker threads heaps of their own, and `give_back_freed_memory` does not reach the freed ends of those.
    Large blocks and the end of a heap go back to the system many times a step, and each page is then cleared anew.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # larger ones it does not take
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def give_back_freed_memory() -> None:
    """Hand freed memory of the heap back to the system, where the C library can: glibc.

    It keeps what was freed, in pieces among what is in use: more of them the longer a run goes (docs/log.md).
    """
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
