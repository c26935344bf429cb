"""Qwen2.5-VL: the family of HuatuoGPT-Vision-7B-Qwen2.5VL.

In most layers of its vision tower a patch sees a window of its image, and only in some the whole image.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.vision_utils import get_vision_window_index

from mrg_grpo.model.families.qwen_vl import QwenVL
from mrg_grpo.model.vision_attention import Segments


class Qwen25VL(QwenVL):
    """Qwen2.5-VL, dense."""

    model_class = Qwen2_5_VLModel
    vision_targets = ("attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")

    def tower_inputs(self, tower: Any, grid: Tensor) -> dict[str, Any]:
        index, bounds = get_vision_window_index(grid, tower.spatial_merge_size, tower.window_size, tower.patch_size)
        windows = Segments.of(bounds)
        own = {"window_index": index, "cu_window_seqlens": windows, "max_window_seqlen": windows.longest}
        return {**super().tower_inputs(tower, grid), **own}
