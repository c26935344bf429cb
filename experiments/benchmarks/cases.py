"""What both engines are measured on: one checkpoint, pictures, prompts, lengths, LoRA, reward.

The model is a Qwen2.5-VL of about 9 M parameters (vision depth 6 width 192, text depth 6 width 256, vocabulary 2048)
with random weights: speed does not depend on what it writes, and the length of every completion is forced.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from experiments.embedded.train_base import SPECIAL, build_tokenizer
from mrg_grpo.data.phantom.case import SEED
from mrg_grpo.data.phantom.dataset import image_of, load
from mrg_grpo.prompt import question

LORA = {"r": 16, "lora_alpha": 32, "target_modules": r".*language_model.*\.(?:q|k|v|o|gate|up|down)_proj"}
LEARNING_RATE = 1e-4
VOCABULARY = 2048


@dataclass(frozen=True)
class Case:
    """One setting: `studies` of `views` square pictures, `group` reports of exactly `tokens` tokens each."""

    name: str
    views: int
    side: int
    group: int
    studies: int
    tokens: int


CASES = {
    case.name: case
    for case in (
        Case("a", views=1, side=448, group=8, studies=2, tokens=128),
        Case("b", views=2, side=448, group=16, studies=1, tokens=128),
        Case("c", views=1, side=224, group=8, studies=4, tokens=256),
    )
}


def tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """The embedded recipe's, on phantom reports."""
    fast = build_tokenizer([study.report for study in load(sizes={"train": 2000})["train"]], vocabulary)
    fast.add_tokens([f"<unused{i}>" for i in range(vocabulary - len(fast))])  # every id the model knows can be decoded
    return fast


def write_checkpoint(folder: Path, vocabulary: int = VOCABULARY) -> Path:
    """The checkpoint that both engines load."""
    torch.manual_seed(0)
    fast = tokenizer()
    ids = dict(zip(SPECIAL, fast.convert_tokens_to_ids(list(SPECIAL))))
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6},
            "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 6, "hidden_size": 192, "intermediate_size": 512, "num_heads": 3, "out_hidden_size": 256,
            "fullatt_block_indexes": [2, 5], "window_size": 112,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=1024 * 1024).save_pretrained(folder)
    stops = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    GenerationConfig(eos_token_id=stops, pad_token_id=ids["<|endoftext|>"]).save_pretrained(folder)
    return folder


def pictures(case: Case, folder: Path, count: int) -> list[list[str]]:
    """`count` studies of `case.views` phantom pictures, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    studies = []
    for study in range(count):
        paths = []
        for view in range(case.views):
            path = folder / f"{case.side}-{study}-{view}.png"
            if not path.exists():
                picture = image_of(f"phantom:{SEED}/bench/{study * 8 + view}").convert("RGB")
                picture.resize((case.side, case.side), Image.Resampling.BICUBIC).save(path)
            paths.append(str(path))
        studies.append(paths)
    return studies


def worker(measure: Callable[..., dict], description: str) -> None:
    """The command line of either engine: one case, its result as the last line printed."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=0)
    settings = vars(parser.parse_args())
    torch.set_num_threads(settings.pop("threads"))
    print(json.dumps(measure(CASES[settings.pop("case")], **settings)))


def result(engine: str, case: Case, beta: float, seconds: list[float], before: float) -> dict:
    """What either engine reports: seconds of each timed step, peak memory above `before` (MiB), and the versions."""
    return {
        "engine": engine, "case": case.name, "beta": beta, "seconds": seconds, "peak_mib": rss_mib("VmHWM") - before,
        "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip


def prompt_text() -> str:
    return question()


def spread_reward(completions: list, **_) -> list[float]:
    """A reward that costs nothing and differs between completions, so that every group trains."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [int.from_bytes(hashlib.sha256(str(text).encode()).digest()[:2], "big") / 65535 for text in texts]


def rss_mib(field: str = "VmRSS") -> float:
    """Resident memory of this process, now (VmRSS) or at its highest (VmHWM), in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def reset_peak() -> None:
    """Start VmHWM anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
