"""The terms that reward.weights can name, each a function of the reports of a step."""

from collections.abc import Callable

import torch
from torch import Tensor

from mrg_grpo.config import RewardConfig
from mrg_grpo.rewards.ce_f1 import ce_f1
from mrg_grpo.rewards.clinical import clinical
from mrg_grpo.rewards.format import format_reward
from mrg_grpo.rewards.length import overlong, repetition
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, unsigned_cosine
from mrg_grpo.rewards.nlg import bleu, rouge_l
from mrg_grpo.rewards.table import Reports

Term = Callable[[Reports], Tensor]
"""B reports -> (B,)."""


def own_terms(config: RewardConfig, rarity: Tensor | None = None, max_tokens: int = 160) -> dict[str, Term]:
    """Name -> term. rarity (2, 13): weights of the training references, where reward.mccs.weighting asks for them;
    max_tokens: the longest completion."""
    settings = config.mccs
    empty, buffer = settings.zero_vectors, config.overlong_buffer
    return {
        "mccs": lambda r: mccs(r.labels, r.reference_labels, settings.margin, weights=rarity, zero_vectors=empty),
        "ccs": lambda r: clinical_cosine(r.labels, r.reference_labels, weights=rarity, zero_vectors=empty),
        "unsigned_cosine": lambda r: unsigned_cosine(r.labels, r.reference_labels, zero_vectors=empty),
        "clinical": lambda r: clinical(r.labels, r.reference_labels, config.clinical),
        "format": lambda r: format_reward(r.parsed),
        "ce_f1": lambda r: ce_f1(r.labels, r.reference_labels),
        "bleu": lambda r: bleu(r.texts, r.references),
        "rouge_l": lambda r: rouge_l(r.texts, r.references),
        "repetition": lambda r: repetition(r.texts),
        "overlong": lambda r: overlong(torch.tensor([len(ids) for ids in r.completion_ids]), max_tokens, buffer),
    }


TERMS = tuple(own_terms(RewardConfig()))
