"""LLaVA and InternVL: every language model they may have, tiles, layers of features, the beginning of a prompt."""

import json

import pytest
import torch
from PIL import Image
from test_policy import G, T, check_parity, continuations, load, sample, studies  # noqa: F401  (a fixture)
from tiny import WINDOW
from transformers import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mrg_grpo.config import Config
from mrg_grpo.errors import UserError
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.sampler import Sampler

SLIDES = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
TEXTS = [
    {"model_type": "llama"}, {"model_type": "llama", "num_key_value_heads": 4, "attention_bias": True},
    {"model_type": "mistral", "sliding_window": None}, {"model_type": "mistral", "sliding_window": WINDOW},
    {"model_type": "qwen2"}, {"model_type": "qwen2", **SLIDES}, {"model_type": "qwen3"},
    {"model_type": "qwen3", **SLIDES},
]  # fmt: skip


def name_of(text: dict) -> str:
    return "-".join(str(value) for value in text.values())


@pytest.fixture(scope="module", params=TEXTS, ids=name_of)
def text(request):
    return request.param


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_every_language_model_equals_full_sequences(family, text, studies, tiny_checkpoint):  # noqa: F811
    check_parity(load(tiny_checkpoint(family=family, **text)), studies, 3)


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_every_language_model_is_decoded_by_hand_as_by_its_layers(family, text, studies, tiny_checkpoint):  # noqa: F811
    policy = load(tiny_checkpoint(family=family, **text))
    tokens, _ = continuations(policy)
    with torch.no_grad():
        prefix = policy.prefill(policy.encoder.encode(studies))
        samplers = [Sampler(policy, fast, fixed) for fast, fixed in ((True, False), (True, True), (False, False))]
        caches = [sampler.start(prefix, torch.arange(2), G, WINDOW + 6)[0] for sampler in samplers]
        for t in range(WINDOW + 4):  # own tokens fall out of the window too
            *by_hand, plain = (sampler.step(tokens[:, t % T], cache) for sampler, cache in zip(samplers, caches))
            seen = plain.isfinite()
            assert all((logits[seen] - plain[seen]).abs().max() < 1e-5 for logits in by_hand)
    rollout = sample(policy, prefix, ["one", "two"], WINDOW + 8, step=2)
    logps, _ = policy.logprobs(prefix, rollout.tokens, rollout.mask)
    assert (logps - rollout.logps).abs().max() < 1e-5
