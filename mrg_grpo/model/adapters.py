"""The adapter of a policy: attached to the base, the start that it is held near, and what of it counts as plain.

Deliberate choices:
* The reference is the adapter as it was at the start, swapped in for the length of a call: for a fresh adapter (B = 0)
  that is the base itself, for a continued one the warm start. One code path for both.
* A saved adapter must fit tensor for tensor. PEFT only warns of tensors that are missing, and makes them up.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import nn

from mrg_grpo import distributed
from mrg_grpo.config import Config
from mrg_grpo.errors import UserError, first_line, time_limit
from mrg_grpo.hub import quiet, require_there
from mrg_grpo.model.families import Family
from mrg_grpo.model.nf4 import Nf4Linear


@quiet()
def attach(model: Any, family: Family, config: Config, adapter: str | None, trainable: bool) -> PeftModel:
    """Wrap the base: a saved adapter where one is named, else a fresh LoRA as configured; UserError if none fits."""
    if adapter is not None:
        return saved(model, adapter, trainable)
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        target_modules=family.lora_targets(config.lora.targets, config.lora.vision),
        lora_dropout=0.0,
        bias="none",
    )
    try:
        return get_peft_model(model, lora)
    except (ValueError, re.error) as error:  # PEFT takes names for patterns too
        first, *rest = str(error).splitlines()  # PEFT may print a whole module in between
        reason = f"{first} ... {rest[-1]}" if rest else first
        raise UserError(f"lora.targets {config.lora.targets}: {reason}") from error


def saved(model: Any, adapter: str, trainable: bool) -> PeftModel:
    """The base with a saved PEFT adapter: a folder, or an id on the hub."""
    folder = Path(adapter)
    require_there(adapter, "adapter")
    if folder.is_dir() and not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {adapter}: has no adapter_model.safetensors; other formats can hold code")
    try:
        require_bounded_patterns(PeftConfig.from_pretrained(adapter), model, adapter)
        adapted = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        require_own_forward(adapted, adapter)
        found, own = set(load_peft_weights(adapter, device="cpu")), set(get_peft_model_state_dict(adapted))
        unfit = [] if found == own else unfit_tensors(adapted, adapter, trainable)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"adapter {adapter}: does not fit this base or is no PEFT adapter ({first_line(error)})"
        ) from error
    if unfit:
        version = getattr(adapted.active_peft_config, "peft_version", None) or "of an early version"
        raise UserError(
            f"adapter {adapter}: does not fit this base ({len(own - found)} of its tensors are missing, "
            f"{len(found - own)} are unknown to it: "
            f"{unfit[0]} ...); PEFT {version} wrote it: load it there with the base it was made for and save it anew, "
            "or take that base as model.path"
        )
    return adapted


PATTERN_SECONDS = 5.0
"""For the patterns of an adapter's configuration on the names of all modules: milliseconds unless they are hostile."""
PLAIN_NAME = re.compile(r"[\w.-]*")
AS_PEFT_HAS_THEM = ("{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.")
"""What PEFT puts around a pattern before it matches it against a module's name."""


def require_bounded_patterns(config: Any, model: nn.Module, adapter: str) -> None:
    """UserError if a pattern in an adapter's configuration would keep PEFT busy for ever: it may be of anybody, and a
    few characters, such as (.*)*x, take longer than any run."""
    wholes = [config.target_modules] if isinstance(getattr(config, "target_modules", None), str) else []
    wholes += [config.exclude_modules] if isinstance(getattr(config, "exclude_modules", None), str) else []
    for name in ("modules_to_save", "layers_pattern", "rank_pattern", "alpha_pattern"):
        value = getattr(config, name, None) or ()
        wholes += [value] if isinstance(value, str) else [part for part in value if isinstance(part, str)]
    names = [name for name, _ in model.named_modules()]
    for pattern in (whole for whole in wholes if not PLAIN_NAME.fullmatch(whole)):
        shown = pattern if len(pattern) <= 60 else f"{pattern[:57]}..."
        slow = f"adapter {adapter}: the pattern {shown!r} in its adapter_config.json takes too long to match; "
        with time_limit(PATTERN_SECONDS, UserError(f"{slow}write the names of the modules there")):
            for form in AS_PEFT_HAS_THEM:
                with suppress(re.error):  # PEFT says so, where it uses it in this form
                    matcher = re.compile(form.replace("{}", pattern))
                    for name in names:
                        matcher.match(name)


def unfit_tensors(model: PeftModel, adapter: str, trainable: bool) -> list[str]:
    """What PEFT itself cannot place, or misses, where the names of a file are not today's: other versions of PEFT and
    transformers wrote them otherwise, and PEFT translates what it knows."""
    result: Any = model.load_adapter(adapter, model.active_adapter, is_trainable=trainable)
    parts = (getattr(model.base_model, "prefix", "lora_"), "modules_to_save.", "trainable_tokens")
    return [*result.unexpected_keys, *(key for key in result.missing_keys if any(part in key for part in parts))]


