"""Run a skipped step again: `mrg-grpo replay RUN_DIR/faults/step-000123.pt`.

The file holds the configuration, the state before the step and the ids of its studies; sampling is keyed by
(seed, step), so on the same machine the same reports come out. Where the file holds the sampled tokens, the replay says
whether they did: on a GPU, or under another version of torch, they may not.
"""

from __future__ import annotations

import pickle
import tomllib
from dataclasses import dataclass
from pathlib import Path

import torch

from mrg_grpo.config import Config, check
from mrg_grpo.data.load import read_splits
from mrg_grpo.errors import NotFiniteError, UserError, first_line
from mrg_grpo.files import open_file
from mrg_grpo.grpo import Grpo
from mrg_grpo.labelers import config_labeler
from mrg_grpo.model.policy import Policy
from mrg_grpo.rewards.external import is_path
from mrg_grpo.rewards.field import FIELD
from mrg_grpo.run.checkpoint import State
from mrg_grpo.run.folder import holds_run
from mrg_grpo.run.inputs import IMAGES, read_record, start_adapter
from mrg_grpo.run.rewards_of import RARITY, rewards_of
from mrg_grpo.toml import build


@dataclass
class Replay:
    """What was not finite when the run took the step, and what is now; [] where all is."""

    step: int
    then: list[str]
    now: list[str]
    same_tokens: bool | None
    """None where there is nothing to compare: no fault this time, or a file without tokens (keep_text = false)."""


def replay(path: Path, trust: bool = False) -> Replay:
    """Take the step of a fault file again. UserError if the file is damaged or its studies are not in the data.

    A fault file is data: the rewards of others and the checkpoint's own code that its configuration names run only with
    `trust`.
    """
    try:
        with open_file(path) as file:
            fault = torch.load(file, weights_only=True, map_location="cpu")
        config = check(build(Config, tomllib.loads(fault["config"]), str(path)))
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: no file of a skipped step ({first_line(error)})") from error
    code = [name for name, weight in config.reward.weights.items() if weight and (is_path(name) or name in FIELD)]
    code += ["the code in model.path"] if config.model.trust_remote_code else []
    if code and not trust:
        raise UserError(f"{path}: it names {', '.join(code)} to be run; read that, then say --trust")
    if not fault["grpo"]:
        raise UserError(f"{path}: a step of the warm start; only steps of train can be replayed")
    run_dir = path.resolve().parent.parent  # the file lies in RUN_DIR/faults; the run's start and rarity weights count
    record = read_record(run_dir) if holds_run(run_dir) else None
    splits = read_splits(config, left_out=(record or {}).get(IMAGES, {}))
    by_id = {study.id: study for study in splits["train"]}
    missing = [study for study in fault["study_ids"] if study not in by_id]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} not in the training split; put the data back as they were")
    torch.manual_seed(config.run.seed)  # LoRA's A matrices
    policy, labeler = Policy.load(config, start_adapter(run_dir, config)), config_labeler(config)
    stored = run_dir if holds_run(run_dir) and (run_dir / RARITY).exists() else None
    grpo = Grpo(config, policy, rewards_of(config, splits["train"], policy, labeler, stored))
    State(fault["adapter"], fault["optimizer"]).restore(policy, grpo.optimizer)
    prompts = policy.encoder.encode([by_id[study] for study in fault["study_ids"]])
    try:
        grpo.step(prompts.to(policy.device), fault["step"])
    except NotFiniteError as again:
        same = torch.equal(fault["tokens"], again.evidence["tokens"].cpu()) if "tokens" in fault else None
        return Replay(fault["step"], fault["not_finite"], again.names, same)
    return Replay(fault["step"], fault["not_finite"], [], None)


def run_replay(path: str, trust: bool = False) -> None:
    """`mrg-grpo replay`: print what was not finite then, and what is now."""
    result = replay(Path(path), trust)
    print(f"step {result.step}: not finite then: {', '.join(result.then)}; now: {', '.join(result.now) or 'nothing'}")
    if result.same_tokens is not None:
        print("the sampled tokens are the same" if result.same_tokens else "other tokens were sampled this time")
