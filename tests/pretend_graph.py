"""CUDA graphs that are not there: what is recorded is played back on the CPU, by the rules of a real capture.

Recorded are operations with the tensors and numbers they had. Nothing is run while recording: what was written is put
back at its end. An operation whose result the program would wait for is refused.

    pretend(monkeypatch)     # torch.cuda's streams, events and graphs are these, for one test
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Recording(TorchDispatchMode):
    """Within: operations are kept, and what they do to tensors from before is undone at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []
        self.changed: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation.tags and {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(operation.tags):
            raise RuntimeError(f"{operation}: operation not permitted when stream is capturing")
        for argument, value in zip(operation._schema.arguments, args):
            if argument.alias_info and argument.alias_info.is_write:
                self.changed.append((value, value.clone()))
        result = operation(*args, **kwargs)
        self.calls.append((operation, args, kwargs, result))
        return result

    def undo(self) -> None:
        for tensor, before in reversed(self.changed):
            tensor.copy_(before)

    def replay(self) -> None:
        for operation, args, kwargs, kept in self.calls:
            result = operation(*args, **kwargs)
            for into, value in zip(pytree.tree_leaves(kept), pytree.tree_leaves(result)):
                if isinstance(value, Tensor) and value.data_ptr() != into.data_ptr():
                    into.copy_(value)


class Graph:
    """What torch.cuda.CUDAGraph is. `made` holds all of them, with their pools and the times they ran."""

    made: ClassVar[list[Graph]] = []

    def __init__(self) -> None:
        self.recording, self.replays = Recording(), 0
        Graph.made.append(self)

    def capture_begin(self, pool, capture_error_mode) -> None:
        self.pool = pool
        self.recording.__enter__()

    def capture_end(self) -> None:
        self.recording.__exit__(None, None, None)
        self.recording.undo()

    def replay(self) -> None:
        self.replays += 1
        self.recording.replay()


class Stream:
    def __init__(self, device=None) -> None:
        self.device = device

    def wait_stream(self, other) -> None:
        assert isinstance(other, Stream)


class Event:
    recorded = waited = 0

    def record(self, stream) -> None:
        Event.recorded += 1

    def synchronize(self) -> None:
        Event.waited += 1


def pretend(monkeypatch) -> type[Graph]:
    Graph.made = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "the pool")
    return Graph
