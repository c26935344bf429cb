"""Qwen2-VL: as Qwen2.5-VL seen from here. Its vision tower attends over whole images and has a two-layer MLP."""

from __future__ import annotations

from mrg_grpo.model.families.qwen2_5_vl import Qwen25VL


class Qwen2VL(Qwen25VL):
    """Qwen2-VL, dense."""

    vision_targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
