"""The groups of a step: N studies, G sampled and scored reports of each; those that teach nothing are replaced.

A group whose rewards are all equal has no advantage. With grpo.resample_flat = k such groups are replaced by groups of
other studies, at most k times (the dynamic sampling of DAPO, arXiv 2503.14476). It goes by spread: DAPO's own rule, by
the mean of rewards that are 0 or 1, would keep flat groups where rewards are continuous.

Deliberate choices:
* The other studies come from an order of their own, a part of it for each step (`StudyStream.spares`). So a step number
  is still a position: a resumed run and any number of ranks take the same studies, and the first studies of a step are
  those of a run without replacement.
* A study takes the place of one on its own rank, so that every rank keeps as many as before.
* Spare prompts run without gradient and are run again for training with the others, so memory stays that of a step.
* What is still flat after k rounds stays, and counts as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.config import GrpoConfig
from mrg_grpo.data.study import Study
from mrg_grpo.errors import ImageError
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.encoder import load_own
from mrg_grpo.model.policy import Policy, Prefix
from mrg_grpo.model.rollout import Rollout, joined
from mrg_grpo.objective import terms_without_spread, without_spread
from mrg_grpo.rewards import RewardTable

Spares = Callable[[int, int], list[Study]]
"""(round from 0, how many) -> other studies for a step, over all ranks; fewer where there are no more."""


@dataclass
class Groups:
    """This rank's N studies of a step, with G reports each; rows of rollout and table are in the order of `held`."""

    held: list[PromptBatch]  # the studies in parts whose prompts are held together; the last ends with the filler
    rollout: Rollout
    table: RewardTable
    prefix: Prefix | None = None  # of all of them, where training can go through it
    sampled: int = 0  # reports, those of replaced groups too
    replaced: int = 0  # groups
    unread: dict[str, ImageError] = field(default_factory=dict)  # spare studies that could not be shown: id -> why

    @property
    def studies(self) -> list[Study]:
        return [study for prompts in self.held for study in prompts.studies]

    @property
    def counts(self) -> Tensor:
        """(N,), False for the filler studies; on the CPU."""
        return torch.cat([prompts.counts for prompts in self.held])

    @property
    def filler(self) -> int:
        return int((~self.counts).sum())

    def rewards(self) -> Tensor:
        """(studies of all ranks, G), in the order of their ranks."""
        return distributed.gather_rows(self.table.total.view(len(self.studies), -1), self.filler)

    def terms(self) -> Tensor:
        """(terms, studies of all ranks, G), in the order of the table; NaN where a term has no value."""
        return distributed.gather_rows(self.own_terms().movedim(0, -1), self.filler).movedim(-1, 0)

    def own_terms(self) -> Tensor:
        """(terms, N, G) of this rank."""
        return torch.stack([column.view(len(self.studies), -1) for column in self.table.terms.values()])

    def flat(self, normalise: str) -> Tensor:
        """(N,): this rank's groups that have no advantage, by the sum or by the terms of the reward."""
        if normalise == "sum":
            return without_spread(self.table.total.view(len(self.studies), -1))
        return terms_without_spread(self.own_terms()).all(dim=0)

    def chosen(self, places: list[int], size: int) -> Groups:
        """The studies at these places, in rising order, their prompts in parts of at most `size` (0: no limit)."""
        parts, first = [], 0
        for prompts in self.held:
            own = [place - first for place in places if first <= place < first + len(prompts.studies)]
            parts += prompts.chosen(own).split(size) if own else []
            first += len(prompts.studies)
        group = len(self.table.total) // first
        rows = [place * group + i for place in places for i in range(group)]
        return Groups(parts, self.rollout.chosen(torch.tensor(rows)), self.table.chosen(rows))

    def __add__(self, other: Groups) -> Groups:
        """These and then the other groups; these have no filler."""
        rows = torch.arange(len(self.rollout.texts) + len(other.rollout.texts))
        return Groups(self.held + other.held, joined([self.rollout, other.rollout], rows), self.table + other.table)


def replace_flat(
    groups: Groups, spares: Spares, policy: Policy, sample: Callable[[PromptBatch], Groups], config: GrpoConfig
) -> Groups:
    """The groups with those without spread replaced where spare studies have some, after at most config.resample_flat
    rounds. sample: prompts on the device -> their groups. All ranks must call it."""
    each, rank = len(groups.studies), distributed.rank()
    for turn in range(config.resample_flat):
        whole = distributed.gather_rows(groups.flat(config.normalise), groups.filler)
        flat = whole.nonzero().squeeze(1).tolist()  # places over all ranks
        found = spares(turn, len(flat)) if flat else []
        if not found:
            break
        places = {study.id: place % each for place, study in zip(flat, found) if place // each == rank}
        loaded = load_own(policy.encoder, [study for study in found if study.id in places])
        groups.unread |= loaded.unread
        if loaded.prompts:
            groups.prefix = None  # gives its memory up to the spare ones
            with torch.no_grad():
                others = sample(loaded.prompts.to(policy.device))
            useful = (~others.flat(config.normalise)).nonzero().squeeze(1).tolist()
            groups = taken(groups, others, useful, places, config.studies_per_pass)
    return groups


def taken(groups: Groups, others: Groups, rows: list[int], places: dict[str, int], size: int) -> Groups:
    """The groups with some among others, at `rows`, in their places (study id -> place on this rank)."""
    gone = {places[others.studies[row].id] for row in rows}
    kept = [place for place in range(len(groups.studies)) if place not in gone]
    parts = [part.chosen(some, size) for part, some in ((others, rows), (groups, kept)) if some]
    new = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    new.sampled = groups.sampled + others.sampled
    new.replaced = groups.replaced + len(rows)
    new.unread = groups.unread
    return new
