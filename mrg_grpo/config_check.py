"""Values and combinations of settings that cannot work, each refused in one line with the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrg_grpo.errors import UserError
from mrg_grpo.toml import check_rules

if TYPE_CHECKING:
    from mrg_grpo.config import Config


def check(config: Config) -> Config:
    """The configuration, if it can work; else UserError."""
    check_rules(config)
    if not config.run.output_dir.strip():
        raise UserError("run.output_dir: is empty; name a folder for the run")
    if config.run.patience and not (config.run.keep_best and config.run.eval_every):
        raise UserError(
            "run.patience: counts validations that are not better, so it needs run.keep_best and run.eval_every; set "
            "both, or run.patience = 0"
        )
    if config.grpo.resample_flat and config.model.shard:
        raise UserError(
            "grpo.resample_flat: over a base in shards all ranks must take the same passes, and replaced groups add "
            "some; set it to 0, or model.shard = false"
        )
    if config.model.quantize != "none" and config.model.shard:
        raise UserError('model.quantize: a base in 4 bits is not spread over ranks; set model.shard = false, or "none"')
    if config.model.quantize != "none" and config.model.dtype == "float64":
        raise UserError('model.quantize: 4 bits are written out in 16 or 32; set model.dtype = "bfloat16" or "float32"')
    if 0 < config.grpo.dual_clip <= 1:
        raise UserError(
            f"grpo.dual_clip: {config.grpo.dual_clip:g} must be above 1, for example 3, or 0 to turn it off"
        )
    if not any(config.reward.weights.values()):
        raise UserError("reward.weights: every weight is 0; give at least one term a weight, for example mccs = 0.75")
    if not (config.data.views.isascii() and config.data.views.isdigit()) and config.data.views not in (
        "all",
        "frontal",
    ):
        raise UserError(f'data.views: {config.data.views!r} must be "all", "frontal" or a number')
    for name in ("root", "split_file") if config.data.rendered else ():
        if getattr(config.data, name):
            raise UserError(
                f"data.{name}: {config.data.form} renders its own studies; set data.form to what lies there"
            )
    if not config.data.rendered and not config.data.root:
        raise UserError(f"data.root: {config.data.form} needs the folder of the data set; add root under [data]")
    if config.data.form == "table" and not config.data.table:
        raise UserError("data.table: name the file of the table, or a pattern such as data/*.parquet, under [data]")
    if config.data.form != "table" and (config.data.table or config.data.columns != type(config.data.columns)()):
        raise UserError(f'data.table and data.columns: {config.data.form} reads neither; set data.form = "table"')
    return config
