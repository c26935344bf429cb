"""Adapters that others trained: which are plain LoRA, which are run by PEFT's layers, which are refused."""

import json
import re
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from model.test_policy import check_parity, continuations, load, sample
from peft import IA3Config, LoHaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, VeloraConfig
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import write_checkpoint

from mrg_grpo.config import Config, RewardConfig
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.decode import predict
from mrg_grpo.model.adapters import require_bounded_patterns, save
from mrg_grpo.model.families import FAMILIES
from mrg_grpo.preflight.check_engine import check_logprobs
from mrg_grpo.rewards import Rewards

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
    "internvl": {"target_modules": r".*multi_modal_projector\.linear_[12]"},
    "llava": {"target_modules": r".*multi_modal_projector\.linear_[12]"},
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


def renamed(folder, old, new):
    path = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): weight for name, weight in load_file(path).items()}, path)


def test_what_peft_loads_is_loaded_and_of_other_names_the_version_is_said(checkpoint, studies, tmp_path):
    """A file may hold more than today's PEFT writes, such as an embedding. Whether that fits is PEFT's to say."""
    saved(checkpoint, tmp_path, lora())
    own = load(checkpoint, "float32", randomise=False, adapter=str(tmp_path))
    path = tmp_path / "adapter_model.safetensors"
    embedding = own.base.get_input_embeddings().weight.data.clone()
    name = "base_model.model.model.language_model.embed_tokens.weight"
    save_file({**load_file(path), name: embedding}, path)
    more = load(checkpoint, "float32", randomise=False, adapter=str(tmp_path))
    assert more.trainable() and all(torch.equal(a, b) for a, b in zip(more.trainable(), own.trainable(), strict=True))
    renamed(tmp_path, "self_attn", "attention")
    words = r"does not fit this base \(\d+ of its tensors .*PEFT \S+ wrote it: load it there"
    with pytest.raises(UserError, match=words):
        load(checkpoint, "float32", adapter=str(tmp_path))


HOSTILE = r"(.*)*(.*)*(.*)*(.*)*(.*)*x!"


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": HOSTILE},
        {"target_modules": "(a|b|[^!]|.)+" * 3 + "!"},
        {"exclude_modules": HOSTILE},
        {"rank_pattern": {HOSTILE: 2}},
        {"alpha_pattern": {"q_proj": 2, HOSTILE: 2}},
        {"modules_to_save": ["norm", HOSTILE]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": [HOSTILE]},
    ],
)
def test_a_pattern_that_never_ends_is_refused(checkpoint, tmp_path, monkeypatch, settings):
    saved(checkpoint, tmp_path, lora())
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    monkeypatch.setattr("mrg_grpo.model.adapters.PATTERN_SECONDS", 0.1)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(UserError, match=r"adapter .*: the pattern '.*' in its adapter_config.json takes too long"):
        load(checkpoint, "float32", adapter=str(tmp_path))
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_the_patterns_of_other_trainers_take_no_time():
    """Of Unsloth and ms-swift, on the names of a 7B."""
    names = [
        f"{tower}.{i}.{part}"
        for tower, layers in (("model.visual.blocks", 32), ("model.language_model.layers", 28))
        for i in range(layers)
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj", "input_layernorm", "mlp")
    ]
    model = SimpleNamespace(named_modules=lambda: [(name, None) for name in names])
    some, more = (
        "self_attn|attention|attn|mlp|feed_forward|ffn|dense",
        "q_proj|k_proj|v_proj|o_proj|gate_proj|down_proj",
    )
    layer = rf"\bmodel\.layers\.[\d]{{1,}}\.(?:{some})\.(?:(?:{more}))"
    unsloth = rf"(?:.*?(?:language|text).*?(?:{some}).*?(?:{more}).*?)|(?:{layer})"
    swift = rf"^(model\.language_model(?=\.).*\.({more}))$"
    started = time.perf_counter()
    for pattern in (unsloth, swift, PROJECTIONS):
        require_bounded_patterns(SimpleNamespace(target_modules=pattern), model, "x")
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("place", ["adapter", "base", "tower"])
def test_weights_that_are_not_finite_are_named_and_no_report_is_read_out(checkpoint, studies, place, tmp_path):
    policy = load(checkpoint, "float32")
    names = {"adapter": "lora_B", "base": "language_model.norm", "tower": "visual.merger"}
    name, parameter = next((n, p) for n, p in policy.model.named_parameters() if names[place] in n)
    parameter.data.fill_(torch.nan)
    config = Config()
    config.prompt.text, config.sampling.max_tokens = "Report?", 4
    with pytest.raises(UserError, match=f"logits are not finite; the weight {re.escape(name)} is not finite"):
        predict(policy, studies, config)
    with pytest.raises(UserError, match="logits are not finite"):
        check_logprobs(config, policy, studies)


@pytest.mark.parametrize("path", ["runs/nowhere/adapter", "./x", "/no/adapter", "tests/no-adapter"])
def test_a_path_that_is_not_there_is_no_id_of_the_hub(checkpoint, path):
    with pytest.raises(UserError, match=f"adapter {path}: no such file or folder"):
        load(checkpoint, "float32", adapter=path)


def test_special_tokens_inside_a_completion_are_counted_and_cost_the_form(checkpoint, studies):
    """Their text is left out, so nine `<|im_start|>` looked like a report that keeps to the form."""
    policy = load(checkpoint, "float32")
    prefix = policy.prefill(policy.encoder.encode(studies))
    usual = sample(policy, prefix, ["one", "two"], 24, step=2)
    assert torch.equal(usual.special, torch.isin(usual.tokens, torch.tensor(policy.special_ids)).mul(usual.mask).sum(1))
    start = policy.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert start in policy.special_ids and not set(policy.special_ids) & set(policy.stop_ids)
    policy.special_ids = [int(usual.tokens[0, 0])]  # a token that is there for certain
    rollout = sample(policy, prefix, ["one", "two"], 24, step=2)
    assert torch.equal(rollout.logps, usual.logps) and rollout.special_counts()[0] >= 1
    whole = "<report>Clear.</report>"
    rewards = Rewards(RewardConfig(weights={"format": 1.0}), Blank(), think=False)
    table = rewards.score([whole] * 4, [studies[0]] * 2, [[0]] * 4, [0, 9, 0, 1])
    assert table.total.tolist() == [1.0, 0.0, 1.0, 0.0] and table.reports.texts == ["Clear."] * 4


class Blank:
    """A stand-in labeler."""

    def label(self, reports):
        return torch.zeros(len(reports), 14, dtype=torch.long)
