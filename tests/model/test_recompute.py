"""Layers that run again in the backward pass: the same gradients to the last bit, with less kept."""

import gc
import weakref

import pytest
import torch
from kept import Kept
from small_grpo import build, setting, step_gradients

from mrg_grpo.model.families import FAMILIES
from mrg_grpo.model.fsdp import layers
from mrg_grpo.model.kv_cache import PrefixRecorder
from mrg_grpo.sft import sft_loss

TARGETS = ["aei", "clear", "no effusion at all"]


@pytest.fixture(params=sorted(FAMILIES))
def checkpoint(request, tiny_checkpoint):
    return tiny_checkpoint(scale=0.1, family=request.param)


def policy_of(checkpoint, recompute, vision=False, **grpo):
    config = setting(checkpoint, recompute=recompute, **grpo)
    config.lora.vision = vision
    return build(config)


@pytest.mark.parametrize("vision", [False, True])
def test_a_step_has_the_same_gradients_to_the_last_bit(checkpoint, studies, vision):
    options = {"beta": 0.1, "inner_passes": 2, "micro_batch": 3, "studies_per_pass": 2, "studies_per_step": 3}
    plain, result = step_gradients(policy_of(checkpoint, "none", vision, **options), studies[:3])
    metrics = result.metrics
    assert plain.abs().max() > 1e-4
    for what in ("prompt", "all"):
        gradients, found = step_gradients(policy_of(checkpoint, what, vision, **options), studies[:3])
        assert torch.equal(gradients, plain)
        assert all(
            found.metrics[name] == metrics[name] for name in metrics if "seconds" not in name and name != "memory_gb"
        )


@pytest.mark.parametrize("vision", [False, True])
def test_the_warm_start_too(checkpoint, studies, vision):
    found = []
    for what in ("none", "prompt", "all"):
        policy = policy_of(checkpoint, what, vision).policy
        sft_loss(policy, policy.encoder.encode(studies[:3]), TARGETS, 2)
        found.append(torch.cat([p.grad.flatten() for p in policy.trainable()]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2]) and found[0].abs().max() > 1e-4


def test_what_runs_again_and_what_is_kept(tiny_checkpoint, studies):
    runs, kept = {}, {}
    for what in ("none", "prompt", "all"):
        policy = policy_of(tiny_checkpoint(scale=0.1), what).policy
        attention = policy.family.text_model(policy.base).layers[0].self_attn
        counted, plain = [], attention.forward
        attention.forward = lambda *words, c=counted, f=plain, **named: (c.append(1), f(*words, **named))[1]
        prompts = policy.encoder.encode(studies[:2])
        tokens = torch.randint(0, 200, (4, 9), generator=torch.Generator().manual_seed(0))
        mask = torch.ones(4, 9, dtype=torch.bool)
        with Kept(policy) as prompt:
            prefix = policy.prefill(prompts)
        with Kept(policy) as reports:
            logps, _ = policy.logprobs(prefix, tokens, mask)
        logps.sum().backward()
        policy.backward(prefix)
        runs[what], kept[what] = len(counted), (prompt.total, reports.total)
        with torch.no_grad():
            policy.prefill(prompts)
        assert len(counted) == runs[what] + 1  # without gradient a layer runs once
    assert runs == {"none": 2, "prompt": 3, "all": 4}
    assert kept["prompt"][0] < kept["none"][0] / 3 and kept["prompt"][1] == kept["none"][1]
    assert kept["all"][0] == kept["prompt"][0] and kept["all"][1] < kept["none"][1] / 3


def test_no_circle_is_left_for_the_garbage_collector(tiny_checkpoint, studies):
    policy = policy_of(tiny_checkpoint(scale=0.1), "all").policy
    gc.collect()
    gc.disable()
    try:
        prefix = policy.prefill(policy.encoder.encode(studies[:1]))
        logps, _ = policy.logprobs(prefix, torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool))
        logps.sum().backward()
        watched = [weakref.ref(x) for x in (prefix, prefix.graph[0], prefix.keys[0], logps)]
        policy.backward(prefix)
        del prefix, logps
        assert [ref() for ref in watched] == [None] * 4
    finally:
        gc.enable()


def test_a_recorder_keeps_what_it_was_given_until_it_is_taken():
    recorder, one = PrefixRecorder(), torch.zeros(1)
    recorder.update(one, one + 1, 0)
    with pytest.raises(RuntimeError, match="not live"):
        recorder.take(2)
    again = recorder.update(one + 5, one + 6, 0)  # a recomputed layer: given back and not kept
    assert [float(x) for x in again] == [5.0, 6.0] and recorder.found is None


def test_every_layer_of_both_towers_is_wrapped(checkpoint):
    policy = policy_of(checkpoint, "prompt").policy
    for tower in (policy.family.text_model(policy.base), policy.family.vision_tower(policy.base)):
        assert all(layer.forward.__name__ == "recomputed" for layer in layers(tower)) and len(layers(tower)) >= 2
