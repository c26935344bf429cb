"""What the numbers of an arm follow from, and whether two of these origins are the same.

An origin is plain JSON: the kind of command, the configuration as TOML, digests of the weights, and the origins of the
arms that it starts from and shares its time with. A record holds its own, and so does a run's folder.

Deliberate choices
* Configurations are compared as the current loader reads them: a setting that was renamed is the same one, and one that
  is newer than a record has its default there.
* What no number follows from is left out of the comparison: folders, how often a run is validated (which follows from
  its steps), and settings of the cosine terms that no weighted term reads.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from mrg_grpo import embedded
from mrg_grpo.config import ClinicalConfig, Config, MccsConfig, RewardConfig
from mrg_grpo.errors import UserError
from mrg_grpo.toml import build, to_toml

Origin = dict[str, Any]
NOTE = "origin.json"
"""In a run's folder."""


def origin(kind: str, config: Config, start: Origin | None = None, same_time_as: Origin | None = None) -> Origin:
    """kind: train, sft or none."""
    files = {
        "base": config.model.path or embedded.base_path(),
        "labeler": config.labeler.path or embedded.labeler_path(),
    }
    weights = {name: digest(str(file)) for name, file in files.items()}
    return {
        "kind": kind, "config": to_toml(config), "weights": weights, "start": start, "same_time_as": same_time_as,
    }  # fmt: skip


def same(one: Origin | None, other: Origin | None) -> bool:
    """Whether the same numbers follow from both, but for rounding; an origin that cannot be read is like no other."""
    if one is None or other is None:
        return one is other
    try:
        plain = all(one[key] == other[key] for key in ("kind", "weights")) and compared(one) == compared(other)
    except UserError:
        return False
    return plain and all(same(one[key], other[key]) for key in ("start", "same_time_as"))


def configuration(origin: Origin) -> Config:
    """As the current loader reads it."""
    return build(Config, tomllib.loads(origin["config"]), "the configuration of a kept record")


def compared(origin: Origin) -> Config:
    """The configuration without what no number follows from."""
    config = configuration(origin)
    config.run.output_dir, config.run.eval_every = "", 0
    if origin["start"]:
        config.model.adapter = ""  # that of the start, wherever it lies
    if config.model.dtype == "auto":
        config.model.dtype = "float32"  # what it means on a CPU; records say either
    config.reward.weights = {name: weight for name, weight in config.reward.weights.items() if weight}
    leave_unread(config.reward, trained=origin["kind"] == "train")
    return config


def leave_unread(reward: RewardConfig, trained: bool) -> None:
    """Settings of the clinical terms that no weighted term reads get one value: a new default makes no new arm."""
    cosine, signed, margin = (
        trained and any(reward.weights.get(name) for name in names)
        for names in (("mccs", "ccs", "unsigned_cosine"), ("mccs", "ccs"), ("mccs",))
    )
    reward.mccs = MccsConfig(
        margin=reward.mccs.margin if margin else 0.0,
        weighting=reward.mccs.weighting if signed else "none",
        zero_vectors=reward.mccs.zero_vectors if cosine else 1.0,
    )
    if not (trained and reward.weights.get("clinical")):
        reward.clinical = ClinicalConfig()


@cache
def digest(path: str) -> str:
    """sha256 of a weights file, or of the model in a folder; of a name on a hub, the name. What reads sides and sizes
    lies beside the embedded labeler's model, and no label goes through it."""
    if not Path(path).exists():
        return path
    total = hashlib.sha256()
    for file in sorted(Path(path).glob("model*.safetensors")) if Path(path).is_dir() else [Path(path)]:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def claim(folder: Path, wanted: Origin) -> None:
    """Note whose run a folder is to hold."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def holds(folder: Path, wanted: Origin) -> bool:
    """Whether the folder is noted to hold a run of this origin, begun or finished."""
    note = folder / NOTE
    return note.exists() and same(json.loads(note.read_text(encoding="utf-8")), wanted)
