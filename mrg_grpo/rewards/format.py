"""The format reward: 1 for a completion written as asked, 0 for any other. All or nothing, as in MRG-R1."""

import torch
from torch import Tensor

from mrg_grpo.prompt import Completion


def format_reward(parsed: list[Completion]) -> Tensor:
    """B parsed completions -> (B,) float: 1.0 where the form is kept to, else 0.0.

    What counts as the form, with think block and without, is defined once, in `prompt.parse_completion`.
    """
    return torch.tensor([float(completion.compliant) for completion in parsed])
