"""Group sampling: G reports of each of N studies, decoded from the one prefix of the study.

N studies, G group, B = N * G reports, T report tokens, V vocabulary.

Deliberate choices:
* One uniform number per (report, token), drawn beforehand from a generator keyed by (seed, step, study, sample), turned
  into a token by the inverse of the cumulative distribution. The same study gets the same samples on any number of
  ranks, in any batch and after a resume, and no random state has to be saved.
* The loop never asks the device for a number per token; every CHECK_EVERY tokens it looks which reports have ended,
  and these leave the batch.
* The stop token is part of the report. What follows it is masked.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo.config import Config
from mrg_grpo.policy import Policy, Prefix

CHECK_EVERY = 16


@dataclass
class Rollout:
    """B reports, those of one study next to each other."""

    tokens: Tensor  # (B, T), padded behind with 0
    mask: Tensor  # (B, T), True up to and including the stop token
    logps: Tensor  # (B, T), at sampling time, 0 where masked
    finished: Tensor  # (B,), False where the length limit cut the report
    rows: Tensor  # (B,), index of the study
    texts: list[str]  # B completions, special tokens left out

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)

    def trained_mask(self, mask_truncated: bool) -> Tensor:
        """(B, T): the tokens that train; with mask_truncated none of a report that the length limit cut."""
        return self.mask & self.finished.unsqueeze(1) if mask_truncated else self.mask

    def token_lists(self) -> list[list[int]]:
        return [row[:n] for row, n in zip(self.tokens.tolist(), self.lengths.tolist())]

    def micro_batches(self, size: int) -> list[Tensor]:
        """Rows (b,) of each micro-batch, long reports together so that little is padding; size 0 is all at once."""
        order = self.lengths.argsort(descending=True, stable=True)
        return list(order.split(size or len(order)))


def uniforms(seed: int, step: int, keys: list[tuple[str, int]], tokens: int) -> Tensor:
    """(B, tokens) uniform numbers in [0, 1), float64, one independent stream per (study id, sample number)."""
    rows = []
    for study, sample in keys:
        digest = hashlib.sha256(f"{seed}/{step}/{study}/{sample}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        rows.append(torch.rand(tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling: tempered logits (b, V), uniform (b,) -> ids (b,). Probability 0 is never picked."""
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)  # (b, V)
    threshold = uniform.unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


@torch.no_grad()
def decode(
    policy: Policy, prefix: Prefix, rows: Tensor, max_tokens: int, uniform: Tensor | None = None, forced: bool = False
) -> Rollout:
    """Continue the prefix of each row until a stop token or max_tokens. uniform None decodes greedily.

    forced=True ignores stop tokens (benchmarks compare engines at a fixed length).
    """
    count, device = len(rows), rows.device
    tokens = torch.zeros(count, max_tokens, dtype=torch.long, device=device)
    logps = torch.zeros(
        count, max_tokens, dtype=torch.promote_types(prefix.last_hidden.dtype, torch.float32), device=device
    )
    lengths = torch.full((count,), max_tokens, device=device)
    stops = torch.tensor(policy.stop_ids, device=device)
    uniform = None if uniform is None else uniform.to(device)

    alive = torch.arange(count, device=device)  # rows of the output still being written
    ended = torch.zeros(count, dtype=torch.bool, device=device)  # of the alive ones
    cache = policy.decode_cache(prefix, rows, max_tokens)
    logits = policy.first_logits(prefix, rows)
    for t in range(max_tokens):
        chosen = logits.argmax(dim=-1) if uniform is None else pick(logits, uniform[alive, t])
        tokens[alive, t] = chosen
        logps[alive, t] = logits.gather(1, chosen.unsqueeze(1)).squeeze(1) - torch.logsumexp(logits, dim=-1)
        if not forced:
            stopping = torch.isin(chosen, stops) & ~ended
            lengths[alive] = torch.where(stopping, t + 1, lengths[alive])
            ended = ended | stopping
        if t + 1 == max_tokens:
            break
        if (t + 1) % CHECK_EVERY == 0 and bool(ended.any()):  # the loop's only wait for the device
            keep = (~ended).nonzero().squeeze(1)
            if len(keep) == 0:
                break
            cache.keep(keep)
            alive, chosen, ended = alive[keep], chosen[keep], ended[keep]
        logits = policy.next_logits(prefix, chosen, rows[alive], cache)

    width = int(lengths.max())
    mask = torch.arange(width, device=device) < lengths.unsqueeze(1)
    tokens, logps = tokens[:, :width] * mask, logps[:, :width] * mask
    last = tokens.gather(1, (lengths - 1).unsqueeze(1)).squeeze(1)
    texts = policy.tokenizer.batch_decode(
        [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist())], skip_special_tokens=True
    )
    return Rollout(tokens, mask, logps, torch.isin(last, stops), rows, texts)


def sample_groups(policy: Policy, prefix: Prefix, study_ids: list[str], config: Config, step: int) -> Rollout:
    """G reports per study at the policy's temperature, with LoRA merged for the time of sampling."""
    group, limit = config.grpo.group_size, config.sampling.max_tokens
    rows = torch.arange(len(study_ids), device=prefix.lengths.device).repeat_interleave(group)
    keys = [(study, sample) for study in study_ids for sample in range(group)]
    with policy.merged():
        return decode(policy, prefix, rows, limit, uniforms(config.run.seed, step, keys, limit))
