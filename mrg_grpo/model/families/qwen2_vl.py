"""Qwen2-VL: as Qwen2.5-VL, but its vision tower attends over whole images and has a two-layer MLP."""

from __future__ import annotations

from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from mrg_grpo.model.families.qwen_vl import QwenVL


class Qwen2VL(QwenVL):
    """Qwen2-VL, dense."""

    model_class = Qwen2VLModel
    vision_targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
