"""The order of training studies, and their prompts encoded ahead of the step.

Step k (from 1) takes the k-th batch of N studies of an endless sequence of epochs, each a permutation keyed by
(seed, epoch). So a step number is a position: nothing has to be saved or replayed to resume.
"""

from collections.abc import Iterator
from functools import cache

import torch

from mrg_grpo.data.study import Study
from mrg_grpo.model.encoder import Loaded, PromptEncoder, load_prompts

SPARE = 2**32
"""Added to the seed of the order of spare studies: above any seed."""


class StudyStream:
    """An endless, seekable sequence of batches."""

    def __init__(self, studies: list[Study], size: int, seed: int) -> None:
        self.studies, self.size, self.seed = studies, size, seed
        self._order, self._spare = cache(self._permutation), cache(self._spare_stream)

    def _permutation(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.studies), generator=generator).tolist()

    def batch(self, step: int) -> list[Study]:
        """The studies of step `step`, counted from 1; a batch may run over an epoch's end."""
        positions = range((step - 1) * self.size, step * self.size)
        return [self.studies[self._order(p // len(self.studies))[p % len(self.studies)]] for p in positions]

    def spares(self, step: int, rounds: int, turn: int, count: int) -> list[Study]:
        """At most `count` other studies for round `turn` (from 0) of `rounds` of a step, of an order of their own: each
        step has a part of it, so that none depends on what earlier steps took."""
        known = {study.id for study in self.batch(step)}
        fresh = {study.id: study for study in self._spare(rounds).batch(step) if study.id not in known}
        return list(fresh.values())[turn * self.size : turn * self.size + count]

    def _spare_stream(self, rounds: int) -> "StudyStream":
        """Kept, since a permutation of a large split takes its time; one round more, as some may be of the step."""
        return StudyStream(self.studies, self.size * (rounds + 1), self.seed + SPARE)

    def prompts(self, encoder: PromptEncoder, first: int, last: int, workers: int = 2) -> Iterator[tuple[int, Loaded]]:
        """(step, its studies as prompts) for steps first..last; worker threads decode the images ahead of the step."""
        steps = range(first, last + 1)
        yield from zip(steps, load_prompts(encoder, map(self.batch, steps), workers))
