"""Checkpoint folders exactly as the hub lays them out: real Qwen vocabulary, real file names and keys, tiny layers.

The vocabulary is qwen.tiktoken of PyPI's `dashscope`: 151,643 byte sequences in order of rank. The hub's
tokenizer.json holds the same as a byte-level BPE: a sequence of rank r is the merge of the two parts in which the ranks
below r leave it.
"""

import base64
import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.convert_slow_tokenizer import bytes_to_unicode

ADDED = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
]  # fmt: skip
"""Ids 151643 to 151664."""
SPECIAL = 14
"""Those before <tool_call>."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in "
    "content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}"
    ": {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content "
    "%}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: "
    "{% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT_7B: dict[str, Any] = {
    "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
    "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944, "max_position_embeddings": 128000,
    "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "use_cache": True,
    "use_sliding_window": False, "vocab_size": 152064,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}  # fmt: skip
VISION_7B: dict[str, Any] = {
    "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3,
    "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2, "temporal_patch_size": 2,
}  # fmt: skip
OUTER = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
    "vision_start_token_id": 151652, "vision_end_token_id": 151653, "vision_token_id": 151654,
    "image_token_id": 151655, "video_token_id": 151656, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
}  # fmt: skip
"""config.json of Qwen2.5-VL-7B-Instruct, as published in 2025, in three parts."""
MEDGEMMA_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": "bfloat16",
    "boi_token_index": 255999, "eoi_token_index": 256000, "image_token_index": 262144, "mm_tokens_per_image": 256,
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    },
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
        "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False,
    },
}  # fmt: skip
PREPROCESSOR = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
}  # fmt: skip
TINY_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 151936,
    "num_key_value_heads": 2, "max_window_layers": 2, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
}  # fmt: skip
TINY_VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
}  # fmt: skip


def flat_config(text: dict = TINY_TEXT, vision: dict = TINY_VISION) -> dict:
    """config.json in the form of 2025: the text model's keys at the top level."""
    return OUTER | TEXT_7B | text | {"vision_config": VISION_7B | vision}


def nested_config(text: dict = TINY_TEXT, vision: dict = TINY_VISION) -> dict:
    """config.json in the later form, with a text_config of its own and the rope type spelled out."""
    inner = TEXT_7B | text | {"model_type": "qwen2_5_vl_text"}
    inner["rope_scaling"] = inner["rope_scaling"] | {"type": "default", "rope_type": "default"}
    return OUTER | {"text_config": inner, "vision_config": VISION_7B | vision | {"model_type": "qwen2_5_vl"}}


def ranks() -> dict[bytes, int]:
    """qwen.tiktoken of dashscope, read as a file: byte sequence -> rank; skips where the package is not installed."""
    spec = importlib.util.find_spec("dashscope")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "resources" / "qwen.tiktoken"
        if path.is_file():
            pairs = (line.split() for line in path.read_bytes().splitlines())
            return {base64.b64decode(token): int(rank) for token, rank in pairs}
    pytest.skip("needs qwen.tiktoken of the package dashscope: pip install --no-deps dashscope")


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """For every sequence the two parts it is merged from, in order of rank."""
    result = []
    for token, limit in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(a + b, limit) for a, b in pairwise(parts)]
            best = min(range(len(joined)), key=joined.__getitem__)
            assert joined[best] < limit
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            result.append((parts[0], parts[1]))
    return result


def write_tokenizer(folder: Path, ranks: dict[bytes, int]) -> None:
    """tokenizer.json, tokenizer_config.json, vocab.json and merges.txt as in Qwen2.5-VL's repositories."""
    unicode = bytes_to_unicode()

    def spell(token: bytes) -> str:
        return "".join(unicode[b] for b in token)

    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    pairs = [(spell(a), spell(b)) for a, b in merges(ranks)]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(token, special=i < SPECIAL, normalized=False) for i, token in enumerate(ADDED)])
    core.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in pairs), encoding="utf-8")
    added = {
        str(151643 + i): {
            "content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": i < SPECIAL,
        }
        for i, t in enumerate(ADDED)
    }  # fmt: skip
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added,
            "additional_special_tokens": ADDED[1:SPECIAL], "bos_token": None, "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
            "model_max_length": 131072, "pad_token": "<|endoftext|>", "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
        },
    )  # fmt: skip


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def old_name(key: str) -> str:
    """Parameter names of 2025: no language_model, and the vision tower at the top."""
    return key.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def write_weights(folder: Path, config: dict, old: bool, shards: int = 3) -> None:
    """bf16 weights in `shards` files with an index; the same numbers whatever the form."""
    write_json(folder / "config.json", config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, parameter in sorted(model.named_parameters()):
        value = torch.randn(parameter.shape, generator=generator) * 0.15 if parameter.dim() > 1 else 1.0
        value = torch.ones(parameter.shape) * value * (0.0 if name.endswith("bias") else 1.0)
        tensors[old_name(name) if old else name] = value.to(torch.bfloat16)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * 2 for t in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_rest(folder: Path) -> None:
    """preprocessor_config, chat_template and generation_config."""
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    write_json(folder / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643],
            "repetition_penalty": 1.05, "temperature": 0.000001, "transformers_version": "4.49.0",
        },
    )  # fmt: skip
