"""The device that a configuration names."""

import os

import torch

from mrg_grpo.errors import UserError


def device_named(name: str) -> torch.device:
    """model.device as a device of this machine; "auto" takes a GPU if there is one. UserError where it is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise UserError(f'model.device: {name} is one GPU for all ranks; set "cuda", each then has its own')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f'model.device: {name!r} is none; "auto", "cpu" or "cuda"') from error
    try:
        if device.type not in ("cpu", "cuda"):
            torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch was built without it, or it is meta
        raise UserError(f'model.device: {name!r} holds no numbers here; "auto", "cpu" or "cuda"') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f'model.device: {name}, but torch {torch.__version__} sees no GPU here; take "cpu"')
    return device
