"""The configured rewards of a run, with the weights that it keeps in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.files import write_whole
from mrg_grpo.labelers import CheXbert
from mrg_grpo.model.policy import Policy
from mrg_grpo.rewards import Rewards
from mrg_grpo.rewards.mccs import rarity_weights
from mrg_grpo.run.folder import holds_run

RARITY = "rarity_weights.json"


def rewards_of(
    config: Config, studies: list[Study], policy: Policy, labeler: CheXbert, folder: Path | None = None
) -> Rewards:
    """The configured rewards of a run on these training studies; see `rarity` for the folder."""
    weights = rarity(config, studies, labeler, folder)
    return Rewards(config.reward, labeler, config.prompt.think, weights, policy.encoder.ask, config.sampling.max_tokens)


def rarity(config: Config, studies: list[Study], labeler: CheXbert, folder: Path | None = None) -> Tensor | None:
    """(2, 13) weights of the training references, where configured; kept in the run's folder, read back on resume.

    What a start that failed has left there is no run's, and is made anew.
    """
    if config.reward.mccs.weighting != "rarity":
        return None
    stored = folder / RARITY if folder and distributed.is_first() else None
    kept = stored.read_text(encoding="utf-8") if stored and stored.exists() and holds_run(stored.parent) else None
    kept = distributed.broadcast(kept)
    if kept is not None:
        return weights_in(kept, f"{folder}/{RARITY}")
    weights = rarity_weights(distributed.map_shares(labeler.label, [study.report for study in studies]))
    if stored:
        write_whole(stored, json.dumps(weights.tolist(), indent=1))
    return weights


def weights_in(text: str, name: str) -> Tensor:
    """The (2, 13) weights that a run has kept; UserError where the file no longer holds such."""
    try:
        weights = torch.tensor(json.loads(text), dtype=torch.float32)
    except (ValueError, TypeError):
        weights = torch.empty(0)
    if weights.shape != (2, 13) or not (weights.isfinite() & (weights > 0)).all():
        raise UserError(f"{name}: not two rows of 13 numbers above 0; put the run's own file back, or begin a new run")
    return weights
