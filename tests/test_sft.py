"""The warm start: its schedule, its targets, and that micro-batches do not change its gradient."""

import pytest
import torch
from small_grpo import build, setting
from tiny import tokenizer
from transformers import AddedToken

from mrg_grpo.config import Config
from mrg_grpo.errors import UserError
from mrg_grpo.model.encoder import PromptEncoder, special_tokens
from mrg_grpo.model.families import FAMILIES
from mrg_grpo.model.policy import Policy
from mrg_grpo.sft import cosine, encode_targets, sft_loss


def test_the_rate_rises_falls_and_is_never_nothing_but_at_the_end():
    shares = [cosine(step, 100, 10) for step in range(1, 101)]
    assert shares[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert shares[9:] == sorted(shares[9:], reverse=True) and shares[54] == pytest.approx(0.5) and shares[-1] < 1e-12
    assert cosine(1, 1, 0) == cosine(11, 11, 10) == pytest.approx(0.5)  # a run of one step learns


@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_micro_batches_do_not_change_the_gradient(tiny_checkpoint, studies, family, vision):
    config = setting(tiny_checkpoint(scale=0.1, family=family))
    config.lora.vision = vision
    policy = build(config).policy
    prompts, texts = policy.encoder.encode(studies[:5], filler=1), ["aei", "clear", "no effusion at all", "x", "left"]
    losses, gradients = [], []
    for size in (0, 1, 2, 5):
        policy.model.zero_grad()
        losses.append(sft_loss(policy, prompts, texts, size).item())
        gradients.append(torch.cat([p.grad.flatten() for p in policy.trainable()]))
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-13) and gradients[0].abs().max() > 1e-4
    assert all((g - gradients[0]).abs().max() < 1e-13 * max(1, gradients[0].abs().max()) for g in gradients)


@pytest.mark.parametrize("family", [*sorted(FAMILIES), "embedded"])
def test_what_a_report_spells_is_text_and_only_the_end_is_a_special_token(family, tiny_checkpoint):
    config = Config()
    config.model.path = "" if family == "embedded" else str(tiny_checkpoint(family=family))
    config.model.device = "cpu"
    policy = Policy.load(config)
    special = policy.tokenizer.all_special_tokens
    text = f"<report>Clear {' '.join(special)} lungs.</report>"
    tokens, mask = encode_targets(policy, [text, "<report>Clear.</report>"])
    ids = set(policy.tokenizer.all_special_ids)
    for row, keep in zip(tokens.tolist(), mask.sum(1).tolist()):
        assert row[keep - 1] == policy.stop_ids[0] and not set(row[: keep - 1]) & ids
    assert policy.tokenizer.decode(tokens[0][mask[0]][:-1].tolist()) == text
    plain = policy.tokenizer("<report>Clear.</report>", add_special_tokens=False)["input_ids"]  # of others as ever
    assert tokens[1][mask[1]].tolist() == [*plain, policy.stop_ids[0]]
    parts = policy.encoder
    assert {"<|im_end|>", "<end_of_turn>", "</s>"} & {*special}
    for token in {*special, *policy.family.vision_tokens}:
        with pytest.raises(UserError, match="must not hold"):
            PromptEncoder(parts.tokenizer, parts.image_processor, parts.family, f"Write {token} now.")


def test_a_special_token_that_the_tokenizer_does_not_name_is_one_all_the_same():
    """As Gemma 3's <start_of_turn>: marked in tokenizer.json, and in no list of the tokenizer."""
    fast = tokenizer(["<|im_start|>"])
    fast.add_tokens([AddedToken("<start_of_turn>", special=True), AddedToken("<tool_call>", special=False)])
    found = special_tokens(fast)
    assert "<start_of_turn>" not in fast.all_special_tokens and "<start_of_turn>" in found.values()
    assert {*fast.all_special_ids} <= found.keys() and "<tool_call>" not in found.values()
