"""Vision towers with all segments in one call, against transformers' own, which take segment by segment."""

import pytest
import torch
from small_grpo import build, setting
from torch.utils._python_dispatch import TorchDispatchMode

from mrg_grpo.model.vision_attention import NAME, Segments

QWEN = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"]


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.attention = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.attention += "attention" in str(operation) and "backward" not in str(operation)
        return operation(*args, **(kwargs or {}))


def tower_gradients(policy, features):
    policy.model.zero_grad()
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0), dtype=features.dtype)
    (features * weights).sum().backward()
    return torch.cat([p.grad.flatten() for n, p in policy.model.named_parameters() if p.grad is not None])


@pytest.mark.parametrize("family", QWEN)
def test_features_and_gradients_are_those_of_transformers(tiny_checkpoint, studies, family):
    config = setting(tiny_checkpoint(family=family))
    config.lora.vision = True
    policy = build(config).policy
    tower = policy.family.vision_tower(policy.base)
    assert tower.config._attn_implementation == NAME
    prompts = policy.encoder.encode(studies)
    grids = prompts.pixels["image_grid_thw"]
    assert len(grids.unique(dim=0)) > 1  # several sizes: padding
    with Calls() as calls:
        ours = policy.family.vision_features(policy.base, prompts)
    assert calls.attention == len(tower.blocks)
    gradient = tower_gradients(policy, ours)

    tower.config._attn_implementation = "sdpa"
    output = policy.base.model.get_image_features(prompts.pixels["pixel_values"], grids)
    levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
    theirs = torch.cat([torch.cat(list(level)) for level in levels], dim=-1)
    assert (ours - theirs).abs().max() < 1e-11 * theirs.abs().max()
    want = tower_gradients(policy, theirs)
    assert (gradient - want).abs().max() < 1e-10 * want.abs().max() and want.abs().max() > 0


@pytest.mark.parametrize("family", QWEN)
def test_positions_made_by_the_encoder_are_the_models(tiny_checkpoint, studies, family):
    policy = build(setting(tiny_checkpoint(family=family))).policy
    prompts = policy.encoder.encode(studies)
    image = (prompts.input_ids == policy.family.config.image_token_id).int()
    positions, deltas = policy.base.model.get_rope_index(
        prompts.input_ids, image, image_grid_thw=prompts.pixels["image_grid_thw"], attention_mask=prompts.attention_mask
    )
    assert torch.equal(prompts.positions, positions) and torch.equal(prompts.rope_deltas, deltas.view(-1))


def test_segments_by_hand():
    even = Segments.of(torch.tensor([0, 3, 6]))
    assert (even.count, even.longest, even.padded, even.seen, even.places) == (2, 3, None, None, None)
    odd = Segments.of(torch.tensor([0, 1, 4, 6]))
    assert odd.padded.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 4]]
    assert odd.seen.view(3, 3).tolist() == [[True, False, False], [True] * 3, [True, True, False]]
    assert odd.places.tolist() == [0, 3, 4, 5, 6, 7]


def test_a_part_of_a_batch_is_what_its_studies_encode_to(tiny_checkpoint, studies):
    policy = build(setting(tiny_checkpoint())).policy
    whole = policy.encoder.encode(studies, filler=2)
    whole.features = torch.arange(sum(whole.rows["features"]) * 2.0).view(-1, 2)
    parts = whole.split(4)
    assert [len(part.studies) for part in parts] == [4, len(studies) - 4]
    assert sum(part.filler for part in parts) == 2 and parts[0].filler == 0
    assert torch.equal(torch.cat([part.features for part in parts]), whole.features)
    for part in parts:
        alone = policy.encoder.encode(part.studies, keys=part.keys)
        assert part.lengths == alone.lengths and part.padded == alone.padded
        for name in ("input_ids", "attention_mask", "positions", "rope_deltas"):
            assert torch.equal(getattr(part, name), getattr(alone, name)), name
        assert all(torch.equal(part.pixels[name], alone.pixels[name]) for name in alone.pixels)
