"""The reward of a report: a weighted sum over named terms, one column each.

B reports. Terms of our own: mccs, ccs (the cosine without margin), unsigned_cosine, format, ce_f1, bleu, rouge_l. Any
other name is a dotted path to a function of TRL's signature, `f(completions, **columns) -> list[float | None]`.

Only the text inside <report> is labelled; where the block is missing, the whole completion without its tags (see
`mrg_grpo.prompt.parse_completion`), so that the clinical term does not silently depend on the format term.

Here: one file per kind of term, and their weighted sum. Not here: metrics that only judge (evaluation/). May import:
labelers, data/study.py, config, prompt, labels, errors; never the policy.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo.config import RewardConfig
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError, nearest
from mrg_grpo.labelers.reference import ReferenceLabels
from mrg_grpo.prompt import Completion, parse_completion, without_form
from mrg_grpo.rewards.ce_f1 import ce_f1
from mrg_grpo.rewards.external import ExternalReward, is_path, metric_from_path
from mrg_grpo.rewards.format import format_reward
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, unsigned_cosine
from mrg_grpo.rewards.nlg import bleu, rouge_l


@dataclass
class Reports:
    """What the terms are computed from: B completions and the studies they answer."""

    completions: list[str]
    parsed: list[Completion]
    labels: Tensor  # (B, 14) of the parsed reports
    reference_labels: Tensor  # (B, 14)
    studies: list[Study]  # B, each study repeated for its group
    completion_ids: list[list[int]]

    @property
    def texts(self) -> list[str]:
        return [completion.report for completion in self.parsed]

    @property
    def references(self) -> list[str]:
        return [study.report for study in self.studies]

    def chosen(self, rows: list[int]) -> "Reports":
        """The reports at these places, in this order."""
        return Reports(
            [self.completions[i] for i in rows],
            [self.parsed[i] for i in rows],
            self.labels[rows],
            self.reference_labels[rows],
            [self.studies[i] for i in rows],
            [self.completion_ids[i] for i in rows],
        )

    def __add__(self, other: "Reports") -> "Reports":
        return Reports(
            self.completions + other.completions,
            self.parsed + other.parsed,
            torch.cat([self.labels, other.labels]),
            torch.cat([self.reference_labels, other.reference_labels]),
            self.studies + other.studies,
            self.completion_ids + other.completion_ids,
        )


@dataclass
class RewardTable:
    """One column per term (B,), NaN where a function returned None, which adds 0; their weighted sum (B,)."""

    terms: dict[str, Tensor]
    total: Tensor
    reports: Reports

    def chosen(self, rows: list[int]) -> "RewardTable":
        """The reports at these places, in this order."""
        terms = {name: column[rows] for name, column in self.terms.items()}
        return RewardTable(terms, self.total[rows], self.reports.chosen(rows))

    def __add__(self, other: "RewardTable") -> "RewardTable":
        terms = {name: torch.cat([column, other.terms[name]]) for name, column in self.terms.items()}
        return RewardTable(terms, torch.cat([self.total, other.total]), self.reports + other.reports)


TERMS = ("mccs", "ccs", "unsigned_cosine", "format", "ce_f1", "bleu", "rouge_l")
Term = Callable[[Reports], Tensor]


class Rewards:
    """Scores completions by the configured terms on the labeler's device."""

    def __init__(
        self,
        config: RewardConfig,
        labeler,
        think: bool = True,
        rarity: Tensor | None = None,
        prompt: Callable[[Study], str] = lambda study: "",
    ) -> None:
        """prompt: what a study's reports answer, for rewards by dotted path."""
        self.config, self.labeler, self.think, self.prompt = config, labeler, think, prompt
        self.reference_labels = ReferenceLabels(labeler)
        self.rarity = rarity
        require_terms(config)
        self.terms = {name: self._term(name) for name, weight in config.weights.items() if weight != 0}

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
        """What a function by dotted path has no value for (NaN) adds nothing to the sum; our own always have one."""
        return self.config.weights[name] * (column.masked_fill(column.isnan(), 0.0) if is_path(name) else column)

    def _term(self, name: str) -> Term:
        settings = self.config.mccs
        if name == "mccs":
            return lambda r: mccs(
                r.labels, r.reference_labels, settings.margin, weights=self.rarity, zero_vectors=settings.zero_vectors
            )
        if name == "ccs":
            return lambda r: clinical_cosine(
                r.labels, r.reference_labels, weights=self.rarity, zero_vectors=settings.zero_vectors
            )
        if name == "unsigned_cosine":
            return lambda r: unsigned_cosine(r.labels, r.reference_labels, zero_vectors=settings.zero_vectors)
        if name == "format":
            return lambda r: format_reward(r.parsed)
        if name == "ce_f1":
            return lambda r: ce_f1(r.labels, r.reference_labels)
        if name == "bleu":
            return lambda r: bleu(r.texts, r.references)
        if name == "rouge_l":
            return lambda r: rouge_l(r.texts, r.references)
        return self._external(ExternalReward(name))

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
    """Every term that has a weight is known, every path leads to a function; UserError, before any model is loaded."""
    for name, weight in config.weights.items():
        if weight != 0 and is_path(name):
            metric_from_path(name)
        elif weight != 0 and name not in TERMS:
            asked = " ".join(filter(None, (nearest(name, TERMS), f"use {', '.join(TERMS)}")))
            raise UserError(f'reward.weights: unknown term "{name}"; {asked}, or a dotted path to a function')
