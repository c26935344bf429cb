"""The reward of a report: a weighted sum over named terms, one column each.

B reports. Terms of our own are in terms.py. Those of the field, by RadEval, are in field.py. Any other name is a dotted
path to a function of TRL's signature, `f(completions, **columns) -> list[float | None]`.

Only the text inside <report> is labelled; where the block is missing, the whole completion without its tags (see
`mrg_grpo.prompt.parse_completion`), so that the clinical term does not silently depend on the format term.

Here: one file per kind of term, and their weighted sum. Not here: metrics that only judge (evaluation/). May import:
labelers, data/study.py, config, prompt, labels, errors; never the policy.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mrg_grpo.config import RewardConfig
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError, nearest
from mrg_grpo.labelers.reference import ReferenceLabels
from mrg_grpo.prompt import parse_completion, without_form
from mrg_grpo.rewards import field
from mrg_grpo.rewards.external import ExternalReward, is_path, metric_from_path
from mrg_grpo.rewards.table import Reports, RewardTable
from mrg_grpo.rewards.terms import TERMS, Term, own_terms

__all__ = ["TERMS", "Reports", "RewardTable", "Rewards", "require_terms"]


class Rewards:
    """Scores completions by the configured terms on the labeler's device."""

    def __init__(
        self,
        config: RewardConfig,
        labeler,
        think: bool = True,
        rarity: Tensor | None = None,
        prompt: Callable[[Study], str] = lambda study: "",
        max_tokens: int = 160,
    ) -> None:
        """prompt: what a study's reports answer, for rewards by dotted path; max_tokens: the longest completion."""
        self.config, self.labeler, self.think, self.prompt = config, labeler, think, prompt
        self.reference_labels = ReferenceLabels(labeler)
        require_terms(config)
        own = own_terms(config, rarity, max_tokens)
        self.terms = {
            name: own[name] if name in own else self._external(self._reward(name))
            for name, weight in config.weights.items()
            if weight != 0
        }

    def score(
        self,
        completions: list[str],
        studies: list[Study],
        completion_ids: list[list[int]],
        special: list[int] | None = None,
    ) -> RewardTable:
        """B completions of N studies, the G = B / N of one study next to each other -> RewardTable of B rows.

        special: how many special tokens, left out of its text, each completion holds; with any it is not compliant.
        """
        group = len(completions) // len(studies)
        studies = [study for study in studies for _ in range(group)]
        parsed = [parse_completion(text, self.think) for text in completions]
        if special:
            parsed = [without_form(one) if count else one for one, count in zip(parsed, special)]
        labels = self.labeler.label([completion.report for completion in parsed])
        references = self.reference_labels([study.report for study in studies])
        reports = Reports(completions, parsed, labels, references, studies, completion_ids)
        terms = {name: term(reports).to(labels.device) for name, term in self.terms.items()}
        total = torch.stack([self._weighed(name, column) for name, column in terms.items()]).sum(dim=0)  # (B,)
        return RewardTable(terms, total, reports)

    def _weighed(self, name: str, column: Tensor) -> Tensor:
        """What a function of others has no value for (NaN) adds nothing to the sum; our own always have one."""
        return self.config.weights[name] * (column if name in TERMS else column.masked_fill(column.isnan(), 0.0))

    def _reward(self, name: str) -> ExternalReward:
        """A term that is not our own: of the field, beside the labeler, or by dotted path."""
        return ExternalReward(name, field.scorer(name, self.labeler.device) if name in field.FIELD else None)

    def _external(self, reward: ExternalReward) -> Term:
        def term(r: Reports) -> Tensor:
            values, present = reward(
                r.completions,
                prompts=[self.prompt(study) for study in r.studies],
                reports=r.texts,
                reference=r.references,
                study_id=[study.id for study in r.studies],
                labels=r.labels.tolist(),
                reference_labels=r.reference_labels.tolist(),
                images=[list(study.images) for study in r.studies],
                completion_ids=r.completion_ids,
            )
            return values.masked_fill(~present, torch.nan)

        return term


def require_terms(config: RewardConfig) -> None:
    """Every term that has a weight is known, every path leads to a function, and what a term of the field needs is
    there; UserError, before any model is loaded."""
    known = (*TERMS, *field.FIELD)
    for name in (name for name, weight in config.weights.items() if weight != 0 and name not in TERMS):
        if is_path(name):
            metric_from_path(name)
        elif name in field.FIELD:
            field.require(name)
        else:
            asked = " ".join(filter(None, (nearest(name, known), f"use {', '.join(known)}")))
            raise UserError(f'reward.weights: unknown term "{name}"; {asked}, or a dotted path to a function')
