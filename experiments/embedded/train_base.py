"""The recipe of the embedded base policy: `make embedded-base` (`python -m experiments.embedded.train_base`).

A Qwen2.5-VL of 2.8 M parameters, trained from nothing on phantom studies of the split "warmstart" (never on train, val
or test), in three
stages:

    tokenizer   byte-level BPE on warm-start texts
    vision      the tower, with a linear head on its tokens, learns what a picture shows and on which side
    language    the language model, on the frozen tower's features, learns to write the reports that hospitals write

What is left to learn is put there on purpose, as real warm-start corpora have it:
* Site A writes `<think>...</think><report>...</report>`, site B mostly the bare report: about half of what the base
  writes keeps to the form.
* Routine reports leave findings out: with probability OMITTED a positive or uncertain finding is not reported. The
  pictures show them, so the tower has learned to see them, but likelihood teaches the policy to say less than it sees.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mrg_grpo.data.phantom import case as phantom_case
from mrg_grpo.data.phantom import dataset as phantom
from mrg_grpo.data.phantom.draw import render
from mrg_grpo.data.phantom.text import write_report
from mrg_grpo.data.study import Study
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN
from mrg_grpo.model import attention
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.encoder import PromptEncoder
from mrg_grpo.model.families import family_of
from mrg_grpo.model.policy import Policy
from mrg_grpo.prompt import question, target_text
from mrg_grpo.sft import cosine, sft_loss

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 1024
SIDE = 168
"""Pictures are seen at 168 pixels: 12 x 12 patches, 36 tokens."""
TOKENS = (SIDE // 28) ** 2
GRID = [1, SIDE // 14, SIDE // 14]
OMITTED = 0.42
"""Probability that a routine report leaves a finding out."""
BARE_AT_B = 0.9
"""Probability that site B writes the report without tags."""


def build_tokenizer(texts: list[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen2.5-VL's special tokens and chat template; the answer's tags are single tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary - 11, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_special_tokens(
        {"additional_special_tokens": [t for t in SPECIAL if t not in ("<|im_end|>", "<|endoftext|>")]}
    )
    fast.add_tokens(["<think>", "</think>", "<report>", "</report>"])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(fast: Any) -> Qwen2_5_VLForConditionalGeneration:
    ids = {token: fast.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 8, 8], "rope_theta": 1e4},
            "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "out_hidden_size": 192,
            "fullatt_block_indexes": [0, 1, 2], "window_size": 112,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config)


def image_processor() -> Qwen2VLImageProcessorPil:
    processor = Qwen2VLImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    processor.size = {"shortest_edge": 56 * 56, "longest_edge": SIDE * SIDE}
    return processor


# ---- data


def routine(case: phantom_case.PhantomCase) -> phantom_case.PhantomCase:
    """The case as a routine report tells it: some findings are left out, and denied as often as absent ones are."""
    rng = case.rng("routine")
    mentions = list(case.mentions)
    for i, name in enumerate(CONDITIONS[:13]):
        if mentions[i] in (POSITIVE, UNCERTAIN) and rng.random() < OMITTED:
            mentions[i] = NEGATIVE if rng.random() < phantom_case.NEGATED[name] else BLANK
    return dataclasses.replace(case, mentions=tuple(mentions))


def warm_start_target(index: int, split: str = "warmstart") -> str:
    """What hospitals write about study `index`."""
    case = routine(phantom_case.sample_case(split, index))
    bare = case.site == "B" and case.rng("form").random() < BARE_AT_B
    report = write_report(case)
    return report if bare else target_text(report, phantom_case.case_labels(case))


def picture(index: int) -> np.ndarray:
    """Study `index` at the size the policy sees."""
    image = Image.fromarray(render(phantom_case.sample_case("warmstart", index)))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def pictures(count: int, cache: Path) -> np.ndarray:
    """uint8 (count, 168, 168), rendered once."""
    if cache.exists() and (stored := np.load(cache, mmap_mode="r")).shape[0] >= count:
        return stored[:count]
    with ProcessPoolExecutor(2) as pool:
        images = np.stack(list(pool.map(picture, range(count), chunksize=100)))
    np.save(cache, images)
    return images


def patches(images: np.ndarray) -> Tensor:
    """uint8 (B, 168, 168) -> what the image processor makes of them, (B * 144, 1176); `main` checks that it does."""
    x = (torch.from_numpy(np.ascontiguousarray(images)).float() / 255 - 0.5) / 0.25
    x = x.view(-1, 6, 2, 14, 6, 2, 14).permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, 196)
    return x.repeat(1, 6)  # gray in three channels and two frames


def vision_targets(index: int) -> list[float]:
    """13 conditions x (there, on the left, on the right), and the site."""
    case = phantom_case.sample_case("warmstart", index)
    row = [0.0] * 40
    for finding in case.findings:
        if finding.severity >= 0.15:
            i = CONDITIONS.index(finding.condition)
            row[i] = 1.0
            row[13 + i] = float(finding.side in ("left", "both"))
            row[26 + i] = float(finding.side in ("right", "both"))
    row[39] = float(case.site == "A")
    return row


# ---- stages


def batched_attention(self, hidden_states, cu_seqlens=None, position_embeddings=None, **kwargs):
    """Qwen2_5_VLVisionAttention.forward for pictures of one size: all at once instead of one by one (twice as fast)."""
    q, k, v = self.qkv(hidden_states).view(-1, 3, self.num_heads, self.head_dim).unbind(1)  # (B * 144, heads, d)
    q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
    q, k, v = (x.view(-1, GRID[1] * GRID[2], self.num_heads, self.head_dim).transpose(1, 2) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) * self.scaling, dim=-1).to(v.dtype)
    return self.proj((weights @ v).transpose(1, 2).reshape(hidden_states.shape))


class VisionHead(nn.Module):
    """Image tokens (B, 36, D) -> logits (B, 40): evidence of single tokens (a soft maximum) and of their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local, self.mean = nn.Linear(width, 40), nn.Linear(width, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.logsumexp(self.local(tokens), dim=1) - math.log(TOKENS) + self.mean(tokens.mean(dim=1))


def tower_tokens(model: Qwen2_5_VLForConditionalGeneration, images: np.ndarray) -> Tensor:
    """uint8 (B, 168, 168) -> image tokens (B, 36, D)."""
    grid = torch.tensor([GRID] * len(images))
    features = model.model.get_image_features(patches(images), grid).pooler_output
    return torch.stack(list(features))


@torch.no_grad()
def whiten_patches(model: Qwen2_5_VLForConditionalGeneration, images: np.ndarray) -> None:
    """Start the patch embedding at the principal components of patches, each scaled to about unit variance."""
    gray = patches(images[:400])[:, :196]
    values, vectors = torch.linalg.eigh(gray.T @ gray / len(gray))
    weight = model.model.visual.patch_embed.proj.weight  # (128, 3, 2, 14, 14)
    rows = (vectors / (values + 1e-3).sqrt()).T.flip(0)[: weight.shape[0]]  # (128, 196)
    weight.copy_(rows.view(-1, 1, 1, 14, 14).expand_as(weight) / 6)


def train_vision(model: Qwen2_5_VLForConditionalGeneration, images: np.ndarray, steps: int, batch: int = 32) -> None:
    whiten_patches(model, images)
    targets = torch.tensor([vision_targets(i) for i in range(len(images))])
    head, held = VisionHead(192), len(images) - 500
    parameters = [*model.model.visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    rng, started = np.random.default_rng(0), time.time()
    for number in range(1, steps + 1):
        rows = np.sort(rng.choice(held, batch, replace=False))
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * cosine(number, steps, warmup=100)
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(tower_tokens(model, images[rows]))
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if number % 100 == 0 or number == steps:
            print(f"vision {number}/{steps}  loss {loss:.4f}  {time.time() - started:.0f} s", flush=True)
        if number % 500 == 0 or number == steps:
            print(vision_report(model, head, images[held:], targets[held:]), flush=True)


@torch.no_grad()
def vision_report(model, head: VisionHead, images: np.ndarray, targets: Tensor) -> str:
    """Share of pairs (ill, well) that the head ranks right, per condition, on held-out warm-start pictures."""
    scores = torch.cat([head(tower_tokens(model, images[i : i + 50])) for i in range(0, len(images), 50)])
    parts = []
    for i, name in enumerate([*CONDITIONS[:13], *(["site"])]):
        column = i if name != "site" else 39
        ill, well = scores[targets[:, column] > 0, column], scores[targets[:, column] == 0, column]
        parts.append(f"{name} {(ill[:, None] > well).float().mean():.2f}")
    return "AUC: " + ", ".join(parts)


@torch.no_grad()
def encode_all(model: Qwen2_5_VLForConditionalGeneration, images: np.ndarray) -> Tensor:
    """Features of every picture (count, 36, D), half precision: the tower is frozen from here on."""
    with torch.autocast("cpu", torch.bfloat16):
        parts = [tower_tokens(model, images[i : i + 64]).half() for i in range(0, len(images), 64)]
    return torch.cat(parts)


def train_language(policy: Policy, features: Tensor, steps: int, batch: int = 24) -> None:
    model = policy.model
    model.model.visual.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    text = policy.encoder.chat(1).replace("<|image_pad|>", "<|image_pad|>" * TOKENS)
    ids = torch.tensor(policy.tokenizer(text, add_special_tokens=False)["input_ids"])
    rng, started, smooth = np.random.default_rng(1), time.time(), 0.0
    for number in range(1, steps + 1):
        rows = np.sort(rng.choice(len(features), batch, replace=False))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine(number, steps, warmup=100)
        prompts = PromptBatch(
            studies=[Study(str(row), (), "", "train") for row in rows],
            input_ids=ids.expand(batch, -1),
            attention_mask=torch.ones(batch, len(ids), dtype=torch.long),
            pixels={"image_grid_thw": torch.tensor([GRID] * batch)},
            features=features[rows].float().flatten(0, 1),
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss = sft_loss(policy, prompts, [warm_start_target(int(i)) for i in rows])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        smooth = float(loss) if number == 1 else 0.98 * smooth + 0.02 * float(loss)
        if number % 100 == 0 or number == steps:
            print(f"language {number}/{steps}  loss {smooth:.4f}  {time.time() - started:.0f} s", flush=True)


def save(model: Qwen2_5_VLForConditionalGeneration, fast: Any, out: Path) -> None:
    """A checkpoint folder as the hub lays it out, weights in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    model.float()
    (out / "model.safetensors").chmod(0o644)
    fast.save_pretrained(out)
    image_processor().save_pretrained(out)
    GenerationConfig(eos_token_id=fast.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/embedded-base"), help="pictures and the trained tower")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--studies", type=int, default=12000)
    parser.add_argument("--vision-steps", type=int, default=1500)
    parser.add_argument("--language-steps", type=int, default=2000)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    images = pictures(arguments.studies, arguments.work / "pictures.npy")
    theirs = image_processor()(
        phantom.image_of(f"phantom:{phantom_case.SEED}/warmstart/0").convert("RGB"), return_tensors="pt"
    )
    assert torch.allclose(theirs["pixel_values"], patches(images[:1]), atol=1e-4)

    fast: Any = build_tokenizer([warm_start_target(i) for i in range(4000)] + [question()] * 50)
    model = build_model(fast)
    model.set_attn_implementation(attention.NAME)  # the policy's continuations need it
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(fast)}", flush=True)
    for block in model.model.visual.blocks:
        block.attn.forward = batched_attention.__get__(block.attn)
    tower = arguments.work / "tower.pt"
    if tower.exists():
        model.model.visual.load_state_dict(torch.load(tower, weights_only=True))
    else:
        train_vision(model, images, arguments.vision_steps)
        torch.save(model.model.visual.state_dict(), tower)
    family = family_of(model.config)
    stops = [fast.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    policy = Policy(model, fast, family, PromptEncoder(fast, image_processor(), family), stops)
    train_language(policy, encode_all(model, images), arguments.language_steps)
    save(model, fast, arguments.out)
    print(f"saved: {arguments.out}")


if __name__ == "__main__":
    main()
