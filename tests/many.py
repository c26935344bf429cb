"""Functions run on many ranks, as torchrun starts them: forked processes over gloo, nothing is imported anew."""

import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path

import torch

from mrg_grpo import ranks


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_rank(rank, world, port, folder, function, arguments):
    """The life of one process; it never goes on in its parent's code."""
    code = 1
    try:
        torch.set_num_threads(1)  # threads of the parent's pool are not there after a fork
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks.begin()
        torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
        ranks.end()
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(world, folder, function, *arguments):
    """The processes of `world` ranks, running."""
    context, port = multiprocessing.get_context("fork"), free_port()
    processes = [
        context.Process(target=as_rank, args=(rank, world, port, folder, function, arguments)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def on_ranks(world, folder, function, *arguments, timeout=240):
    """function(*arguments) on `world` ranks -> their results, by rank."""
    processes = start(world, folder, function, *arguments)
    for process in processes:
        process.join(timeout)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive, "ranks wait for each other"
    assert [process.exitcode for process in processes] == [0] * world
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
