"""The rewards that the audit audits: of labels, of words, mixes of both, and the two terms for what no label sees.

Deliberate choices
* A mix is the mean of its two rewards (1:1), so that the true report is paid 1 by it too.
* The two terms, `repetition` and `overlong`, are joined to a reward with the weight that the default gives the format,
  and so that a true report that neither repeats itself nor reaches the limit is paid as before.
* Tokens are those of the embedded policy, limits those of the configurations of the two corpora.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mrg_grpo.config import ClinicalConfig, RewardConfig
from mrg_grpo.embedded import base_path
from mrg_grpo.rewards.ce_f1 import ce_f1
from mrg_grpo.rewards.clinical import clinical
from mrg_grpo.rewards.length import overlong, repetition
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, rarity_weights, unsigned_cosine
from mrg_grpo.rewards.nlg import bleu, rouge_l

Reward = Callable[[Tensor, Tensor], Tensor]
"""Class ids (..., 14) of the report and of the reference -> (...,)."""

MEMBERS = {
    "clinical": ClinicalConfig(),
    "clinical by positives": ClinicalConfig(normal="positive"),
    "clinical d=0": ClinicalConfig(denial=0.0),
}
MIXES = {f"clinical d=0 + {words}": ("clinical d=0", words) for words in ("ROUGE-L", "BLEU")}
"""Mix -> its reward of labels and that of words."""
GUARDS = ("repetition", "overlong")
GUARDED = ("CE-F1", "MCCS 0.6", "clinical", "clinical d=0 + BLEU")
"""The rewards that are also shown with both terms."""


def clinical_rewards(train_labels: Tensor) -> dict[str, Reward]:
    """Every reward of labels, by name; rarity weights are those of the training labels (R, 14)."""
    rare = rarity_weights(train_labels)
    return {
        "CE-F1": ce_f1,
        "unsigned cosine": unsigned_cosine,
        "CCS": clinical_cosine,
        "MCCS 0.2": lambda a, b: mccs(a, b, 0.2),
        "MCCS 0.6": lambda a, b: mccs(a, b, 0.6),
        "rarity CCS": lambda a, b: clinical_cosine(a, b, rare),
        "rarity MCCS 0.2": lambda a, b: mccs(a, b, 0.2, rare),
        "rarity MCCS 0.6": lambda a, b: mccs(a, b, 0.6, rare),
        **{name: partial(clinical, settings=settings) for name, settings in MEMBERS.items()},
    }


def text_rewards(
    texts: list[str], references: list[str], of_labels: Mapping[str, Tensor], limit: int
) -> dict[str, Tensor]:
    """S reports, and what rewards of labels pay them, (S,) each -> every reward, (S,) each. limit: in tokens."""
    row = {"BLEU": bleu(texts, references), "ROUGE-L": rouge_l(texts, references)} | dict(of_labels)
    row |= {mix: (row[labels] + row[words]) / 2 for mix, (labels, words) in MIXES.items()}
    tokens = torch.tensor([token_count(text) for text in texts])
    return row | {"repetition": repetition(texts), "overlong": overlong(tokens, limit, RewardConfig().overlong_buffer)}


def guarded(row: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rewards of GUARDED, (S,) each, joined by both terms."""
    weight = RewardConfig().weights["format"]
    again, long = (row[name] for name in GUARDS)
    return {name: (row[name] + weight * again) / (1 + weight) + weight * long for name in GUARDED}


@cache
def _tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base_path())


def token_count(text: str) -> int:
    """Tokens of the embedded policy."""
    return len(_tokenizer()(text)["input_ids"])
