"""The command line on the embedded default, at the size of a test."""

import os
import shlex
import subprocess
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

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
    with TemporaryDirectory() as place:
        said = [Path(place) / "stdout", Path(place) / "stderr"]
        child = os.fork()
        if child == 0:
            as_child(line, folder, said)
        _, status = os.waitpid(child, 0)
        out, err = (path.read_text() for path in said)
    return subprocess.CompletedProcess(line, os.waitstatus_to_exitcode(status), out, err)


def as_child(line: str, folder: Path, said: list[Path]) -> None:
    """The life of the child; it never goes on in its parent's code."""
    code: int | str | None = 1
    try:
        for number, (name, path) in enumerate(zip(("stdout", "stderr"), said), start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            setattr(sys, name, os.fdopen(number, "w"))
        torch.set_num_threads(1)  # threads of the parent's pool are not there after a fork
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        code = main(shlex.split(line)[1:])
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
