"""The schedule of the warm start."""

import pytest
from tiny import write_checkpoint

from mrg_grpo.config import Config
from mrg_grpo.errors import UserError
from mrg_grpo.model.policy import Policy
from mrg_grpo.sft import cosine, encode_targets


def test_the_rate_rises_falls_and_is_never_nothing_but_at_the_end():
    shares = [cosine(step, 100, 10) for step in range(1, 101)]
    assert shares[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert shares[9:] == sorted(shares[9:], reverse=True) and shares[54] == pytest.approx(0.5) and shares[-1] < 1e-12
    assert cosine(1, 1, 0) == cosine(11, 11, 10) == pytest.approx(0.5)  # a run of one step learns


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_what_a_report_spells_is_text_and_only_the_end_is_a_special_token(family, tmp_path):
    config = Config()
    config.model.path, config.model.device = str(write_checkpoint(tmp_path, family=family)), "cpu"
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
    for token in special:
        config.prompt.text = f"Write {token} now."
        with pytest.raises(UserError, match="must not hold"):
            Policy.load(config)