README = """\
# A LoRA adapter of mrg_grpo

It makes a vision-language model write chest X-ray reports. **Not for clinical use.**

`adapter_config.json` names the base that it belongs to, as the machine called it on which it was trained. The
configuration of the run lies one or two folders up, in `config.toml`, with the question in [prompt].

    from peft import PeftModel
    model = PeftModel.from_pretrained(base, "THIS_FOLDER")

To share it, let `mrg-grpo export RUN --to FOLDER --adapter-only` write it with a full model card.
"""


def save(model: PeftModel, folder: Path) -> None:
    """The adapter in PEFT's own form, of the same bytes in every process: PEFT writes sets in the order of a hash, and
    an empty model card with the path of the base.

    All its files have the rights that a new file has here: safetensors keeps the weights from everybody else.
    """
    model.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    written, config = json.loads(path.read_text(encoding="utf-8")), model.active_peft_config
    for name in written:
        if isinstance(getattr(config, name, None), set):
            written[name] = sorted(written[name])
    path.write_text(json.dumps(written, indent=2, sort_keys=True), encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")
    for other in folder.iterdir():
        shutil.copymode(path, other)


def require_own_forward(model: PeftModel, adapter: str) -> None:
    """UserError for adapters that act only where PEFT's own forward pass steers them, which none of ours goes through.

    An activated LoRA is switched on by tokens of the prompt, Arrow mixes other adapters, prompt tuning and its like add
    to the input: without that pass all of them would be the base, without a word.
    """
    config: Any = model.active_peft_config
    steered = next((name for name in ("alora_invocation_tokens", "arrow_config") if getattr(config, name, None)), None)
    if steered or config.is_prompt_learning:
        raise UserError(
            f"adapter {adapter}: {steered or config.peft_type.value} works only through PEFT's own forward pass; "
            "take an adapter of the layers themselves, such as plain LoRA"
        )


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser moves."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parameter_counts(model: nn.Module) -> str:
    """How many parameters train and how many are frozen, in words."""
    trained = sum(parameter.numel() for parameter in trainable(model))
    four_bits = sum(x.in_features * x.out_features for x in model.modules() if isinstance(x, Nf4Linear))
    frozen = sum(parameter.numel() for parameter in model.parameters()) - trained + four_bits
    return f"{trained:,} trainable and {frozen:,} frozen parameters"


def broadcast(model: nn.Module) -> None:
    """Give every rank the adapter of the first."""
    own = trainable(model)
    for parameter, sent in zip(own, distributed.broadcast([parameter.detach().cpu() for parameter in own])):
        parameter.data.copy_(sent)


def is_plain_lora(model: Any) -> bool:
    """Whether weight + scaled B A is all that the adapter does, as our own layers compute it.

    DoRA, KaSA, block-diagonal LoRA and their like are entries in a layer's `lora_variant`; LoRA with biases, trained
    tokens, LoRA on bare parameters and PEFT's other methods have layers or settings of their own.
    """
    configs: Any = model.peft_config.values() if isinstance(model, PeftModel) else ()
    settings = ("use_dora", "lora_bias", "trainable_token_indices")
    if any(
        not isinstance(config, LoraConfig) or config.bias != "none" or any(getattr(config, name) for name in settings)
        for config in configs
    ):
        return False
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    return not any(isinstance(layer, ParamWrapper) or layer.lora_variant for layer in layers)


def not_finite(model: nn.Module) -> str:
    """Why logits are not finite: the first weight that is not, or that all are."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not bool(tensor.detach().isfinite().all()):
            return f"the weight {name} is not finite: fetch or train what it belongs to again"
    return "all weights are: numbers overflow on the way, set model.dtype to bfloat16 or float32"


class Reference:
    """The frozen start policy: the adapter as it is when this is made. `with reference():` puts it in its place."""

    def __init__(self, model: nn.Module) -> None:
        """fresh: the adapter changes nothing yet. Every plain LoRA B is 0 then; of an embedding PEFT starts A at 0."""
        adapted = isinstance(model, PeftModel)
        self.model = model
        self.start = [(p, p.detach().clone()) for p in trainable(model)] if adapted else []
        zero = ("lora_B", "lora_embedding_A")
        self.fresh = (
            adapted
            and is_plain_lora(model)
            and not any(
                parameter.any() for name, parameter in model.named_parameters() if any(part in name for part in zero)
            )
        )

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within: the frozen start policy. No gradients."""
        self._swap()
        try:
            with torch.no_grad(), without_adapter(self.model) if self.fresh else nullcontext():
                yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for parameter, start in self.start:
            parameter.data, start.data = start.data, parameter.data


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Within: the base's own layers stand where PEFT's wrappers were, at the base's own speed."""
    places = [
        (parent, name, child)
        for parent in model.modules()
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
