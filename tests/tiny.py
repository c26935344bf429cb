"""Tiny checkpoints of the real architectures, one per family, written as folders, for tests."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from experiments.embedded import train_base

SPECIAL = list(train_base.SPECIAL)
GEMMA_SPECIAL = [
    "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
    "<image_soft_token>",
]  # fmt: skip
GEMMA_TEMPLATE = (
    "<bos>{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAVA_SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} [/INST]"
    "{% else %} {% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}{% endfor %}"
)
INTERN_SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
INTERN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
QWEN_VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2},
    "qwen2_5_vl": {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
        "fullatt_block_indexes": [1], "window_size": 56,
    },
    "qwen3_vl": {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
        "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    },
}  # fmt: skip
OUT_SIZE = {"qwen2_vl": "hidden_size", "qwen2_5_vl": "out_hidden_size", "qwen3_vl": "out_hidden_size"}
"""What each vision configuration calls the size of what it hands to the text model."""
QWEN = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
WINDOW = 12
"""Of the tiny Gemma 3's sliding layers: shorter than the prompt and than an image, which has 16 tokens."""
MISTRAL_WINDOW = 60
"""Of all layers of the tiny Mistral: shorter than the prompt, and long enough for the image to reach the report."""


def tokenizer(special: list[str] = SPECIAL, stop: str = "<|im_end|>", pad: str = "<|endoftext|>", template=None):
    """Byte-level, no merges: 256 bytes and the special tokens of the family."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=stop, pad_token=pad)
    fast.add_special_tokens({"additional_special_tokens": [t for t in special if t not in (stop, pad)]})
    fast.chat_template = template or train_base.CHAT_TEMPLATE
    return fast


def qwen(family: str, **text):
    """Tokenizer, model and image processor of a Qwen-VL family."""
    fast = tokenizer()
    ids = dict(zip(SPECIAL, fast.convert_tokens_to_ids(SPECIAL)))
    kind, model = QWEN[family]
    own = {"head_dim": 8} if family == "qwen3_vl" else {}
    config = kind(
        text_config=TEXT
        | own
        | {"vocab_size": len(fast), "rope_parameters": dict(MROPE), "bos_token_id": ids["<|endoftext|>"],
           "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
        | text,
        vision_config=QWEN_VISION[family] | {OUT_SIZE[family]: text.get("hidden_size", TEXT["hidden_size"])},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    patch = QWEN_VISION[family].get("patch_size", 14)
    return fast, model(config), Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112, patch_size=patch)


def gemma3(**text):
    """Tokenizer, model and image processor of Gemma 3: two sliding layers around a full one."""
    fast = tokenizer(GEMMA_SPECIAL, "<eos>", "<pad>", GEMMA_TEMPLATE)
    ids = dict(zip(GEMMA_SPECIAL, fast.convert_tokens_to_ids(GEMMA_SPECIAL)))
    config = Gemma3Config(
        text_config=TEXT
        | {"vocab_size": len(fast), "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW,
           "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
           "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                               "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
           "pad_token_id": ids["<pad>"], "bos_token_id": ids["<bos>"], "eos_token_id": ids["<eos>"]}
        | text,
        vision_config={"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48,
                       "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
                       "vision_use_head": False},
        mm_tokens_per_image=16, image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"], eoi_token_index=ids["<end_of_image>"],
    )  # fmt: skip
    processor = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    return fast, Gemma3ForConditionalGeneration(config), processor


def llava(model_type: str = "mistral", feature_layer: int | list[int] = -2, **text):
    """Tokenizer, model and image processor of LLaVA. The tokenizer begins a text, as Llama's does, and the template
    does not. Features are of CLIP's last layer but one."""
    fast = tokenizer(LLAVA_SPECIAL, "</s>", "<pad>", LLAVA_TEMPLATE)
    fast.bos_token = "<s>"
    ids = dict(zip(LLAVA_SPECIAL, fast.convert_tokens_to_ids(LLAVA_SPECIAL)))
    begun = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])])
    fast.backend_tokenizer.post_processor = begun
    own = {"mistral": {"sliding_window": MISTRAL_WINDOW}, "qwen3": {"head_dim": 8}}.get(model_type, {})
    config = LlavaConfig(
        text_config=TEXT
        | {"model_type": model_type, "vocab_size": len(fast), "pad_token_id": ids["<pad>"],
           "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}
        | own
        | text,
        vision_config={"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48,
                       "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 14},
        image_token_index=ids["<image>"], image_seq_length=16, vision_feature_layer=feature_layer,
    )  # fmt: skip
    processor = LlavaImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    return fast, LlavaForConditionalGeneration(config), processor


def internvl(model_type: str = "qwen2", **text):
    """Tokenizer, model and image processor of InternVL: tiles of 28 x 28 pixels with four tokens each."""
    fast = tokenizer(INTERN_SPECIAL, template=INTERN_TEMPLATE)
    ids = dict(zip(INTERN_SPECIAL, fast.convert_tokens_to_ids(INTERN_SPECIAL)))
    config = InternVLConfig(
        text_config=TEXT
        | {"model_type": model_type, "vocab_size": len(fast), "pad_token_id": ids["<|endoftext|>"],
           "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
        | ({"head_dim": 8} if model_type == "qwen3" else {})
        | text,
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": [28, 28], "patch_size": [7, 7]},
        image_token_id=ids["<IMG_CONTEXT>"], image_seq_length=4,
    )  # fmt: skip
    processor = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, max_patches=6)
    return fast, InternVLForConditionalGeneration(config), processor


TOGETHER = {"gemma3": gemma3, "internvl": internvl, "llava": llava}
STOPS = {"gemma3": ("<eos>", "<end_of_turn>"), "llava": ("</s>",)}


def write_checkpoint(
    folder: Path, seed: int = 0, scale: float = 0.2, family: str = "qwen2_5_vl", dtype=torch.float32, **text
) -> Path:
    """A random checkpoint; weights of std `scale`, so that the distributions are far from uniform."""
    torch.manual_seed(seed)
    fast, model, processor = TOGETHER[family](**text) if family in TOGETHER else qwen(family, **text)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=scale / 2 if "vis" in name else scale)
    model.to(dtype).save_pretrained(folder)
    fast.save_pretrained(folder)
    processor.save_pretrained(folder)
    stops = [fast.convert_tokens_to_ids(name) for name in STOPS.get(family, ("<|im_end|>", "<|endoftext|>"))]
    GenerationConfig(eos_token_id=stops, temperature=0.1, top_k=3, do_sample=True).save_pretrained(folder)
    return folder
