"""Reading that never waits for ever, and writing so that a kill, a power cut or a full disk leaves the old file or the
new one, never half of one."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from mrg_grpo.errors import UserError, one_line

try:
    import fcntl
except ImportError:  # not on Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

REMEDY = "make room there or mend the folder, then go on with --resume: the last checkpoint is intact"


def open_file(path: Path | str) -> IO[bytes]:
    """A file that a user has named, for reading. OSError, which says what it is, if it is none: whoever opens a pipe
    waits for its other end, and a device may have no end."""
    try:
        file = open(path, "rb", opener=_at_once)  # noqa: SIM115  (the caller closes it)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError(f"it is {_kind(os.stat(path).st_mode)}, not a file") from error
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    file.close()
    raise OSError(f"it is {_kind(mode)}, not a file")


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _at_once(path: str, flags: int) -> int:
    """os.open that waits for nobody."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes(path: Path | str) -> bytes:
    """The whole of `open_file`."""
    with open_file(path) as file:
        return file.read()


def read_text(path: Path | str) -> str:
    """The whole of `open_file` as UTF-8, with lines that end as Python's do; OSError or UnicodeDecodeError."""
    with open_file(path) as file:
        return io.TextIOWrapper(file, encoding="utf-8").read()


@contextmanager
def writing(path: Path | str, remedy: str = REMEDY) -> Iterator[None]:
    """Within: a disk that is full, or a folder that cannot be written, is one line that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{path}: cannot be written ({reason}); {remedy}") from error


def at_home(path: str, name: str) -> str:
    """A path with the home folder in place of ~; UserError, which calls it `name`, if none is there, or it is blank."""
    if path and not path.strip():
        raise UserError(f"{name}: {path!r} is blank; name a file or folder, or leave it out")
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        raise UserError(f"{name}: {path} names a home folder that is not here; write the whole path, or ./{path}")
    return whole


def require_output(path: Path | str, inputs: Sequence[Path | str] = ()) -> None:
    """UserError if no file can be at `path`, or one of the inputs lies there: asked before the work whose result goes
    there, not after."""
    for name in inputs:
        if Path(path).exists() and Path(name).exists() and os.path.samefile(path, name):
            raise UserError(f"cannot write {path}: it is what is read ({name}); name another file")
    if Path(path).is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    if not Path(path).resolve().parent.is_dir():
        raise UserError(f"cannot write {path}: its folder does not exist")


def locked(path: Path) -> IO[str]:
    """The open file `path`, locked against other processes until it is closed or this process ends, however it ends.

    BlockingIOError if another process has it. A file system without locks is believed.
    """
    file = path.open("a", encoding="utf-8")
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:
        pass
    return file


def write_whole(path: Path, text: str, remedy: str = REMEDY) -> None:
    """Replace a file: written beside it, synced, renamed. UserError if it cannot be written; the old one stays then.

    A link at `path` is replaced, what it leads to is not touched. A pipe or a device is written as it is.
    """
    if path.exists() and not path.is_file():
        with writing(path, remedy), path.open("w", encoding="utf-8") as file:
            file.write(text)
        return
    with writing(path, remedy):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        # made here and by nobody else: neither a link nor a file of that name is written through
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
