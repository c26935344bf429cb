"""Group sampling: G reports of each of N studies, decoded from the one prefix of the study.

N studies, G group, B = N * G reports, T report tokens, V vocabulary; n, g, b = n * g of those still being written.

Deliberate choices:
* One uniform number per (report, token), taken beforehand from a generator keyed by (seed, step, study, sample), turned
  into a token by the inverse of the cumulative distribution. The same study gets the same samples on any number of
  ranks, in any batch and after a resume, and no random state has to be saved. A study that comes twice in one step has
  a key of its own each time.
* The loop never asks the device for a number per token; every CHECK_EVERY tokens it looks which reports have ended,
  and these leave the batch (mrg_grpo.model.sampler).
* The stop token is part of the report. What follows it is masked.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.errors import UserError
from mrg_grpo.model import adapters
from mrg_grpo.model.batch import pad_rows
from mrg_grpo.model.policy import Policy, Prefix
from mrg_grpo.model.sampler import Sampler, Writer

CHECK_EVERY = 16


@dataclass
class MicroBatch:
    """b = n * g reports of a rollout: g of each of n studies, those of one study next to each other."""

    rows: Tensor  # (b,) places in the rollout, on the CPU
    studies: Tensor  # (n,) places among the studies that it was made from, on the CPU
    width: int  # tokens of the longest


@dataclass
class Rollout:
    """B reports, the G of one study next to each other. All but `logps` is on the CPU, where texts are made, so later
    phases know where a report ends without waiting for the device."""

    tokens: Tensor  # (B, T), padded behind with 0
    mask: Tensor  # (B, T), True up to and including the stop token
    logps: Tensor  # (B, T), at sampling time, 0 where masked; on the device
    finished: Tensor  # (B,), False where the length limit cut the report
    texts: list[str]  # B completions, special tokens left out
    special: Tensor | None = None  # (B,), how many special tokens that end nothing a completion holds

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)

    def trained_mask(self, mask_truncated: bool) -> Tensor:
        """(B, T): the tokens that train; with mask_truncated none of a report that the length limit cut."""
        return self.mask & self.finished.unsqueeze(1) if mask_truncated else self.mask

    def special_counts(self) -> list[int]:
        """B numbers: special tokens other than the stop, which the texts leave out."""
        return [0] * len(self.texts) if self.special is None else self.special.tolist()

    def token_lists(self) -> list[list[int]]:
        return [row[:n] for row, n in zip(self.tokens.tolist(), self.lengths.tolist())]

    def chosen(self, rows: Tensor) -> "Rollout":
        """The reports at these places (b,), in this order."""
        tensors = (self.tokens[rows], self.mask[rows], self.logps[rows.to(self.logps.device)], self.finished[rows])
        special = None if self.special is None else self.special[rows]
        return Rollout(*tensors, [self.texts[i] for i in rows.tolist()], special)

    def micro_batches(
        self, size: int, group: int, studies: range | None = None, teaches: Tensor | None = None
    ) -> list[MicroBatch]:
        """Reports of some consecutive studies (None: of all) in blocks of at most `size` (0: no limit), each trimmed to
        its own longest report.

        Whole studies while they fit, else parts of one; long reports lie together, so that little is padding.
        teaches (N,): studies that are left out are False, those whose rewards have no spread and teach nothing.
        """
        lengths = self.lengths.view(-1, group).tolist()
        studies = range(len(lengths)) if studies is None else studies
        chosen_studies = [n for n in studies if teaches is None or bool(teaches[n])]
        by_length = sorted(chosen_studies, key=lambda n: -max(lengths[n]))
        per_study = min(size or group, group)
        together = max(1, (size or len(lengths) * group) // group) if per_study == group else 1
        blocks = []
        for start in range(0, len(by_length), together):
            part = by_length[start : start + together]
            order = {n: sorted(range(group), key=lambda i: -lengths[n][i]) for n in part}
            for first in range(0, group, per_study):
                chosen = [(n, i) for n in part for i in order[n][first : first + per_study]]
                rows = torch.tensor([n * group + i for n, i in chosen])
                width = max(lengths[n][i] for n, i in chosen)
                blocks.append(MicroBatch(rows, torch.tensor([n - studies.start for n in part]), width))
        return blocks


def uniforms(seed: int, step: int, keys: list[tuple[str, int]], tokens: int) -> Tensor:
    """(B, tokens) uniform numbers in [0, 1), float64, one independent stream per (study key, sample number)."""
    rows = []
    for study, sample in keys:
        digest = hashlib.sha256(f"{seed}/{step}/{study}/{sample}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        rows.append(torch.rand(tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


@torch.no_grad()
def decode(
    sampler: Sampler,
    prefix: Prefix,
    max_tokens: int,
    group: int = 1,
    studies: Tensor | None = None,
    uniform: Tensor | None = None,
) -> Rollout:
    """`group` reports of each of the studies (n,), None for all, until a stop token or max_tokens.

    uniform (n * group, max_tokens) samples; None decodes greedily.
    """
    policy, device = sampler.policy, prefix.lengths.device
    studies = torch.arange(len(prefix.lengths), device=device) if studies is None else studies
    writer, written = Writer(sampler, prefix, studies, group, max_tokens, uniform), 1
    while written < max_tokens:
        steps = min(CHECK_EVERY - written % CHECK_EVERY, max_tokens - written)
        writer.write_on(steps)
        written += steps
        alive = writer.unfinished() if written < max_tokens else None  # (n, g); the only wait for the device
        if alive is None:
            continue
        if policy.sharded:
            alive = unfinished_anywhere(alive)
        if not alive.any():
            break
        writer.keep(alive)

    tokens = writer.tokens.cpu()  # (max_tokens, count)
    stopping = torch.isin(tokens, torch.tensor(policy.stop_ids, dtype=torch.long))
    mask = stopping.cumsum(0) - stopping.long() == 0  # up to and including the first stop
    width = int(mask.sum(0).max())
    tokens, mask, stopping = (x[:width].t().contiguous() for x in (tokens, mask, stopping))
    logps = writer.chances[:width].t().log().masked_fill(~mask.to(device), 0)
    rollout = Rollout(tokens * mask, mask, logps, (stopping & mask).any(dim=1), [])
    rollout.special = (torch.isin(rollout.tokens, torch.tensor(policy.special_ids)) & mask).sum(dim=1)
    rollout.texts = policy.tokenizer.batch_decode(rollout.token_lists(), skip_special_tokens=True)
    return rollout


def require_finite(policy: Policy, rollout: Rollout) -> None:
    """UserError where the logits that reports were decoded from are not finite: what they say is then no report.

    One look at the end of a decode, which has waited for the device anyway. A step of training looks for itself.
    """
    if not bool(rollout.logps.isfinite().all()):
        raise UserError(f"the policy's logits are not finite; {adapters.not_finite(policy.model)}")


def sample_groups(policy: Policy, prefix: Prefix, keys: list[str], config: Config, step: int) -> Rollout:
    """G reports per study, drawn by its key, at the policy's temperature, at most `sampling.batch` at once."""
    group, limit = config.grpo.group_size, config.sampling.max_tokens
    size = config.sampling.batch or group * len(keys)
    sampler, parts, places = Sampler(policy), [], []
    for studies in torch.arange(len(keys)).split(max(1, size // group)):
        for samples in torch.arange(group).split(size):
            streams = [(keys[n], i) for n in studies.tolist() for i in samples.tolist()]
            numbers = uniforms(config.run.seed, step, streams, limit)
            device_studies = studies.to(prefix.lengths.device)
            parts.append(decode(sampler, prefix, limit, len(samples), device_studies, numbers))
            places.append((studies.unsqueeze(1) * group + samples).flatten())
    return joined(parts, torch.cat(places))


def unfinished_anywhere(unfinished: Tensor) -> Tensor:
    """Which reports (n, g) go on where all ranks must run the layers: one does for as long as any rank's do.

    What it writes lies behind its stop token and is masked.
    """
    if any(distributed.all_gather(bool(unfinished.any()))):
        unfinished[0, 0] |= ~unfinished.any()
    return unfinished


def joined(parts: list[Rollout], places: Tensor) -> Rollout:
    """Rollouts of any width -> one, with row i of their concatenation at places[i]."""
    if len(parts) == 1:
        return parts[0]
    order = places.argsort()

    def column(name: str) -> Tensor:
        rows = pad_rows([getattr(part, name) for part in parts])
        return rows[order.to(rows.device)]

    texts = [text for part in parts for text in part.texts]
    return Rollout(
        column("tokens"),
        column("mask"),
        column("logps"),
        column("finished"),
        [texts[i] for i in order.tolist()],
        column("special"),
    )
