"""What autograd keeps of a forward pass."""

import torch

from mrg_grpo.model.policy import Policy


class Kept:
    """Bytes of the distinct storages that autograd keeps, without the model's parameters."""

    def __init__(self, policy: Policy) -> None:
        self.parameters = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
        self.sizes: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []

    def __enter__(self):
        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.parameters and storage.data_ptr() not in self.sizes:
                self.sizes[storage.data_ptr()] = storage.nbytes()
                self.alive.append(tensor)  # so that no address is used twice
            return tensor

        self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    @property
    def total(self) -> int:
        return sum(self.sizes.values())
