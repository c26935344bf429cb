"""`mrg-grpo probe`: which training studies teach. G reports of each, once, by the start policy, and how they score.

A study whose reports all earn the same has no advantage, so its share of a step is lost. The file holds mean and spread
of the reward and of each term by study, and no text; `data.keep` chooses by it (mrg_grpo/data/keep.py). Lines are added
batch by batch, so that a probe that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.keep import made_with, probe_path, read_probe
from mrg_grpo.data.load import load_splits, require_images, studies_of
from mrg_grpo.data.records import first_names
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.decode import PlainLog
from mrg_grpo.evaluation.table import format_table
from mrg_grpo.files import read_text, write_whole, writing
from mrg_grpo.groups import Groups
from mrg_grpo.grpo import Grpo
from mrg_grpo.labelers import config_labeler
from mrg_grpo.model.encoder import load_prompts
from mrg_grpo.model.policy import Policy
from mrg_grpo.rewards import require_terms
from mrg_grpo.run.rewards_of import rewards_of
from mrg_grpo.run.stream import StudyStream
from mrg_grpo.step_metrics import PhaseTimer

LIMITS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Of the spread, in the table at the end."""


def run_probe(config: Config, share: float = 1.0, output: str = "") -> None:
    """`mrg-grpo probe`: probe `share` of the training studies, print how many have which spread."""
    if not 0 < share <= 1:
        raise UserError(f"--share: {share:g} is no share; give a number above 0 and at most 1")
    config = deepcopy(config)
    config.data.keep, config.data.probe = "", output or config.data.probe
    require_terms(config.reward)
    path = probe_path(config)
    done = begun(path, config)
    splits = load_splits(config, verify=("train",))
    studies = studies_of(splits, "train")
    require_images(studies)
    order = StudyStream(studies, math.ceil(share * len(studies)), config.run.seed).batch(1)  # each study once
    todo = [study for study in order if study.id not in done]
    if todo:
        torch.manual_seed(config.run.seed)  # LoRA's A matrices, which B = 0 silences
        policy, labeler = Policy.load(config, trainable=False), config_labeler(config)
        grpo = Grpo(config, policy, rewards_of(config, studies, policy, labeler))
        probe(grpo, todo, path)
    table = distributed.broadcast(summary(path, [study.id for study in order]) if distributed.is_first() else "")
    print(f"{table}\n\n{path}")


def begun(path: Path, config: Config) -> set[str]:
    """The studies that the file has already; a file without any is begun. UserError where it is of another probe."""
    ids: set[str] = set()
    if distributed.is_first():
        if path.exists():
            whole = read_text(path)
            if not whole.endswith("\n"):  # a kill came within a line
                write_whole(path, whole[: whole.rfind("\n") + 1])
        if path.exists() and path.stat().st_size:
            made, probed = read_probe(path)
            other = [name for name, value in made_with(config).items() if made.get(name) != value]
            if other:
                named = ", ".join(other)
                raise UserError(f"{path} is a probe with other settings of {named}; name another by -o, or remove it")
            ids = set(probed)
        else:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"probe": {**banner(config), **made_with(config)}}) + "\n")
    return distributed.broadcast(ids)


@torch.no_grad()
def probe(grpo: Grpo, studies: list[Study], path: Path) -> None:
    """Sample, score and write the studies, grpo.studies_per_step at a time."""
    size, config = grpo.config.grpo.studies_per_step, grpo.config
    batches = [studies[first : first + size] for first in range(0, len(studies), size)]
    first = distributed.is_first()
    log = PlainLog("probe", len(studies)) if first else lambda done: None
    unread: list[str] = []
    done = 0
    with tqdm(total=len(studies), desc="probe", disable=None if first else True, leave=False) as bar:
        for batch, loaded in zip(batches, load_prompts(grpo.policy.encoder, batches, config.data.workers)):
            unread += loaded.unread
            if loaded.prompts:
                groups = grpo.sample(loaded.prompts.to(grpo.policy.device), 0, PhaseTimer(grpo.policy.device))
                names, rows = figures(groups)
                shown = [study for study in batch if study.id not in loaded.unread]
                if first:
                    lines = [line(study, names, row) for study, row in zip(shown, rows.tolist())]
                    append(path, "".join(lines))
            bar.update(len(batch))
            done += len(batch)
            log(done)
    if unread:
        print(f"left out {len(unread):,} studies, whose pictures cannot be read: {first_names(unread)}")


def figures(groups: Groups) -> tuple[list[str], Tensor]:
    """Names of the reward and its terms, and (studies of all ranks, 2, names): mean and sample standard deviation over
    a study's reports, NaN where a term has no value for one."""
    columns = {"reward": groups.table.total, **groups.table.terms}
    values = torch.stack([column.double().cpu() for column in columns.values()], dim=-1)
    values = values.view(len(groups.studies), -1, len(columns))  # (N, G, names)
    both = torch.stack([values.mean(dim=1), values.std(dim=1)], dim=1)
    return list(columns), distributed.gather_rows(both, groups.filler)


def line(study: Study, names: list[str], row: list[list[float]]) -> str:
    """A study as a line of the file."""

    def named(numbers: list[float]) -> dict[str, float | None]:
        return {name: None if math.isnan(x) else round(x, 6) for name, x in zip(names, numbers)}

    return json.dumps({"study_id": study.id, "mean": named(row[0]), "spread": named(row[1])}) + "\n"


def append(path: Path, text: str) -> None:
    with writing(path, "make room there and run the probe again, which goes on"), path.open("a") as file:
        file.write(text)


def summary(path: Path, ids: list[str]) -> str:
    """How many of the studies have more than which spread of the reward."""
    _, probed = read_probe(path)
    spreads = [probed[study]["spread"]["reward"] or 0.0 for study in ids if study in probed]
    rows = [[f"spread > {limit:g}", f"{(n := sum(x > limit for x in spreads)):,}", f"{n / len(spreads):.0%}"]
            for limit in LIMITS] if spreads else []  # fmt: skip
    head = f"spread of the reward over the reports of a study, {len(spreads):,} studies"
    return f"{head}\n{format_table(['data.keep', 'studies', 'share'], rows)}"
