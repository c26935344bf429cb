"""The command line on the embedded default, at the size of a test."""

import os
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import torch

from mrg_grpo.cli import main

CONFIG = "experiments/phantom.toml"


def command_line(command: str, settings: list[str], *more: str) -> list[str]:
    """Arguments of `mrg-grpo command CONFIG` with these settings."""
    return [command, CONFIG, *[part for setting in settings for part in ("--set", setting)], *more]


def run(command: str, settings: list[str], *more: str) -> int:
    return main(command_line(command, settings, *more))


def in_a_child(line: str, folder: Path) -> subprocess.CompletedProcess:
    """`mrg-grpo ...` as a shell in `folder` would run it. A fork: a new interpreter would import for five seconds."""

    def command() -> int:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        return main(shlex.split(line)[1:])

    with TemporaryDirectory() as place:
        child = os.fork()
        if child == 0:
            as_child(Path(place), command)
        _, status = os.waitpid(child, 0)
        out, err = ((Path(place) / name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(line, os.waitstatus_to_exitcode(status), out, err)


def as_child(place: Path, work: Callable[[], int]) -> NoReturn:
    """The life of a forked child: it adds what it says to `place`/stdout and stderr, does its work, whose result is its
    exit code, and never goes on in its parent's code."""
    code: int | str | None = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            setattr(sys, name, os.fdopen(number, "w", buffering=1))
        torch.set_num_threads(1)  # threads of the parent's pool are not there after a fork
        code = work()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
