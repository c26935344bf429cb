"""The policy: a vision-language model with LoRA, run over a shared prefix in three moves.

N studies, G reports of one study, B = N * G reports, b = n * g reports of a micro-batch (g of each of n studies),
P prompt tokens, T report tokens, L layers. A prompt is 300-1300 image tokens and a report 60-250, and all G reports of
a study continue the same prompt. So the prompt runs once per study, and training takes three moves with the gradient of
G full sequences:

    1. prefill    vision + prompt once per study; each layer's keys and values and the last hidden state become leaves
    2. logprobs   each micro-batch of reports continues from the leaves; loss.backward() piles gradients up in them
    3. backward   one backward pass from the leaves' gradients through the prompt

Beside it: adapters.py (LoRA, the frozen reference), rollout.py (sampling), decoder.py (one token of every report).

Deliberate choices:
* No state is left on the model between calls: transformers' `rope_deltas` is never read, positions are always explicit.
* Dropout is off throughout (`eval()`), so sampling, old, reference and training log-probabilities are of one policy.
  It also keeps transformers' gradient checkpointing away, which would drop the cache without an error.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional

from mrg_grpo.config import Config
from mrg_grpo.model import adapters
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.encoder import PromptEncoder, special_tokens
from mrg_grpo.model.families import Family
from mrg_grpo.model.fsdp import shard
from mrg_grpo.model.kv_cache import ContinuationCache, DecodeCache, Places, PrefixRecorder
from mrg_grpo.model.logprobs import token_logprobs
from mrg_grpo.model.lora import patch_lora
from mrg_grpo.model.pretrained import load_pretrained
from mrg_grpo.model.recompute import Recompute


@dataclass
class Prefix:
    """What G continuations of N studies need of their prompts: leaves, with gradient where move 1 had it."""

    keys: list[Tensor]  # L x (N, heads, P, head_dim)
    values: list[Tensor]
    last_hidden: Tensor  # (N, D), predicts the first report token
    attention_mask: Tensor  # (N, P), True on real tokens
    padded: bool  # whether any prompt is
    lengths: Tensor  # (N,) real prompt tokens
    rope_deltas: Tensor  # (N,)
    graph: list[Tensor] = field(default_factory=list)  # the same tensors with their history, for move 3

    def leaves(self) -> list[Tensor]:
        return [*self.keys, *self.values, self.last_hidden]

    @classmethod
    def joined(cls, parts: list[Prefix]) -> Prefix:
        """The prefixes of consecutive studies as one, shorter prompts padded on the left; not to be trained through."""
        width = max(part.attention_mask.shape[1] for part in parts)

        def rows(tensors: list[Tensor], dim: int) -> Tensor:
            padding = [(0, 0) * (x.dim() - 1 - dim) + (width - x.shape[dim], 0) for x in tensors]
            return torch.cat([functional.pad(x.detach(), pad) if any(pad) else x for x, pad in zip(tensors, padding)])

        return cls(
            keys=[rows(list(layer), 2) for layer in zip(*(part.keys for part in parts))],
            values=[rows(list(layer), 2) for layer in zip(*(part.values for part in parts))],
            last_hidden=torch.cat([part.last_hidden.detach() for part in parts]),
            attention_mask=rows([part.attention_mask for part in parts], 1),
            padded=any(part.padded or part.attention_mask.shape[1] < width for part in parts),
            lengths=torch.cat([part.lengths for part in parts]),
            rope_deltas=torch.cat([part.rope_deltas for part in parts]),
        )


class Policy:
    """A checkpoint, its tokenizer and its adapter. Built by `Policy.load`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        family: Family,
        encoder: PromptEncoder,
        stop_ids: list[int],
        recompute: str = "none",
    ) -> None:
        self.model = model.eval()
        self.tokenizer, self.family, self.encoder, self.stop_ids = tokenizer, family, encoder, stop_ids
        self.base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.device = next(self.base.parameters()).device
        self.suppressed = torch.tensor(family.suppressed_ids(tokenizer), device=self.device)
        stops = set(stop_ids)
        self.special_ids = [i for i in special_tokens(tokenizer) if i not in stops]
        self.reference = adapters.Reference(model)
        self.temperature = 1.0
        self.sharded = False  # True: every forward and backward pass is an exchange, so all ranks must make the same
        self.fast_decode = True  # whether sampling may use a Decoder
        self.recompute = Recompute(family, self.base, recompute)

    @classmethod
    def load(cls, config: Config, adapter: str | None = None, trainable: bool = True) -> Policy:
        """Load base, tokenizer and adapter. `adapter` (or model.adapter) continues a saved one, else a fresh LoRA."""
        parts = load_pretrained(config)
        model = adapters.attach(parts.model, parts.family, config, adapter or config.model.adapter or None, trainable)
        adapters.broadcast(model)
        plain = adapters.is_plain_lora(model)
        if config.model.shard:
            shard(parts.model, parts.family, config.model.resolved_device())
        elif plain:
            patch_lora(model)
        encoder = PromptEncoder(parts.tokenizer, parts.image_processor, parts.family, **vars(config.prompt))
        policy = cls(model, parts.tokenizer, parts.family, encoder, parts.stop_ids, config.grpo.recompute)
        policy.temperature, policy.sharded = config.sampling.temperature, config.model.shard
        policy.fast_decode = config.sampling.fast_decode and not policy.sharded and plain
        return policy

    @cached_property
    def plain_tokenizer(self) -> Any:
        """A copy for texts from outside, in which special tokens are read as text: to the tokenizers library that is a
        state, which the worker threads that encode prompts would see."""
        return copy.deepcopy(self.tokenizer)

    def trainable(self) -> list[torch.nn.Parameter]:
        """The parameters that an optimiser moves."""
        return adapters.trainable(self.model)

    # ---- move 1: the prompt, once per study

    def encode_images(self, prompts: PromptBatch) -> Tensor | None:
        """Vision features; of frozen modules computed once and kept in the batch for every later phase.

        Where any part of what makes them trains, tower or projector, they move: all of it runs anew in every call, the
        reference's with the start's weights, and its graph is part of the prefix (moves 1 and 3).
        """
        if not prompts.pixels:
            return None
        if any(p.requires_grad for part in self.family.vision_modules(self.base) for p in part.parameters()):
            return self.family.vision_features(self.base, prompts)
        if prompts.features is None:
            with torch.no_grad():
                prompts.features = self.family.vision_features(self.base, prompts)
        return prompts.features

    def prefill(self, prompts: PromptBatch, reference: bool = False) -> Prefix:
        """Run vision and prompt of N studies. With gradients enabled, the Prefix can be trained through.

        reference: as the frozen start policy, without gradient.
        """
        with self.reference() if reference else nullcontext(), self.recompute("prompt"):
            self.family.locate(prompts)
            inputs = self.family.prompt_inputs(self.base, prompts, self.encode_images(prompts))
            real = prompts.attention_mask.bool()  # (N, P)
            place = real.long().cumsum(1) - 1
            recorder = PrefixRecorder()
            masks = self.family.prompt_masks(prompts, place, real, prompts.padded)
            output = self.family.text_model(self.base)(
                inputs_embeds=inputs.embeds,
                attention_mask=masks,
                position_ids=prompts.positions,
                past_key_values=recorder,
                use_cache=True,
                **inputs.text_kwargs,
            )
        keys, values = recorder.take(self.family.layers)
        assert prompts.rope_deltas is not None
        graph = [*keys, *values, output.last_hidden_state[:, -1]]
        trains = graph[-1].requires_grad
        leaves = [t.detach().requires_grad_(trains and t.requires_grad) for t in graph]
        layers = self.family.layers
        return Prefix(
            keys=leaves[:layers],
            values=leaves[layers:-1],
            last_hidden=leaves[-1],
            attention_mask=real,
            padded=prompts.padded,
            lengths=real.sum(1),
            rope_deltas=prompts.rope_deltas,
            graph=graph if trains else [],
        )

    # ---- move 2: continuations

    def logprobs(
        self, prefix: Prefix, tokens: Tensor, mask: Tensor, studies: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of report tokens (b, T) given the prefix, of the tempered, suppressed distribution.

        studies (n,): the b reports are n equal groups in order, group i continues study studies[i]; None means all
        studies. mask (b, T): True on the tokens of a report, which lie in front; on the CPU, or the device is waited
        for.
        Returns (logps, entropy), both (b, T), 0 where masked; entropy is detached.
        """
        studies = (torch.arange(prefix.lengths.shape[0]) if studies is None else studies).to(self.device)
        tokens = tokens.to(self.device)
        mask, width = mask.bool(), tokens.shape[1]
        if self.sharded and width == 1:  # the layers must run here too: other ranks' reports are longer
            tokens, mask = functional.pad(tokens, (0, 1)), functional.pad(mask, (0, 1))
        rows = mask.flatten().nonzero().squeeze(1).to(tokens.device)  # (M,) the tokens of the micro-batch
        group = tokens.shape[0] // len(studies)
        hidden = prefix.last_hidden.index_select(0, studies).repeat_interleave(group, 0).unsqueeze(1)  # (b, 1, D)
        if tokens.shape[1] > 1:
            places = self.places(prefix, studies, tokens.shape[1] - 1)
            cache = ContinuationCache(prefix.keys, prefix.values, studies, places)
            with self.recompute("report"):
                later = self.run_tokens(tokens[:, :-1], places.positions, cache)
            if len(cache.seen) != self.family.layers:
                raise RuntimeError("the cache is not live: some layers did not read it")
            hidden = torch.cat([hidden, later], dim=1)  # (b, T, D)
        logps, entropy = token_logprobs(
            hidden.flatten(0, 1).index_select(0, rows),
            self.base.lm_head,
            tokens.flatten().index_select(0, rows),
            self.temperature,
            self.suppressed,
        )  # (M,)
        zeros = torch.zeros(mask.numel(), dtype=logps.dtype, device=logps.device)
        whole = [zeros.index_copy(0, rows, found).view(mask.shape)[:, :width] for found in (logps, entropy)]
        return whole[0], whole[1]

    def places(self, prefix: Prefix, studies: Tensor, count: int) -> Places:
        """The first `count` places behind the prompts of the studies (n,).

        The position of a report token is the number of REAL prompt tokens + its place + rope_delta: with the padded
        length instead, log-probabilities are off by 0.1 and nothing fails.
        """
        place = torch.arange(count, device=studies.device)
        seen = prefix.lengths[studies].unsqueeze(1) + place  # (n, count) real tokens in front of each
        masks = self.family.prefix_masks(prefix.attention_mask[studies], prefix.padded, seen)
        return Places(seen + prefix.rope_deltas[studies].unsqueeze(1), masks)

    def run_tokens(self, tokens: Tensor, positions: Tensor, cache: ContinuationCache | DecodeCache) -> Tensor:
        """Run report tokens (b, T) at positions (n, T) behind what the cache holds -> hidden states (b, T, D)."""
        positions = positions.repeat_interleave(len(tokens) // len(positions), 0)
        return (
            self.family.text_model(self.base)(
                inputs_embeds=self.base.get_input_embeddings()(tokens),
                attention_mask=self.family.continuation_mask(),
                position_ids=self.family.continuation_positions(positions),
                past_key_values=cache,
                use_cache=True,
                shared=cache,
            )
        ).last_hidden_state

    # ---- move 3: through the prompt

    def backward(self, prefix: Prefix) -> None:
        """Carry the gradients left in the leaves back through the prompt (and vision, if it trains)."""
        pairs = [(out, leaf.grad) for out, leaf in zip(prefix.graph, prefix.leaves()) if leaf.grad is not None]
        if pairs:
            outputs, gradients = zip(*pairs)
            torch.autograd.backward(outputs, gradients)
        prefix.graph = []
