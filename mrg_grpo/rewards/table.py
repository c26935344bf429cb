"""What rewards are computed from, and what comes out: B reports, and a table with a column for each term."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo.data.study import Study
from mrg_grpo.prompt import Completion


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
