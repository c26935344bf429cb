"""A step over fixed buffers as one CUDA graph: recorded once, then started by one call.

A token takes about a thousand small operations, which a GPU finishes faster than a CPU can start them. A graph
starts all of them at once. What is recorded are addresses, shapes and Python numbers. So the step must keep all that
changes in tensors that stay where they are, and may not ask the device for a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class GraphRecorder:
    """Makes graphs that share one pool of memory, so that only the last one may be replayed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: Any = torch.cuda.Stream(device)
        self.pool: Any = torch.cuda.graph_pool_handle()
        self.graphs: list[Any] = []  # an earlier one may still be running

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        """Take one step, record the next, and return what takes it and all further ones.

        The first is taken as it stands, since it also loads kernels and makes their work space, which may not be
        recorded. `torch.cuda.graph` would do the same, but hands all free memory back to the driver each time.
        """
        here: Any = torch.cuda.current_stream(self.device)
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            step()
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")  # other threads go on with theirs
            try:
                step()
            finally:
                graph.capture_end()
        here.wait_stream(self.stream)
        self.graphs.append(graph)
        return graph.replay


class LateFlags:
    """Flags (b,) on a device as the CPU knows them: those of the look before, so that the device is never waited for
    until it has nothing to do."""

    def __init__(self) -> None:
        self.before: tuple[Tensor, Any] | None = None

    def look(self, flags: Tensor) -> Tensor | None:
        """The flags of the last look, on the CPU; None at the first. These are on their way until the next."""
        before = self.before
        copied = flags.clone().to("cpu", non_blocking=True)  # of a GPU into pinned memory
        self.before = copied, arrival(flags.device)
        if before is None:
            return None
        if before[1] is not None:
            before[1].synchronize()
        return before[0]


def arrival(device: torch.device) -> Any:
    """An event behind all that the device has been given so far; None for the CPU, where it is done by now."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
