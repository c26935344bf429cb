"""Adapters that others trained: which are plain LoRA, which are run by PEFT's layers, which are refused."""

import json

import pytest
import torch
from model.test_policy import check_parity, continuations, load, sample
from peft import IA3Config, LoHaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, VeloraConfig
from PIL import Image
from tiny import write_checkpoint

from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.model.adapters import save
from mrg_grpo.model.families import FAMILIES

PROJECTIONS = r".*language_model.*\.(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def lora(**settings) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": PROJECTIONS, **settings})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    one, two = str(folder / "1.png"), str(folder / "2.png")
    Image.effect_noise((84, 56), 60).save(one)
    Image.effect_noise((112, 84), 60).save(two)
    return [Study("one", (one,), "", "train"), Study("two", (one, two), "", "train")]


def saved(checkpoint, folder, config) -> str:
    """An adapter of this kind with weights that do something, as PEFT writes it."""
    model = get_peft_model(load(checkpoint, "float32").model.unload(), config)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    model.save_pretrained(folder)
    return str(folder)


KINDS = {
    "plain": (lora(), True),
    "rank-stabilised": (lora(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 1}), True),
    "trained lm_head": (lora(modules_to_save=["lm_head"]), True),
    "trained norms": (lora(modules_to_save=["norm", "input_layernorm"]), True),
    "PiSSA": (lora(init_lora_weights="pissa"), True),
    "KaSA": (lora(kasa_config=KasaConfig()), False),
    "BdLoRA": (lora(use_bdlora=BdLoraConfig(target_modules_bd_a=["q_proj"], nblocks=2, match_strict=False)), False),
    "MiCA": (lora(init_lora_weights="mica"), False),
    "VeLoRA": (lora(velora_config=VeloraConfig()), False),
    "bare parameters": (lora(target_modules=[], target_parameters=["q_proj.weight"]), False),
    "LoHa": (LoHaConfig(r=4, target_modules=["q_proj"]), False),
    "IA3": (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sampled_is_what_trains_and_what_peft_computes(checkpoint, studies, kind, tmp_path):
    """Only weight + scaled B A is computed by our own layers; 4.6 nats a token lay between them and KaSA."""
    config, plain = KINDS[kind]
    policy = load(checkpoint, "float32", randomise=False, adapter=saved(checkpoint, tmp_path, config))
    assert policy.fast_decode is plain and not policy.reference.fresh
    prompts = policy.encoder.encode(studies)
    rollout = sample(policy, policy.prefill(prompts), ["one", "two"], 12, step=2)

    def logps():
        with torch.no_grad():
            return policy.logprobs(policy.prefill(prompts), rollout.tokens, rollout.mask)[0]

    own = logps()
    assert (own - rollout.logps).abs().max() < 1e-4
    with policy.reference():  # the adapter as it was loaded
        assert torch.equal(logps(), own)
    with policy.model.disable_adapter():
        assert (logps() - own).abs().max() > 1e-2


def test_what_acts_only_through_pefts_forward_is_refused(checkpoint, tmp_path):
    adapter = saved(checkpoint, tmp_path, lora(alora_invocation_tokens=[3, 4]))
    with pytest.raises(UserError, match=r"alora_invocation_tokens works only through PEFT's own forward pass"):
        load(checkpoint, "float32", adapter=adapter)


BEHIND_THE_TOWER = {
    "gemma3": {"modules_to_save": ["multi_modal_projector"], "target_modules": ["o_proj"]},
    "qwen2_vl": {"target_modules": r".*visual\.merger\.mlp\.[02]"},
    "qwen2_5_vl": {"target_modules": r".*visual\.merger\.mlp\.[02]"},
    "qwen3_vl": {"target_modules": r".*visual\.(?:merger|deepstack_merger_list\.\d)\.linear_fc[12]"},
}
"""Adapters that train what stands between the vision tower and the text model."""


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_projector_that_trains_has_the_gradient_of_full_sequences_and_a_reference_of_its_own(
    family, studies, tmp_path
):
    checkpoint = write_checkpoint(tmp_path / "base", family=family)
    adapter = saved(checkpoint, tmp_path / "adapter", lora(**BEHIND_THE_TOWER[family]))
    policy = load(checkpoint, randomise=False, adapter=adapter)
    check_parity(policy, studies, 3)
    prompts = policy.encoder.encode(studies)
    tokens, mask = continuations(policy)

    def logps():
        with torch.no_grad():
            return policy.logprobs(policy.prefill(prompts), tokens, mask)[0]

    start = logps()
    for parameter in policy.trainable():
        parameter.data += 0.1
    assert (logps() - start).abs().max() > 1e-3
    with policy.reference():
        assert torch.equal(logps(), start)


def test_an_adapter_is_written_as_the_same_bytes_whatever_the_order_of_its_sets(checkpoint, tmp_path):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapter = saved(checkpoint, tmp_path / "given", lora(target_modules=names, exclude_modules=".*visual.*"))
    model = load(checkpoint, "float32", randomise=False, adapter=adapter).model
    save(model, tmp_path / "own")
    written = (tmp_path / "own" / "adapter_config.json").read_text()
    assert json.loads(written)["target_modules"] == sorted(names)
    model.save_pretrained(tmp_path / "pefts")
    pefts = json.loads((tmp_path / "pefts" / "adapter_config.json").read_text())
    assert written == json.dumps({**pefts, "target_modules": sorted(names)}, indent=2, sort_keys=True)
