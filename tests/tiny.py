"""A tiny Qwen2.5-VL checkpoint of the real architecture, written as a folder, for tests."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mrg_grpo.embedded import train_base

SPECIAL = list(train_base.SPECIAL)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges: 256 bytes and the special tokens of Qwen2.5-VL."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[1:2] + SPECIAL[3:]})
    fast.chat_template = train_base.CHAT_TEMPLATE
    return fast


def config(fast: PreTrainedTokenizerFast, vision_out: int = 32, **text) -> Qwen2_5_VLConfig:
    ids = dict(zip(SPECIAL, fast.convert_tokens_to_ids(SPECIAL)))
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": len(fast), "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4},
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        } | text,
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": vision_out,
            "fullatt_block_indexes": [1], "window_size": 56,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip


def write_checkpoint(folder: Path, seed: int = 0, scale: float = 0.2, **text) -> Path:
    """A random checkpoint; weights of std `scale`, so that the distributions are far from uniform."""
    torch.manual_seed(seed)
    fast = tokenizer()
    model = Qwen2_5_VLForConditionalGeneration(config(fast, **text))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=scale / 2 if "visual" in name else scale)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112).save_pretrained(folder)
    stops = [fast.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    GenerationConfig(eos_token_id=stops, temperature=0.1, top_k=3, do_sample=True).save_pretrained(folder)
    return folder
