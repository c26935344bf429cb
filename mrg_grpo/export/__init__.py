"""What a run gives to others: a checkpoint with the adapter merged, or the adapter alone, each with a model card.

Here: `mrg-grpo export`. checkpoint.py merges and stores, card.py writes the model card. Not here: the files of the run
itself (run/). May import: evaluation, model, run and what those stand on; never train.py.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

from mrg_grpo.config import Config, load_config
from mrg_grpo.data.credentialed import banner, mark
from mrg_grpo.errors import UserError
from mrg_grpo.export.card import base_name, card_of
from mrg_grpo.export.checkpoint import STORED, copy_adapter, merge
from mrg_grpo.files import writing
from mrg_grpo.hub import is_hub_id, upload
from mrg_grpo.run.folder import adapter_of, holds_run

ENOUGH = 0.95
"""Share of the log-probability shift that must be left for a checkpoint to be the policy that was trained."""


def run_export(
    run_dir: str,
    to: str,
    dtype: str = "bfloat16",
    adapter_only: bool = False,
    best: bool = False,
    base_id: str = "",
    push: str | None = None,
    lossy: bool = False,
    credentialed: bool = False,
    overrides: list[str] | None = None,
) -> None:
    """`mrg-grpo export`: write the folder `to` whole or not at all, and upload it where `push` names a repository.

    UserError, before anything is loaded, for a run without an adapter, a folder that is there, and an upload of
    credentialed data that is not asked for by name; later for a checkpoint that keeps less than ENOUGH.
    """
    run, final = Path(run_dir), Path(to)
    if not holds_run(run):
        raise UserError(f"{run}: holds no run; name the folder that mrg-grpo train or sft wrote (run.output_dir)")
    config = load_config(run, overrides)
    adapter = adapter_of(config, None, base=False, best=best)
    assert adapter
    if final.exists():
        raise UserError(f"--to {final}: is already there; name a new folder")
    if base_id and not is_hub_id(base_id):
        raise UserError(f"--base-id {base_id}: is no id of the hub; write it as org/name")
    if push and banner(config) and not credentialed:
        raise UserError(
            f"--push {push}: the policy has learned from credentialed data, and may repeat them; if their terms allow "
            "it, say so with --credentialed"
        )
    config = replace(config, model=replace(config.model, adapter=adapter))
    temporary = final.parent / f".{final.name}"
    with writing(final, "name another folder with --to"):
        shutil.rmtree(temporary, ignore_errors=True)  # left by a kill
        temporary.mkdir(parents=True)
    try:
        kept = None if adapter_only else exported(config, temporary, dtype, lossy)
        with writing(final, "name another folder with --to"):
            if adapter_only:
                copy_adapter(Path(adapter), temporary, base_id or base_name(config))
            (temporary / "README.md").write_text(card_of(run, config, base_id, best, kept), encoding="utf-8")
            mark(temporary, config)
            os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{'adapter' if adapter_only else 'checkpoint'} and model card: {final}")
    if not adapter_only:
        print(f"try it: mrg-grpo report XRAY.png --set model.path={shlex.quote(str(final))}")
    if push:
        print(f"uploaded: {upload(final, push)}")


def exported(config: Config, folder: Path, dtype: str, lossy: bool) -> float:
    """Merge and store; the share of the log-probability shift that is kept. UserError where that is too little."""
    stored = merge(config, folder, STORED[dtype])
    print(f"kept of what was trained: {stored.kept:.3f} of the log-probability shift, on {stored.where}")
    if not stored.kept >= ENOUGH and not lossy:
        raise UserError(
            f"--dtype {dtype}: keeps {stored.kept:.3f} of what was trained, as most updates are smaller than a step of "
            f"this type (at least {ENOUGH} is asked for); take --dtype float32, --adapter-only, or --lossy"
        )
    return stored.kept
