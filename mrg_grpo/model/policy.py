"""The policy: a vision-language model with LoRA, run over a shared prefix.

N studies, G reports of one study, B = N * G reports, b = n * g reports of a micro-batch (g of each of n studies),
P prompt tokens, T report tokens, L layers. A prompt is 300-1300 image tokens and a report 60-250, and all G reports of
a study continue the same prompt. So the prompt runs once per study, and training takes three moves with the gradient of
G full sequences:

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

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.errors import UserError
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.decoder import Decoder
from mrg_grpo.model.encoder import PromptEncoder
from mrg_grpo.model.families import Family
from mrg_grpo.model.fsdp import shard
from mrg_grpo.model.kv_cache import ContinuationCache, DecodeCache, PrefixRecorder
from mrg_grpo.model.logprobs import tempered, token_logprobs
from mrg_grpo.model.lora import quicken
from mrg_grpo.model.pretrained import load_pretrained


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


class Policy:
    """A checkpoint, its tokenizer and its adapter. Built by `Policy.load`."""

    def __init__(self, model: Any, tokenizer: Any, family: Family, encoder: PromptEncoder, stop_ids: list[int]) -> None:
        self.model = model.eval()
        self.tokenizer, self.family, self.encoder, self.stop_ids = tokenizer, family, encoder, stop_ids
        self.base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.device = next(self.base.parameters()).device
        self.suppressed = torch.tensor(family.suppressed_ids(tokenizer), device=self.device)
        self.temperature = 1.0
        self.fast_decode = True
        self.sharded = False  # True: every forward and backward pass is an exchange, so all ranks must make the same
        self.decoder: Decoder | None = None  # within `merged`
        self.remember_start()

    @classmethod
    def load(cls, config: Config, adapter: str | None = None, trainable: bool = True) -> Policy:
        """Load base, tokenizer and adapter. `adapter` (or model.adapter) continues a saved one, else a fresh LoRA."""
        parts = load_pretrained(config)
        model = with_adapter(parts.model, parts.family, config, adapter or config.model.adapter or None, trainable)
        if config.model.shard:
            shard(parts.model, parts.family, config.model.resolved_device())
        elif is_plain_lora(model):
            quicken(model)
        encoder = PromptEncoder(
            parts.tokenizer, parts.image_processor, parts.family, config.prompt.text, config.prompt.think
        )
        policy = cls(model, parts.tokenizer, parts.family, encoder, parts.stop_ids)
        policy.temperature, policy.sharded = config.sampling.temperature, config.model.shard
        policy.fast_decode = config.sampling.fast_decode and not policy.sharded and is_plain_lora(model)
        return policy

    def remember_start(self) -> None:
        """The adapter as it is now is the reference. `fresh`: it changes nothing.

        Every LoRA B is 0 then; of an embedding PEFT starts A at 0 and draws B.
        """
        adapted = isinstance(self.model, PeftModel)
        self.start = [(p, p.detach().clone()) for p in self.trainable()] if adapted else []
        zero = ("lora_B", "lora_embedding_A")
        self.fresh = adapted and not any(
            parameter.any() for name, parameter in self.model.named_parameters() if any(part in name for part in zero)
        )

    def share_start(self) -> None:
        """Rank 0's adapter on every rank, as policy and as reference."""
        sent = distributed.broadcast([p.detach().cpu() for p in self.trainable()])
        for parameter, start in zip(self.trainable(), sent):
            parameter.data.copy_(start)
        self.remember_start()

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
            with torch.no_grad(), self._without_adapter() if self.fresh else nullcontext():
                yield
        finally:
            for parameter, start in self.start:
                parameter.data, start.data = start.data, parameter.data

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within: tokens are written by a `Decoder`, with LoRA folded into copies of fp32 and fp64 weights.

        The base is not touched, so there is nothing to undo (PEFT's unmerge subtracts a rounded delta). The copy is as
        large as the adapted layers, and on a CPU as all of the text model's; `sampling.fast_decode = false` does without
        it. In bf16 nothing is copied. What is left between sampling and training is rounding, and logged.
        """
        if self.fast_decode:
            self.decoder = Decoder(self.family, self.family.text_model(self.base), self.base.lm_head)
        try:
            yield
        finally:
            self.decoder = None

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        """Within: the base's own layers stand where PEFT's wrappers were, at the base's own speed."""
        places = [
            (parent, name, child)
            for parent in self.model.modules()
            for name, child in parent.named_children()
            if isinstance(child, LoraLayer)
        ]
        try:
            for parent, name, child in places:
                setattr(parent, name, child.get_base_layer())
            yield
        finally:
            for parent, name, child in places:
                setattr(parent, name, child)

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
            padded=padded,
            lengths=real.sum(1),
            rope_deltas=inputs.rope_deltas,
            graph=graph if trains else [],
        )

    # ---- move 2: continuations

    def logprobs(
        self, prefix: Prefix, tokens: Tensor, mask: Tensor, studies: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of report tokens (b, T) given the prefix, of the tempered, suppressed distribution.

        studies (n,): the b reports are n equal groups in order, group i continues study studies[i]; None means all
        studies. mask (b, T): True on the tokens of a report, which lie in front.
        Returns (logps, entropy), both (b, T), 0 where masked; entropy is detached.
        """
        if studies is None:
            studies = torch.arange(prefix.lengths.shape[0], device=tokens.device)
        mask, width = mask.bool(), tokens.shape[1]
        if self.sharded and width == 1:  # the layers must run here too: other ranks' reports are longer
            tokens, mask = functional.pad(tokens, (0, 1)), functional.pad(mask, (0, 1))
        group = tokens.shape[0] // len(studies)
        hidden = prefix.last_hidden.index_select(0, studies).repeat_interleave(group, 0).unsqueeze(1)  # (b, 1, D)
        if tokens.shape[1] > 1:
            cache = ContinuationCache(prefix.keys, prefix.values, studies)
            later = self._continue(prefix, tokens[:, :-1], cache, 0)
            if cache.layers_seen != self.family.layers:
                raise RuntimeError("the cache is not live: some layers did not read it")
            hidden = torch.cat([hidden, later], dim=1)  # (b, T, D)
        logps, entropy = token_logprobs(
            hidden[mask], self.base.lm_head, tokens[mask], self.temperature, self.suppressed
        )  # (tokens of the micro-batch,)
        zeros = torch.zeros(mask.shape, dtype=logps.dtype, device=logps.device)
        return zeros.masked_scatter(mask, logps)[:, :width], zeros.masked_scatter(mask, entropy)[:, :width]

    def _continue(self, prefix: Prefix, tokens: Tensor, cache: ContinuationCache | DecodeCache, first: int) -> Tensor:
        """Run tokens (b, T), of which `first` were run before -> hidden states (b, T, D).

        The position of a report token is the number of REAL prompt tokens + its place + rope_delta: with the padded
        length instead, log-probabilities are off by 0.1 and nothing fails.
        """
        positions = self._place(prefix, cache, first, tokens.shape[1])
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

    def _place(self, prefix: Prefix, cache: ContinuationCache | DecodeCache, first: int, width: int) -> Tensor:
        """Positions (n, width) of the tokens from `first` on; the cache learns which prompt tokens they see."""
        studies = cache.studies
        place = torch.arange(first, first + width, device=studies.device)
        seen = prefix.lengths[studies].unsqueeze(1) + place  # (n, width) real tokens in front of each
        cache.masks = self.family.prefix_masks(prefix.attention_mask[studies], prefix.padded, seen)
        return seen + prefix.rope_deltas[studies].unsqueeze(1)

    # ---- move 3: through the prompt

    def backward(self, prefix: Prefix) -> None:
        """Carry the gradients left in the leaves back through the prompt (and vision, if it trains)."""
        pairs = [(out, leaf.grad) for out, leaf in zip(prefix.graph, prefix.leaves()) if leaf.grad is not None]
        if pairs:
            outputs, gradients = zip(*pairs)
            torch.autograd.backward(outputs, gradients)
        prefix.graph = []

    # ---- sampling, one token at a time

    def first_logits(self, prefix: Prefix, studies: Tensor, group: int) -> Tensor:
        """Tempered logits (b, V) of the first token of `group` reports of each of the studies (n,)."""
        return self._logits(prefix.last_hidden.detach()[studies]).repeat_interleave(group, 0)

    def next_logits(self, prefix: Prefix, tokens: Tensor, cache: DecodeCache) -> Tensor:
        """Feed one token per report (b,) -> tempered logits of the one after it (b, V)."""
        if self.decoder:
            if not cache.rotations:  # of all tokens that there is room for
                positions = self._place(prefix, cache, 0, cache.room)
                cache.rotations = self.decoder.rotations(prefix.last_hidden, positions)
            hidden = self.decoder(self.base.get_input_embeddings()(tokens), cache)
        else:
            hidden = self._continue(prefix, tokens.unsqueeze(1), cache, cache.length)[:, 0]
        cache.advance()
        return self._logits(hidden)

    def in_step(self, alive: Tensor) -> Tensor:
        """Which reports (n, g) go on. Of a sharded base one does for as long as any rank's do: all must run its layers.

        What it writes lies behind its stop token and is masked.
        """
        if self.sharded and any(distributed.all_gather(bool(alive.any()))):
            alive[0, 0] |= ~alive.any()
        return alive

    def _logits(self, hidden: Tensor) -> Tensor:
        lm_head = self.decoder.lm_head if self.decoder else self.base.lm_head
        return tempered(lm_head(hidden), self.temperature, self.suppressed)


def is_plain_lora(model: Any) -> bool:
    """Whether weight + scaled B A is all that the adapter does: DoRA, LoRA with biases and trained tokens do more."""
    configs: Any = model.peft_config.values() if isinstance(model, PeftModel) else ()
    return not any(
        lora.use_dora or lora.lora_bias or lora.bias != "none" or lora.trainable_token_indices for lora in configs
    )


def with_adapter(model: Any, family: Family, config: Config, adapter: str | None, trainable: bool) -> Any:
    """Wrap the base: a saved adapter where one is named, else a fresh LoRA as configured."""
    if adapter is None:
        targets = family.lora_targets(config.lora.targets, config.lora.vision)
        lora = LoraConfig(
            r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules=targets, lora_dropout=0.0, bias="none"
        )
        try:
            return get_peft_model(model, lora)
        except (ValueError, re.error) as error:  # PEFT takes names for patterns too
            first, *rest = str(error).splitlines()  # PEFT may print a whole module in between
            reason = f"{first} ... {rest[-1]}" if rest else first
            raise UserError(f"lora.targets {config.lora.targets}: {reason}") from error
    folder = Path(adapter)
    if folder.is_dir() and not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {adapter}: has no adapter_model.safetensors; other formats can hold code")
    try:
        adapted = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        found, own = set(load_peft_weights(adapter, device="cpu")), set(get_peft_model_state_dict(adapted))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"adapter {adapter}: does not fit this base or is no PEFT adapter ({first})") from error
    if found != own:  # PEFT only warns of the ones that are missing, and draws them at random
        counts = f"{len(own - found)} of its tensors are missing, {len(found - own)} are unknown to it"
        raise UserError(f"adapter {adapter}: does not fit this base ({counts}: {min(found ^ own)} ...)")
    return adapted
