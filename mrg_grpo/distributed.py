"""Many ranks: one process per GPU, started by torchrun. All that is about ranks. How to start: docs/guides/gpus.md.

    torchrun --nproc-per-node 4 -m mrg_grpo train CONFIG

Every rank holds the whole policy and takes whole studies. In a step they exchange which studies could not be shown, the
rewards, a few counts, one sum of the adapter's gradients, and the numbers of the log.

Deliberate choices:
* One process is world 1 of the same code: there is no second path.
* A list of n items is shared in order, ceil(n / world) to each rank. The last ranks fill up with copies of the list's
  first item, the filler, which counts for nothing. So all ranks do the same things in the same order and none waits for
  a call that another skips, and what is gathered by rank and freed of the filler is in the order of the list.
* Sums over ranks are sums, never means of means: denominators are of the whole step, see mrg_grpo.grpo.
* Adapter and optimiser are rank 0's on all ranks at the start and after a resume. They get equal gradients, so they
  stay equal and are never sent again.
* Rank 0 alone writes and prints. What it reads from the run's folder it hands to the others, which need not see it.
* A rank that fails says why and ends; the others then fail in their next exchange, with one line of their own.
* A torchrun that is killed cannot end its ranks: each looks for it every second, and stops as at SIGTERM without it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mrg_grpo.errors import NotFiniteError, UserError, first_line

TIMEOUT = timedelta(minutes=30)
"""Of one exchange. Waiting is legitimate (another rank's studies are longer); a closed connection fails at once."""
PATIENCE = 15.0
"""Seconds until a process that is alone says for whom it waits."""
GRACE = 60.0
"""Seconds that a rank has for the end of its step once its launcher is gone."""
Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class PeerLostError(UserError):
    """An exchange failed: most likely another rank has ended."""


# ---- begin and end


def launched() -> bool:
    """Whether torchrun, or a launcher that sets its variables, has started this process.

    UserError where RANK and WORLD_SIZE alone are there, left in a shell or a container by something else: no one has
    started the ranks that they speak of.
    """
    if not {"WORLD_SIZE", "RANK"} <= os.environ.keys():
        return False
    missing = [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"RANK and WORLD_SIZE are set in the environment, {' and '.join(missing)} not, so no launcher has started "
            "this process: start it with torchrun, or unset RANK and WORLD_SIZE"
        )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not os.environ[name].isdecimal():
            raise UserError(f"{name} in the environment is {os.environ[name]!r}, not a number: start with torchrun")
    return True


def init_process_group() -> None:
    """Join the other ranks, where torchrun (or anything that sets its variables) has started this process."""
    if not {"WORLD_SIZE", "RANK"} <= os.environ.keys() or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, cards = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= cards:
            raise UserError(f"--nproc-per-node: {local + 1} ranks or more on a node of {cards} GPUs; one rank a GPU")
        torch.cuda.set_device(local)  # "cuda" without a number is this rank's own from here on
        backend = "cpu:gloo,cuda:nccl"
    require_launcher()
    alone = f"mrg-grpo: waits for {os.environ['WORLD_SIZE']} ranks; if no launcher has started the others, stop this "
    alone += "and unset RANK and WORLD_SIZE"
    waiting = threading.Timer(PATIENCE, print, (alone,), {"file": sys.stderr, "flush": True})
    waiting.daemon = True
    waiting.start()
    try:
        with _exchange():
            dist.init_process_group(backend, timeout=TIMEOUT)
    finally:
        waiting.cancel()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (rank 0 speaks for all; errors go to stderr)


def require_launcher() -> None:
    """UserError if these variables are of a torchrun that has ended: where its ranks meet is there before they are.

    Of ranks that something else starts the first opens the meeting place, so the others wait for it.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    try:
        socket.create_connection((address, int(port)), timeout=10).close()
    except (ConnectionRefusedError, socket.gaierror) as error:
        raise UserError(
            f"RANK and WORLD_SIZE are set, but no torchrun answers at {address}:{port} ({error.strerror}): start this "
            "with torchrun, or unset RANK and WORLD_SIZE"
        ) from error
    except OSError:  # a network that is slow or full: torch waits for it
        pass


def _end_with(parent: int) -> None:
    """Ask this process to stop once its launcher, which would have asked, is gone; make it, where it does not."""
    while os.getppid() == parent:
        time.sleep(1.0)
    with suppress(OSError, ValueError):  # what read standard error may have ended with it
        print(f"mrg-grpo: rank {rank()}: its launcher has ended, and so does this rank", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)  # a run finishes its step and saves
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def destroy_process_group() -> None:
    """Leave in good order."""
    if dist.is_initialized():
        dist.destroy_process_group()


def fail(code: int) -> NoReturn:
    """After an error: end this process at once, so that the others see it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an ordinary exit may wait for exchanges that no one will answer


def first_to_say(text: str) -> bool:
    """Whether no other rank has said the same: a wrong setting is one line, not one per rank."""
    if not dist.is_initialized():
        return True
    key = "said/" + hashlib.sha256(text.partition(" (")[0].encode()).hexdigest()  # without ports and the like
    try:
        return dist.distributed_c10d._get_default_store().add(key, 1) == 1
    except RuntimeError:  # the store is gone with the rank that held it: say it twice rather than never
        return True


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def alone() -> bool:
    """Whether no torchrun has started this process."""
    return not dist.is_initialized()


def is_first() -> bool:
    return rank() == 0


def first_only(function: Callable[Arguments, Result]) -> Callable[Arguments, Result | None]:
    """A function that does its work on rank 0 alone: whatever writes."""

    @functools.wraps(function)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result | None:
        return function(*args, **kwargs) if is_first() else None

    return guarded


# ---- shares


@dataclass(frozen=True)
class Share(Generic[Item]):
    """This rank's items of a list; the last `filler` of them count for nothing."""

    items: list[Item]
    filler: int


def share(items: Sequence[Item]) -> Share[Item]:
    each = -(-len(items) // world_size())
    own = list(items[rank() * each : (rank() + 1) * each])
    return Share(own + list(items[:1]) * (each - len(own)), each - len(own))


def gather_rows(own: Tensor, filler: int = 0) -> Tensor:
    """Rows (n, ...) of every rank without the filler ones -> rows of the whole list, in its order, on every rank."""
    counted = own[: len(own) - filler].detach()
    return torch.cat(all_gather(counted.cpu().clone())).to(own.device)  # clone: a slice pickles all it was cut from


def own_rows(whole: Tensor, each: int) -> Tensor:
    """The reverse: rows of the whole list -> this rank's `each`, 0 where they are filler."""
    own = whole[rank() * each : (rank() + 1) * each]
    return torch.cat([own, own.new_zeros(each - len(own), *own.shape[1:])])


def map_shares(function: Callable[[list[Item]], Tensor], items: Sequence[Item]) -> Tensor:
    """`function(items)`, one row per item, with the items shared among the ranks."""
    own = share(items)
    return gather_rows(function(own.items), own.filler)


class SharedLabeler:
    """A labeler that all ranks ask for the same reports, each labelling its share."""

    def __init__(self, labeler: Any) -> None:
        self.labeler = labeler

    def label(self, reports: list[str]) -> Tensor:
        return map_shares(self.labeler.label, reports)


# ---- exchanges: every rank must come to each of these


def all_gather(value: Result) -> list[Result]:
    """The value of every rank, by rank, on every rank."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        with _exchange():
            dist.all_gather_object(values, value)
    return values


def broadcast(value: Result) -> Result:
    """Rank 0's value, on every rank."""
    values = [value]
    if world_size() > 1:
        with _exchange():
            dist.broadcast_object_list(values)
    return values[0]


def all_reduce(value: Tensor) -> Tensor:
    """The sum over ranks of a tensor."""
    value = value.detach().clone()
    if world_size() > 1:
        with _exchange():
            dist.all_reduce(value)
    return value


def sum_by_name(values: dict[str, float]) -> dict[str, float]:
    """Sums over ranks by name; a name that a rank does not have is 0 there."""
    parts = all_gather(values)
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def reduce_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Sum the gradients over all ranks, in one exchange. A parameter without a gradient on any rank gets 0: a step of
    groups without spread is a step like any other to AdamW, whose moments fade in it.

    The buffer is the gradients end to end; of a 7B policy at rank 16 it is 161 MB in fp32.
    """
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    buffer = all_reduce(torch.cat([piece.flatten() for piece in pieces]))
    for parameter, gradient in zip(parameters, buffer.split([p.numel() for p in parameters])):
        parameter.grad = gradient.view_as(parameter)


def require_finite(tensors: dict[str, Tensor], evidence: dict[str, Any] | None = None) -> None:
    """Raise NotFiniteError if any value of any of these tensors is NaN or infinite on any rank: all raise, or none.

    Waits for the device once.
    """
    device = next(iter(tensors.values())).device
    broken = torch.stack([~tensor.detach().isfinite().all().to(device) for tensor in tensors.values()])
    counts = all_reduce(broken.long()).tolist()  # ranks on which it is not finite
    if any(counts):
        raise NotFiniteError([name for name, count in zip(tensors, counts) if count], evidence or {})


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and nccl's errors are subclasses, or this itself
        reason = re.sub(r"^\[\S*\] ", "", first_line(error)).partition(". ")[
            0
        ]  # without gloo's file name and its advice
        raise PeerLostError(
            f"another rank has ended ({reason}); its own line, or torchrun's root cause, says why: mend it, --resume"
        ) from error
