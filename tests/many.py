"""Functions run on many ranks, as torchrun starts them: forked processes over gloo, nothing is imported anew."""

import faulthandler
import multiprocessing
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from command import as_child

from mrg_grpo import distributed


def as_rank(rank, world, ports, folder, function, arguments):
    """The life of one process."""

    def work():
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(ports.get()),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        faulthandler.dump_traceback_later(60, file=sys.stderr)
        distributed.init_process_group()
        torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
        distributed.destroy_process_group()
        return 0

    as_child(Path(folder), work)


@contextmanager
def running(world, folder, function, *arguments):
    """The processes of `world` ranks. The store where they meet is this process's, as it is torchrun's."""
    context = multiprocessing.get_context("fork")
    ports = context.SimpleQueue()
    processes = [
        context.Process(target=as_rank, args=(rank, world, ports, folder, function, arguments)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    # the store only now: its thread serves the first ranks, and one forked meanwhile would inherit the locks it holds
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for _ in processes:
        ports.put(store.port)
    yield processes
    for process in processes:
        process.kill()


def on_ranks(world, folder, function, *arguments, timeout=240):
    """function(*arguments) on `world` ranks -> their results, by rank."""
    with running(world, folder, function, *arguments) as processes:
        for process in processes:
            process.join(timeout)
        said = (Path(folder) / "stderr").read_text()
        assert not any(process.is_alive() for process in processes), f"ranks wait for each other: {said}"
    assert [process.exitcode for process in processes] == [0] * world, said
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
