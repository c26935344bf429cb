"""A graphics card that is not there: tensors that say they lie on the device "card", and compute on the CPU.

What a GPU computes can only be seen on one, but where tensors lie can be followed without: whole commands run with
`model.device = "card"`, and a tensor on the card refuses what CUDA refuses, to meet one in main memory. What makes the
program wait for the card is counted.

    card = Worker()                        # a process of its own: torch takes such a device once, and for good
    card(function, *arguments)             # its result, or its exception
    card.shutdown()
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "card"
ANYWHERE = ("aten::copy_",)
"""Operations whose tensors may lie on two devices."""
INDEXING = ("aten::index", "aten::index_put_", "aten::index_put")
"""Their indices may lie in main memory."""


class OnCard(Tensor):
    """A tensor on the card; `inner` is where its numbers really are."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor):
        layout: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=f"{NAME}:0", **layout)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return carry_out(operation, args, kwargs or {}, Counter())

    @property
    def data(self):
        return OnCard(self.inner)

    @data.setter
    def data(self, value):
        self.inner = value.inner

    # torch asks a subclass itself for these; the ones that copy wait for the card

    def tolist(self):
        return self.cpu().tolist()

    def __format__(self, form):
        return format(self.cpu(), form)

    def storage(self):
        return self.inner.storage()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def data_ptr(self):
        return self.inner.data_ptr()


class Card(TorchDispatchMode):
    """Within: every operation of torch, those that make tensors too. `waits`: how often each kind waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return carry_out(operation, args, kwargs or {}, self.waits)


def carry_out(operation, args, kwargs, waits):
    """One operation on inner tensors; its results lie where CUDA would put them."""
    name, device = operation._schema.name, kwargs.get("device")
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [x for x in tensors if isinstance(x, OnCard)]
    refuse_two_devices(operation, name, args, here, [x for x in tensors if not isinstance(x, OnCard)])
    stays = bool(here) if device is None else torch.device(device).type == NAME
    if here and not kwargs.get("non_blocking") and waits_for_it(operation, name, args, stays):
        waits[name] += 1
    inner_args, inner_kwargs = pytree.tree_map_only(OnCard, lambda x: x.inner, (args, kwargs))
    if device is not None:
        inner_kwargs = inner_kwargs | {"device": torch.device("cpu")}
    result = operation(*inner_args, **inner_kwargs)
    if name == "aten::copy_":
        return args[0]
    if not stays:
        return result
    changed = {id(x.inner): x for x in here}  # in place: the tensor itself comes back
    return pytree.tree_map_only(Tensor, lambda x: changed[id(x)] if id(x) in changed else OnCard(x), result)


def refuse_two_devices(operation, name, args, here, elsewhere):
    """RuntimeError where CUDA has one. Numbers in main memory may meet a tensor on the card, element by element."""
    if name in INDEXING:
        elsewhere = [x for x in elsewhere if all(x is not index for index in args[1])]
    if torch.Tag.pointwise in operation.tags:
        elsewhere = [x for x in elsewhere if x.dim() > 0]
    if here and elsewhere and name not in ANYWHERE:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {NAME} and cpu")


def waits_for_it(operation, name, args, stays):
    """Whether the program must know a value before it goes on: it leaves the card, or a shape follows from it."""
    if name == "aten::copy_":
        return not isinstance(args[0], OnCard)
    if name in INDEXING:
        return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
    shapes = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
    return not stays or any(tag in operation.tags for tag in shapes)


def begin() -> None:
    """Tell torch, transformers and PEFT of the device, in a process that has not computed anything yet."""
    from torch.utils import backend_registration as registration

    class Backend(registration._DummyBackendModule):
        """What torch.cuda is for CUDA."""

        device = staticmethod(nullcontext)

    torch.set_num_threads(1)
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # transformers' threads would not see the card
    registration._setup_privateuseone_for_python_backend(NAME, Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(numbers, device=NAME) makes them here and copies them
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    save = torch.save
    torch.save = lambda tree, file: save(pytree.tree_map_only(OnCard, lambda x: x.inner, tree), file)  # bytes alone
    global KERNELS
    KERNELS = torch.library.Library("aten", "IMPL", "PrivateUse1")
    KERNELS.impl("_local_scalar_dense", lambda x: x.inner.item())  # torch.tensor([tensor on the card])


class Worker:
    """The process with the card."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=begin)

    def __call__(self, function, *arguments):
        return self.pool.submit(within, function, arguments).result()

    def shutdown(self) -> None:
        self.pool.shutdown()


def within(function, arguments):
    """In the process with the card."""
    with Card() as card:
        return function(card, *arguments)
