"""A checkpoint as the hub lays it out -> model, tokenizer, image processor, stop ids. `Policy.load` starts here.

Deliberate choices:
* The processor is put together from tokenizer and image processor: transformers' own processors want torchvision.
* Every tensor of the model must come from the checkpoint. transformers only warns and makes the missing ones up.
* What would fail later, or never, is asked here: does the tokenizer know the image token under the id that the model
  looks for, and does the chat template write one per image?
* A report stops at any stop id of generation_config or at the tokenizer's own end. What a warm start teaches is the
  one that the chat template closes an answer with, whatever those lists begin with.
* Weights go from the file straight to their device. For a CPU, and for a base in shards, the file is mapped into
  memory: all ranks of a machine share its pages.
* Code that lies in a checkpoint runs only where `model.trust_remote_code = true` asks for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.utils import cached_file

from mrg_grpo.config import Config
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.hub import quiet, require_there
from mrg_grpo.model import attention
from mrg_grpo.model.families import Family, family_of
from mrg_grpo.model.nf4 import adopt, quantize, require_bitsandbytes


@dataclass
class Pretrained:
    """The parts of a checkpoint."""

    model: Any
    tokenizer: Any
    image_processor: Any
    family: Family
    stop_ids: list[int]  # the one that closes an answer first


def load_pretrained(config: Config) -> Pretrained:
    """Load model.path in the configured dtype, frozen, on the configured device. UserError says what does not fit."""
    torch.backends.cudnn.allow_tf32 = False  # else a GPU rounds a float32 tower's convolution of patches to ten bits
    path, trust = config.model.resolved_path(), config.model.trust_remote_code
    revision, device = config.model.revision or "main", config.model.resolved_device()
    four_bits = config.model.quantize == "nf4"
    # fsdp.py and nf4.py move a base layer by layer
    mapped = device.type == "cpu" or config.model.shard or four_bits
    if four_bits:
        require_bitsandbytes()
    model_config = read_config(config)
    family = family_of(model_config)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust, revision=revision)
            processor = family.image_processor(path, config.data.max_pixels or None, revision)
            prepare_tokenizer(tokenizer, family, path, revision)
            stops = stop_ids(path, tokenizer, revision)  # before the weights: transformers would not name the file
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                path,
                dtype=config.model.resolved_dtype(),
                attn_implementation=attention.NAME,
                trust_remote_code=trust,
                use_safetensors=True,
                revision=revision,
                output_loading_info=True,
                device_map=None if mapped else {"": device},
            )
    except UserError:
        raise
    except Exception as error:  # a damaged file of JSON may bring any exception out of transformers
        raise UserError(explain(path, error)) from error
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:
        raise UserError(f"model.path {path}: {len(missing)} weights are missing ({missing[0]} ...); fetch it again")
    if quantization(model_config):
        adopt(model)
    elif four_bits:
        quantize(family.text_model(model), device)
    if not config.model.shard:
        model = model.to(device)
    model.requires_grad_(False)
    family.prepare(model)
    return Pretrained(model, tokenizer, processor, family, stops)


def read_config(config: Config) -> Any:
    """config.json of model.path. UserError where it is not to be had, or tells of quantised weights."""
    path = config.model.resolved_path()
    require_there(path, "model.path", config.model.revision or None)
    try:
        with quiet():
            found = AutoConfig.from_pretrained(
                path, trust_remote_code=config.model.trust_remote_code, revision=config.model.revision or "main"
            )
    except Exception as error:  # as in load_pretrained
        raise UserError(explain(path, error)) from error
    require_readable(found, path)
    return found


def quantization(model_config: Any) -> dict[str, Any] | None:
    """What config.json says of quantised weights; None where they are whole."""
    for part in (model_config, model_config.get_text_config()):
        found = getattr(part, "quantization_config", None) or getattr(part, "compression_config", None)
        if found:
            return found if isinstance(found, dict) else found.to_dict()
    return None


def require_readable(model_config: Any, path: str) -> None:
    """UserError for a quantised checkpoint of another kind than nf4 by bitsandbytes, before any weight is read: its
    layers are no plain linear layers."""
    found = quantization(model_config)
    if not found:
        return
    method = getattr(found.get("quant_method"), "value", found.get("quant_method")) or "an unnamed method"
    if method == "bitsandbytes" and found.get("load_in_4bit") and found.get("bnb_4bit_quant_type") == "nf4":
        require_bitsandbytes()
        return
    raise UserError(
        f"model.path {path}: its weights are quantised ({method}, see quantization_config in config.json); "
        'take the unquantised checkpoint of the same model, with model.quantize = "nf4" if it must be small'
    )


def explain(path: str, error: Exception) -> str:
    """An exception of from_pretrained as one line with the remedy."""
    if "trust_remote_code" in str(error):
        return (
            f"model.path {path}: the checkpoint wants to run code of its own; "
            "read it, then set model.trust_remote_code = true, or use a checkpoint without"
        )
    if not Path(path).exists() and any(word in str(error) for word in ("couldn't connect", "offline", "LocalEntry")):
        return (
            f"model.path {path}: it is not on this machine and the hub cannot be reached; connect, or fetch it "
            f"elsewhere (hf download {path}) and name the folder; mrg-grpo plan needs config.json alone: "
            "model.path=experiments/huatuo_7b"
        )
    return (
        f"model.path {path}: no usable checkpoint ({first_line(error)}); it takes config.json, tokenizer.json, "
        "preprocessor_config.json and safetensors as the hub has them"
    )


def prepare_tokenizer(tokenizer: Any, family: Family, path: str, revision: str) -> None:
    """Give it the checkpoint's chat template and a padding token, and check that it speaks of images as the model does.

    Which id pads does not matter, padding is masked everywhere.
    """
    tokenizer.chat_template = chat_template(path, tokenizer, revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    want, have = family.config.image_token_id, tokenizer.get_vocab().get(family.image_token)
    if have != want:
        knows = "has no image token" if have is None else f"has id {have} for"
        raise UserError(
            f"model.path {path}: the tokenizer {knows} {family.image_token}, the model expects id {want}; "
            "take tokenizer and model from one vision-language checkpoint"
        )
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except Exception as error:  # a template is a program: one for text alone trips over a list of parts, in its own way
        raise UserError(f"model.path {path}: the chat template cannot write an image ({first_line(error)})") from error
    if text.count(family.placeholder) != 1:
        raise UserError(f"model.path {path}: the chat template does not write {family.placeholder} for an image")


def chat_template(path: str, tokenizer: Any, revision: str) -> str:
    """As transformers' own processors have it: chat_template.jinja, else chat_template.json, else the tokenizer's."""
    jinja, old = (
        cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        for name in ("chat_template.jinja", "chat_template.json")
    )
    if old and not jinja:
        return json.loads(Path(old).read_text(encoding="utf-8"))["chat_template"]
    if not tokenizer.chat_template:
        raise UserError(f"model.path {path}: it has no chat template; use an instruction-tuned checkpoint")
    return tokenizer.chat_template  # AutoTokenizer has read chat_template.jinja where there is one


def stop_ids(path: str, tokenizer: Any, revision: str) -> list[int]:
    """What ends a report: the token that closes an answer, then generation_config's (its only setting we read), then
    the tokenizer's end of sequence."""
    name = "generation_config.json"
    try:
        there = cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        stops = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id if there else None
    except Exception as error:  # as in load_pretrained
        raise UserError(f"model.path {path}: {name} cannot be read ({first_line(error)}); fetch it again") from error
    stops = stops if isinstance(stops, list) else [stops]
    if not stops or not all(isinstance(stop, int | None) for stop in stops):
        raise UserError(f"model.path {path}: {name} has eos_token_id {stops}; it must be one whole number or several")
    known = [stop for stop in (closing_id(tokenizer), *stops, tokenizer.eos_token_id) if stop is not None]
    if not known:
        raise UserError(f"model.path {path}: neither generation_config nor tokenizer names a stop token")
    return list(dict.fromkeys(known))


def closing_id(tokenizer: Any) -> int | None:
    """The special token that the chat template writes behind an answer; None where it writes none.

    `<eos>` ends a Gemma document, `<end_of_turn>` its answers: a model that is taught the wrong one learns a form in
    which it never saw an answer end.
    """
    answer = "The lungs are clear."
    turns = [("user", "?"), ("assistant", answer)]
    try:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": [{"type": "text", "text": part}]} for role, part in turns], tokenize=False
        )
    except Exception:  # a template that writes prompts alone raises whatever it likes
        return None
    _, found, behind = text.rpartition(answer)
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if found else []
    return next((i for i in ids if i in special), None)
