"""Model families: what differs between vision-language models, one small file each.

The engine (policy, rollout, grpo) knows no family by name. It asks a `Family` for eight things: the image processor,
which tokens an image takes in the prompt, how many at most, the vision features, the prompt's embeddings, its
positions, which ids must never be sampled, and where LoRA goes.

Here: one file per family with one subclass of `Family`, what the Qwen-VLs share (qwen_vl.py), and what LLaVA and
InternVL share (projector_vl.py). Not here: anything else that two families share but the contract (base.py).
May import: transformers, model/batch.py, model/vision_attention.py, errors.
"""

from transformers import PretrainedConfig

from mrg_grpo.errors import UserError
from mrg_grpo.model.families.base import Family
from mrg_grpo.model.families.gemma3 import Gemma3
from mrg_grpo.model.families.internvl import InternVL
from mrg_grpo.model.families.llava import Llava
from mrg_grpo.model.families.qwen2_5_vl import Qwen25VL
from mrg_grpo.model.families.qwen2_vl import Qwen2VL
from mrg_grpo.model.families.qwen3_vl import Qwen3VL

FAMILIES: dict[str, type[Family]] = {
    "gemma3": Gemma3,
    "internvl": InternVL,
    "llava": Llava,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
}
"""By `model_type` of a checkpoint's config.json."""


def family_of(config: PretrainedConfig) -> Family:
    """The family of a checkpoint; UserError names the ones we have."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f'model.path {config.name_or_path}: model type "{config.model_type}" is not supported; '
            f"use one of: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[config.model_type](config)
