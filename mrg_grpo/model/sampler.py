"""One token of every report: run the last one, pick the next, write it down.

b reports that are being written, of B in all, V vocabulary, T room for tokens.

`Sampler` gives the logits with the policy's weights, by a `Decoder` or by the layers that train. `Writer` has the
reports of one decode in buffers, and takes them one token further with every call of `step`.

Deliberate choices:
* The step asks nothing of the device, and counts its tokens there. On a GPU it is recorded as one graph
  (mrg_grpo.model.cuda_graph), over a cache of fixed size. On a CPU, where every number computed costs time, it runs
  over a cache whose views grow. The tests hold one to the other.
* Reports that have ended leave the batch. The batch stays n equal groups: the largest group of unfinished reports sets
  their size. A graph is recorded anew for every new size, so there they leave once that halves the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mrg_grpo.model.cuda_graph import GraphRecorder, LateFlags
from mrg_grpo.model.decoder import Decoder
from mrg_grpo.model.kv_cache import DecodeCache, FixedDecodeCache
from mrg_grpo.model.logprobs import tempered
from mrg_grpo.model.policy import Policy, Prefix


class Sampler:
    """Logits of the next token of every report, with the policy's weights as they are when this object is made."""

    def __init__(self, policy: Policy, fast: bool | None = None, fixed: bool | None = None) -> None:
        """fast: use a `Decoder`; None leaves the choice to the policy. fixed: a step that can be recorded; None: on
        everything but a CPU.

        A `Decoder` copies the adapted layers, and on a CPU all layers of the text model; in bf16 it copies nothing. The
        copy is freed with this object. Its log-probabilities differ from those of training by rounding, which is logged
        as `sampling_gap`.
        """
        self.policy, base = policy, policy.base
        fast = policy.fast_decode if fast is None else fast
        self.decoder = Decoder(policy.family, policy.family.text_model(base), base.lm_head) if fast else None
        self.fixed = fast and (policy.device.type != "cpu" if fixed is None else fixed)
        self.recorded = self.fixed and policy.device.type == "cuda"  # whether the step becomes a graph

    def start(self, prefix: Prefix, studies: Tensor, group: int, room: int) -> tuple[DecodeCache, Tensor]:
        """A cache for `group` reports of each of the studies (n,), each of at most `room` tokens, and the logits (b, V)
        of their first tokens, divided by the temperature."""
        places = self.policy.places(prefix, studies, room)
        rotations = self.decoder.rotations(prefix.last_hidden, places.positions) if self.decoder else None
        kind, window = FixedDecodeCache if self.fixed else DecodeCache, self.policy.family.window
        cache = kind(prefix.keys, prefix.values, studies, group, places, rotations, window)
        return cache, self._logits(prefix.last_hidden.detach()[studies]).repeat_interleave(group, 0)

    def step(self, tokens: Tensor, cache: DecodeCache) -> Tensor:
        """Add one token per report (b,) -> logits of the next one (b, V), divided by the temperature."""
        if self.decoder:
            hidden = self.decoder(self.policy.base.get_input_embeddings()(tokens), cache)
        else:
            hidden = self.policy.run_tokens(tokens.unsqueeze(1), cache.position, cache)[:, 0]
        cache.advance()
        return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        lm_head = self.decoder.lm_head if self.decoder else self.policy.base.lm_head
        return tempered(lm_head(hidden), self.policy.temperature, self.policy.suppressed)


class Writer:
    """The reports of one decode, of which b are still being written: `group` of each study, next to each other."""

    def __init__(
        self, sampler: Sampler, prefix: Prefix, studies: Tensor, group: int, room: int, uniform: Tensor | None
    ) -> None:
        """Writes the first token of `group` reports of each of the studies (n,). uniform (B, T) samples; None takes the
        most probable token."""
        self.sampler, device, count = sampler, prefix.lengths.device, len(studies) * group
        kind = torch.promote_types(prefix.last_hidden.dtype, torch.float32)
        self.tokens = torch.zeros(room, count, dtype=torch.long, device=device)  # (T, B), a row for each step
        self.chances = torch.zeros(room, count, dtype=kind, device=device)  # (T, B), their probabilities
        self.uniform = None if uniform is None else uniform.to(device).t().contiguous()  # (T, B)
        self.stops = torch.tensor(sampler.policy.stop_ids, dtype=torch.long, device=device)
        self.rows = torch.arange(count, device=device)  # (b,) columns of the batch's reports in these
        self.last = torch.zeros(count, dtype=torch.long, device=device)  # (b,) the tokens written last
        self.ended = torch.zeros(count, dtype=torch.bool, device=device)  # (b,) whether a stop token is among theirs
        self.late = LateFlags() if sampler.fixed else None
        self.record = GraphRecorder(device) if sampler.recorded else None
        self.cache, logits = sampler.start(prefix, studies, group, room)
        self.write(logits)
        self.replay: Callable[[], None] | None = None  # the step as a graph, for the batch as it is now

    def step(self) -> None:
        """One token further."""
        self.write(self.sampler.step(self.last, self.cache))

    def write(self, logits: Tensor) -> None:
        """Pick a token of each report from logits (b, V), and write it at place t."""
        t, count = self.cache.t, self.tokens.shape[1]
        probabilities = torch.softmax(logits, dim=-1)  # (b, V)
        if self.uniform is None:
            chosen = logits.argmax(dim=-1)  # (b,)
        else:
            chosen = pick(probabilities, self.uniform.index_select(0, t)[0].index_select(0, self.rows))
        at = t * count + self.rows
        self.tokens.view(-1).index_copy_(0, at, chosen)
        self.chances.view(-1).index_copy_(0, at, probabilities.gather(1, chosen.unsqueeze(1)).squeeze(1))
        self.last.copy_(chosen)
        self.ended.logical_or_((chosen.unsqueeze(1) == self.stops).any(dim=1))

    def write_on(self, tokens: int) -> None:
        """Take this many steps; as a graph where the sampler records, from the second on of every size of the batch."""
        if tokens > 1 and self.record and not self.replay:
            self.replay = self.record(self.step)
            tokens -= 1
        advance = self.replay or self.step
        for _ in range(tokens):
            advance()

    def unfinished(self) -> Tensor | None:
        """Which reports (n, g) have not ended, on the CPU; None where that is not known yet."""
        ended = self.late.look(self.ended) if self.late else self.ended.cpu()
        return None if ended is None else ~ended.view(len(self.cache.studies), -1)

    def keep(self, alive: Tensor) -> None:
        """Let reports that are not alive (n, g) leave the batch."""
        group, studies = alive.shape[1], alive.any(dim=1).nonzero().squeeze(1)  # (n',)
        width = int(alive.sum(1).max())  # g'
        least = alive.numel() // 2 if self.sampler.fixed else alive.numel() - 1
        if len(studies) * width > least:
            return
        reports = (~alive[studies]).long().argsort(dim=1, stable=True)[:, :width]  # (n', g'), unfinished first
        places = (studies.unsqueeze(1) * group + reports).flatten().to(self.rows.device)  # (b',)
        self.cache.keep(studies.to(places.device), reports.to(places.device))
        self.rows, self.last, self.ended = self.rows[places], self.last[places], self.ended[places]
        self.replay, self.late = None, LateFlags() if self.late else None


def pick(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling: probabilities (b, V), uniform (b,) -> ids (b,). Probability 0 is never picked."""
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)  # (b, V)
    threshold = uniform.unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=probabilities.shape[1] - 1)
