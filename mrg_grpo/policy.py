"""The policy: a vision-language model with LoRA, run over a shared prefix.

N studies, G reports of one study, B = N * G reports, b reports of a micro-batch, P prompt tokens, T report tokens,
L layers. A prompt is 300-1300 image tokens and a report 60-250, and all G reports of a study continue the same prompt.
So the prompt runs once per study, and training takes three moves with the gradient of G full sequences:

    1. prefill    vision + prompt once per study; each layer's keys and values and the last hidden state become leaves
    2. logprobs   each micro-batch of reports continues from the leaves; loss.backward() piles gradients up in them
    3. backward   one backward pass from the leaves' gradients through the prompt

Deliberate choices:
* No state is left on the model between calls: transformers' `rope_deltas` is never read, positions are always explicit.
* Dropout is off throughout (`eval()`), so sampling, old, reference and training log-probabilities are of one policy.
  It also keeps transformers' gradient checkpointing away, which would drop the cache without an error.
* The reference is the adapter as it was at the start, swapped in for the call: for a fresh adapter (B = 0) that is the
  base itself, for a continued one the warm start. One code path for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor

from mrg_grpo.batch import PromptBatch, PromptEncoder
from mrg_grpo.cache import ContinuationCache, DecodeCache, PrefixRecorder
from mrg_grpo.config import Config
from mrg_grpo.errors import UserError
from mrg_grpo.families import Family
from mrg_grpo.pretrained import load_pretrained
from mrg_grpo.projection import tempered, token_logprobs


@dataclass
class Prefix:
    """What G continuations of N studies need of their prompts: leaves, with gradient where move 1 had it."""

    keys: list[Tensor]  # L x (N, heads, P, head_dim)
    values: list[Tensor]
    last_hidden: Tensor  # (N, D), predicts the first report token
    attention_mask: Tensor  # (N, P), True on real tokens
    lengths: Tensor  # (N,) real prompt tokens
    rope_deltas: Tensor  # (N,)
    graph: list[Tensor] = field(default_factory=list)  # the same tensors with their history, for move 3

    def leaves(self) -> list[Tensor]:
        return [*self.keys, *self.values, self.last_hidden]


class Policy:
    """A checkpoint, its tokenizer and its adapter. Built by `Policy.load`."""

    def __init__(self, model: Any, tokenizer: Any, family: Family, encoder: PromptEncoder, stop_ids: list[int]) -> None:
        self.model = model.eval()
        self.tokenizer, self.family, self.encoder, self.stop_ids = tokenizer, family, encoder, stop_ids
        self.base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.device = next(self.base.parameters()).device
        self.suppressed = torch.tensor(family.suppressed_ids(tokenizer), device=self.device)
        self.temperature = 1.0
        self.start = [(p, p.detach().clone()) for p in self.trainable()] if isinstance(model, PeftModel) else []

    @classmethod
    def load(cls, config: Config, adapter: str | None = None, trainable: bool = True) -> Policy:
        """Load base, tokenizer and adapter. `adapter` (or model.adapter) continues a saved one, else a fresh LoRA."""
        parts = load_pretrained(config)
        model = with_adapter(parts.model, parts.family, config, adapter or config.model.adapter or None, trainable)
        encoder = PromptEncoder(
            parts.tokenizer, parts.image_processor, parts.family, config.prompt.text, config.prompt.think
        )
        policy = cls(model, parts.tokenizer, parts.family, encoder, parts.stop_ids)
        policy.temperature = config.sampling.temperature
        return policy

    # ---- parameters

    def trainable(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def parameter_counts(self) -> str:
        trainable = sum(p.numel() for p in self.trainable())
        frozen = sum(p.numel() for p in self.model.parameters()) - trainable
        return f"{trainable:,} trainable and {frozen:,} frozen parameters"

    def save(self, folder: str) -> None:
        """The adapter in PEFT's own format."""
        self.model.save_pretrained(folder)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within: the frozen start policy. No gradients."""
        for parameter, start in self.start:
            parameter.data, start.data = start.data, parameter.data
        try:
            with torch.no_grad():
                yield
        finally:
            for parameter, start in self.start:
                parameter.data, start.data = start.data, parameter.data

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within: LoRA folded into the base weights, for sampling.

        The base is kept and put back, so the undoing is exact (PEFT's unmerge subtracts a rounded delta). In bf16 a
        merged policy samples slightly differently: the gap is logged.
        """
        kept: list[tuple[Any, Tensor, Tensor]] = []
        modules: Iterator[Any] = self.model.modules()
        try:
            for module in [m for m in modules if is_lora(m) and not m.merged_adapters]:
                weight = module.get_base_layer().weight
                kept.append((module, weight, weight.data))
                delta = module.get_delta_weight(module.active_adapters[0])
                weight.data = (weight.data + delta.to(weight.dtype)).detach()
                module.merged_adapters.append(module.active_adapters[0])
            yield
        finally:
            for module, weight, data in kept:
                weight.data = data
                module.merged_adapters.clear()

    # ---- move 1: the prompt, once per study

    def encode_images(self, prompts: PromptBatch) -> Tensor | None:
        """Vision features; of a frozen tower computed once and kept in the batch for every later phase.

        A tower with LoRA moves: it runs anew in every call, and its graph is part of the prefix (moves 1 and 3).
        """
        if not prompts.pixels:
            return None
        if any(p.requires_grad for p in self.family.vision_tower(self.base).parameters()):
            return self.family.vision_features(self.base, prompts)
        if prompts.features is None:
            with torch.no_grad():
                prompts.features = self.family.vision_features(self.base, prompts)
        return prompts.features

    def prefill(self, prompts: PromptBatch, reference: bool = False) -> Prefix:
        """Run vision and prompt of N studies. With gradients enabled, the Prefix can be trained through."""
        with self.reference() if reference else nullcontext():
            inputs = self.family.prompt_inputs(self.base, prompts, self.encode_images(prompts))
            real = prompts.attention_mask.bool()  # (N, P)
            place = real.long().cumsum(1) - 1
            recorder = PrefixRecorder()
            padded = not bool(real.all())
            masks = self.family.prompt_masks(prompts, place, real, padded)
            output = self.family.text_model(self.base)(
                inputs_embeds=inputs.embeds,
                attention_mask=masks,
                position_ids=inputs.positions,
                past_key_values=recorder,
                use_cache=True,
                **inputs.text_kwargs,
            )
        if len(recorder.keys) != self.family.layers:
            raise RuntimeError("the cache is not live: some layers did not write it (gradient checkpointing drops it)")
        graph = [*recorder.keys, *recorder.values, output.last_hidden_state[:, -1]]
        trains = graph[-1].requires_grad
        leaves = [t.detach().requires_grad_(trains and t.requires_grad) for t in graph]
        layers = self.family.layers
        return Prefix(
            keys=leaves[:layers],
            values=leaves[layers:-1],
            last_hidden=leaves[-1],
            attention_mask=real,
            lengths=real.sum(1),
            rope_deltas=inputs.rope_deltas,
            graph=graph if trains else [],
        )

    # ---- move 2: continuations

    def logprobs(
        self, prefix: Prefix, tokens: Tensor, mask: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of report tokens (b, T) given the prefix, of the tempered, suppressed distribution.

        rows (b,): which study each report continues; None means equal groups in order. mask (b, T): True on the tokens
        of a report, which lie in front. Returns (logps, entropy), both (b, T), 0 where masked; entropy is detached.
        """
        if rows is None:
            studies = prefix.lengths.shape[0]
            rows = torch.arange(studies, device=tokens.device).repeat_interleave(tokens.shape[0] // studies)
        mask = mask.bool()
        hidden = prefix.last_hidden.index_select(0, rows).unsqueeze(1)  # (b, 1, D)
        if tokens.shape[1] > 1:
            cache = ContinuationCache(prefix.keys, prefix.values, rows)
            later = self._continue(prefix, tokens[:, :-1], rows, cache, prefix.attention_mask.shape[1])
            if cache.layers_seen != self.family.layers:
                raise RuntimeError("the cache is not live: some layers did not read it")
            hidden = torch.cat([hidden, later], dim=1)  # (b, T, D)
        logps, entropy = token_logprobs(
            hidden[mask], self.base.lm_head, tokens[mask], self.temperature, self.suppressed
        )  # (tokens of the micro-batch,)
        zeros = torch.zeros(mask.shape, dtype=logps.dtype, device=logps.device)
        return zeros.masked_scatter(mask, logps), zeros.masked_scatter(mask, entropy)

    def _continue(self, prefix: Prefix, tokens: Tensor, rows: Tensor, cache, before: int) -> Tensor:
        """Run tokens (b, t) behind `before` cached positions -> hidden states (b, t, D).

        The position of a report token is the number of REAL prompt tokens + t + rope_delta: with the padded length
        instead, log-probabilities are off by 0.1 and nothing fails.
        """
        prompt = prefix.attention_mask.shape[1]
        width, real = tokens.shape[1], prefix.lengths[rows].unsqueeze(1)  # (b, 1)
        t = torch.arange(before - prompt, before - prompt + width, device=tokens.device)  # (t,)
        positions = real + t + prefix.rope_deltas[rows].unsqueeze(1)  # (b, t)
        prompt_real = prefix.attention_mask[rows]  # (b, P)
        key_real = torch.cat([prompt_real, prompt_real.new_ones(len(rows), before - prompt + width)], dim=1)
        key = key_real.long().cumsum(1) - 1
        masks = self.family.attention_masks(key[:, -width:], key, key_real)
        return (
            self.family.text_model(self.base)(
                inputs_embeds=self.base.get_input_embeddings()(tokens),
                attention_mask=masks,
                position_ids=self.family.continuation_positions(positions),
                past_key_values=cache,
                use_cache=True,
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

    # ---- sampling, one token at a time

    def decode_cache(self, prefix: Prefix, rows: Tensor, room: int) -> DecodeCache:
        return DecodeCache([k.detach() for k in prefix.keys], [v.detach() for v in prefix.values], rows, room)

    def first_logits(self, prefix: Prefix, rows: Tensor) -> Tensor:
        """Tempered logits of the first report token (b, V)."""
        return self._logits(prefix.last_hidden.detach()[rows])

    def next_logits(self, prefix: Prefix, tokens: Tensor, rows: Tensor, cache: DecodeCache) -> Tensor:
        """Feed one token per report (b,) -> tempered logits of the one after it (b, V)."""
        hidden = self._continue(prefix, tokens.unsqueeze(1), rows, cache, cache.length)
        cache.advance()
        return self._logits(hidden[:, 0])

    def _logits(self, hidden: Tensor) -> Tensor:
        return tempered(self.base.lm_head(hidden), self.temperature, self.suppressed)


def is_lora(module: Any) -> bool:
    return isinstance(module, LoraLayer)


def with_adapter(model: Any, family: Family, config: Config, adapter: str | None, trainable: bool) -> Any:
    """Wrap the base: a saved adapter where one is named, else a fresh LoRA as configured."""
    if adapter is None:
        targets = family.lora_targets(config.lora.targets, config.lora.vision)
        lora = LoraConfig(
            r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules=targets, lora_dropout=0.0, bias="none"
        )
        try:
            return get_peft_model(model, lora)
        except ValueError as error:
            raise UserError(f"lora.targets {config.lora.targets}: {str(error).splitlines()[0]}") from error
    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"adapter {adapter}: does not fit this base or is no PEFT adapter ({first})") from error
