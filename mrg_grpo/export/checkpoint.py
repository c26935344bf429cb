"""A checkpoint with the adapter merged: the base's own files, and weights that plain transformers and vLLM load.

Deliberate choices:
* The adapter is merged in fp32, and only what is stored is rounded. Eight bits of bf16 can swallow a young adapter:
  its update of a weight is then smaller than half a step, and rounding gives back the base. How much is left is
  measured on log-probabilities, not guessed.
* Tokenizer, chat template, processor and generation settings are copies of the base's files. Saved anew by another
  version of transformers they need not be what the run has read.
* Of a base in 4 bits the values that these stand for are exported: the adapter has been trained on them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mrg_grpo.config import Config
from mrg_grpo.data.load import read_splits
from mrg_grpo.data.phantom import dataset as phantom
from mrg_grpo.data.study import Study
from mrg_grpo.errors import ImageError, UserError
from mrg_grpo.hub import quiet
from mrg_grpo.model.lora import LoraLinear, base_of
from mrg_grpo.model.nf4 import Nf4Linear, replace_layers
from mrg_grpo.model.policy import Policy
from mrg_grpo.prompt import target_text
from mrg_grpo.sft import encode_targets

STORED = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""What --dtype can be."""
STUDIES = 8
"""On which the shift is measured."""
NOT_COPIED = ("*.safetensors*", "*.bin*", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx*", "*.py",
              "README.md", "*/*", ".*", "consolidated*", "adapter_*")  # fmt: skip
"""Files of a base that are its weights, its code or its card."""
SHARD = "5GB"
"""Largest file of weights."""


@dataclass(frozen=True)
class Stored:
    """A merged checkpoint."""

    kept: float
    """Share of the log-probability shift that is left of it; 1 where the adapter changes nothing."""
    where: str
    """The studies that it was measured on, in words."""


@torch.no_grad()
def merge(config: Config, folder: Path, dtype: torch.dtype) -> Stored:
    """Write base and adapter (config.model.adapter) as one checkpoint into the folder.

    The whole model is held in fp32 on config.model.device. UserError where base or adapter do not load.
    """
    policy = load_whole(config)
    require_apart(policy)
    studies, where = probes(config)
    policy.temperature = 1.0
    with policy.model.disable_adapter():
        start = logprobs(policy, studies)
    trained = logprobs(policy, studies)
    model: Any = policy.model.merge_and_unload(safe_merge=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    merged = Policy(model, policy.tokenizer, policy.family, policy.encoder, policy.stop_ids)
    kept = kept_share(start, trained, logprobs(merged, studies))
    with quiet():
        model.to(dtype).save_pretrained(folder, max_shard_size=SHARD)
    copy_files(config, folder)
    set_dtype(folder / "config.json", dtype)
    for path in folder.glob("*.safetensors"):  # safetensors keeps them from everybody else
        shutil.copymode(folder / "config.json", path)
    return Stored(kept, where)


def load_whole(config: Config) -> Policy:
    """The policy of a run with every weight in fp32: of a base in 4 bits what these stand for, in the run's dtype."""
    in_run = str(config.model.resolved_dtype()).removeprefix("torch.")
    dtype = in_run if config.model.quantize == "nf4" else "float32"
    model = replace(config.model, dtype=dtype, shard=False)
    plain = replace(config, model=model, grpo=replace(config.grpo, recompute="none"))
    policy = Policy.load(plain, trainable=False)
    replace_layers(policy.model, lambda layer: isinstance(layer, Nf4Linear), whole)
    policy.model.float()
    for layer in policy.model.modules():
        if isinstance(layer, LoraLinear):
            layer.part = None  # its own weight is the one that counts now
    return policy


def whole(layer: Nf4Linear) -> nn.Linear:
    """The linear layer that 4 bits stand for, in fp32."""
    made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    made.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.data.float(), requires_grad=False)
    return made


def require_apart(policy: Policy) -> None:
    """UserError for an adapter on embeddings that are the output projection too: one matrix cannot be both."""
    ends = policy.base.get_input_embeddings(), policy.base.get_output_embeddings()
    one = base_of(ends[0]).weight is base_of(ends[1]).weight
    if one and any(isinstance(end, BaseTunerLayer) for end in ends):
        raise UserError(
            "the adapter changes embed_tokens, which this base shares with its output projection, so a checkpoint "
            "cannot hold it; take --adapter-only"
        )


def probes(config: Config) -> tuple[list[Study], str]:
    """Studies to measure on, and what they are: of the run's validation split, else of another; rendered ones where its
    data are not at hand."""
    try:
        splits = read_splits(config)
        split = next(name for name in ("val", "test", "train") if splits.get(name))
        studies = [study for study in splits[split] if study.images and study.report][:STUDIES]
        return studies, f"{len(studies)} studies of {split}"
    except (UserError, ImageError, StopIteration):
        studies = phantom.load(sizes={"train": 1, "val": STUDIES, "test": 1})["val"]
        return studies, f"{STUDIES} rendered studies, as the run's data are not here"


def logprobs(policy: Policy, studies: list[Study]) -> Tensor:
    """Log-probabilities of the tokens of all references in the asked form, (tokens,), float64, on the CPU."""
    texts = [target_text(study.report, [0] * 14, "<think>" in policy.encoder.question) for study in studies]
    tokens, mask = encode_targets(policy, texts)
    prefix = policy.prefill(policy.encoder.encode(studies).to(policy.device))
    found, _ = policy.logprobs(prefix, tokens, mask)
    return found.cpu()[mask].double()


def kept_share(start: Tensor, trained: Tensor, stored: Tensor) -> float:
    """The part of the shift `trained - start` that `stored - start` has of it: its projection, 1 if nothing is lost.
    All (tokens,)."""
    shift = trained - start
    return float((stored - start) @ shift / (shift @ shift)) if shift.any() else 1.0


def base_folder(config: Config) -> Path:
    """Where the base's small files lie; those of a hub id are fetched where they are not in the cache."""
    from huggingface_hub import snapshot_download

    path = config.model.resolved_path()
    if Path(path).is_dir():
        return Path(path)
    return Path(snapshot_download(path, revision=config.model.revision or None, ignore_patterns=list(NOT_COPIED)))


def copy_files(config: Config, folder: Path) -> None:
    """The base's files but for weights, code and card, over what was saved."""
    source = base_folder(config)
    for path in sorted(source.iterdir()):
        if path.is_file() and not any(path.match(pattern) for pattern in NOT_COPIED if pattern != "*/*"):
            shutil.copyfile(path, folder / path.name)


def set_dtype(path: Path, dtype: torch.dtype) -> None:
    """Put the type of the stored weights into a config.json, under the name that it has there, and take out what it
    says of quantised weights."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    parts = [tree, *(value for value in tree.values() if isinstance(value, dict))]
    named = [(part, name) for part in parts for name in ("dtype", "torch_dtype") if name in part]
    for part, name in named or [(tree, "torch_dtype")]:
        part[name] = str(dtype).removeprefix("torch.")
    for part in parts:
        part.pop("quantization_config", None)
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def copy_adapter(adapter: Path, folder: Path, base: str) -> None:
    """A saved adapter, whose configuration names the base by `base` and not by a path of this machine."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(adapter / name, folder / name)
    path = folder / "adapter_config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["base_model_name_or_path"] = base
    path.write_text(json.dumps(tree, indent=2, sort_keys=True), encoding="utf-8")
