"""`mrg-grpo`, the command line: reads arguments, calls one function, turns errors into exit codes.

0 done; 2 the user can mend it (one line, no traceback); 128 + signal when stopped by one; 1 a bug.
What commands there are is in commands.py.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from mrg_grpo import __version__
from mrg_grpo.commands import COMMANDS, TABLE, Command
from mrg_grpo.errors import UserError, first_line, one_line, visible


class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # one line, as for any other bad input
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    wide = max(len(command.name) for command in TABLE) + 2
    lines = [f"  {c.name:<{wide}}{c.help}\n  {'':<{wide}}mrg-grpo {c.example}" for c in TABLE]
    top = Parser(
        prog="mrg-grpo",
        description="GRPO for clinically aligned medical report generation. The commands, each with an example:\n\n"
        + "\n".join(lines),
        epilog="mrg-grpo COMMAND --help lists the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"mrg-grpo {__version__}")
    subs = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in TABLE:
        sub = subs.add_parser(
            command.name, description=command.help, epilog=f"example: mrg-grpo {command.example}"
        )  # fmt: skip
        for names, options in command.arguments:
            sub.add_argument(*names, **options)
    return top


class Shown:
    """A stream of the process on which texts from outside cannot steer a terminal, nor end a command that it cannot
    write: see `errors.visible`. Everything that a command prints goes through one."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        bare = text.strip("\r")  # a progress bar begins with a return, and ends with one where it is cleared
        left = len(text) - len(text.lstrip("\r"))
        whole = text[:left] + visible(bare, self.stream.encoding or "utf-8") + text[left + len(bare) :]
        self.stream.write(whole)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def shown_streams() -> Iterator[None]:
    """Within: standard output and standard error are `Shown`; either may be closed."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and Shown(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    with shown_streams():
        return command_line(argv)


def command_line(argv: list[str] | None) -> int:
    """Arguments -> exit code, with the streams as `main` has set them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    values = vars(parser().parse_args(argv))
    command = COMMANDS[values.pop("command")]
    try:
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            return run_on_ranks(command, values)
        code = run(command, values)
        if sys.stdout:
            sys.stdout.flush()  # what does not fit is said here, not at the interpreter's end
        return code
    except UserError as error:
        print(f"mrg-grpo: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if command.name not in ("train", "sft"):
            return 0
        print("mrg-grpo: whoever read the output has ended, and so does the run; go on with --resume", file=sys.stderr)
        return 128 + signal.SIGPIPE
    except OSError as error:  # of a file it has a name, and is a UserError by then
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"mrg-grpo: standard output cannot be written ({error.strerror}); send it elsewhere", file=sys.stderr)
        return 2


def run(command: Command, values: dict[str, Any]) -> int:
    """One command; memory that is full is what the user can mend."""
    try:
        return call(command, values)
    except Exception as error:
        full = memory_of(error)
        if not full:
            raise
        config = values.get("config", "CONFIG")
        raise UserError(
            f"{full} is full ({first_line(error)}); lower {command.lower}; mrg-grpo plan {shlex.quote(str(config))} "
            "says what fits"
        ) from error


def call(command: Command, values: dict[str, Any]) -> int:
    """The command's function with its arguments by name."""
    values = dict(values)
    if "config" in values:
        from mrg_grpo.config import load_config

        values["config"] = load_config(values["config"], values.pop("overrides"))
    module, _, name = command.function.partition(":")
    return getattr(importlib.import_module(module), name)(**values) or 0


def memory_of(error: Exception) -> str:
    """Which memory is full; "" of any other error. By name and words: not worth importing torch for."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return "the GPU's memory"
    full = isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
    return "the main memory" if full else ""


def run_on_ranks(command: Command, values: dict[str, Any]) -> int:
    """A command as one of the processes that torchrun has started: an error is said once, and ends this one at once."""
    from mrg_grpo import distributed

    distributed.launched()
    if not command.on_ranks and os.environ["WORLD_SIZE"] != "1":  # before it waits for the others
        if os.environ["RANK"] == "0":
            print(f"mrg-grpo: {command.name} is for one process: start it without torchrun", file=sys.stderr)
        return 2
    distributed.init_process_group()
    try:
        code = run(command, values)
    except UserError as error:
        text = one_line(error)
        if distributed.first_to_say(text):
            print(f"mrg-grpo: rank {distributed.rank()}: {text}", file=sys.stderr, flush=True)
        if isinstance(error, distributed.PeerLostError):
            time.sleep(1.0)  # torchrun calls the first that ends the root cause: let it be the other
        distributed.fail(2)
    except Exception:  # a bug: the others must see the end of this rank at once all the same
        traceback.print_exc()
        distributed.fail(1)
    distributed.destroy_process_group()
    return code
