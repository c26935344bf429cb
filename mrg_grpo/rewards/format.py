"""The format reward: 1 for a completion written as asked, 0 for any other. All or nothing, as in MRG-R1."""

import torch
from torch import Tensor

from mrg_grpo.prompt import parse_completion


def format_reward(completions: list[str], think: bool = True) -> Tensor:
    """B completions -> (B,) float: 1.0 where `<think>...</think><report>...</report>` is kept to, else 0.0.

    think=False asks for `<report>...</report>` alone. What counts is defined once, in `prompt.parse_completion`.
    """
    return torch.tensor([float(parse_completion(text, think).compliant) for text in completions])
