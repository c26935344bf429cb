"""A base in 4 bits against whole weights of the same values: a step, sampling, the reference, what is kept, reload."""

import json
import sys
from zlib import crc32

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_grpo import build, run, setting, step_gradients
from torch import nn

from mrg_grpo.config import check, load_config
from mrg_grpo.errors import UserError
from mrg_grpo.grpo import Grpo
from mrg_grpo.model.decoder import FusedLinear
from mrg_grpo.model.families import FAMILIES
from mrg_grpo.model.nf4 import Nf4Linear
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import decode
from mrg_grpo.model.sampler import Sampler
from mrg_grpo.run.folder import MAY_CHANGE
from mrg_grpo.sft import sft_loss

pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
SIZES = {"hidden_size": 64, "intermediate_size": 96}  # blocks of 64 weights
ROPE = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request, tiny_checkpoint):
    own = {"head_dim": 16} if request.param in ("qwen3_vl", "gemma3") else {}
    rope = {"rope_parameters": ROPE} if request.param.startswith("qwen") else {}
    return tiny_checkpoint(scale=0.1, family=request.param, **SIZES, **own, **rope)


def grpo_of(checkpoint, quantize="nf4", dtype="float32", vision=False, **grpo) -> Grpo:
    config = setting(checkpoint, dtype, **grpo)
    config.model.quantize, config.lora.vision = quantize, vision
    return build(config)


def four_bit(policy) -> dict[str, Nf4Linear]:
    return {name: layer for name, layer in policy.base.named_modules() if isinstance(layer, Nf4Linear)}


def whole_twin(checkpoint, tmp_path, dtype="float32", **options) -> Grpo:
    """The same policy with whole weights, whose values are those that the 4 bits stand for."""
    values = {
        name.replace(".base_layer", ""): layer.weight
        for name, layer in four_bit(grpo_of(checkpoint, dtype=dtype).policy).items()
    }
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors, found = load_file(tmp_path / "model.safetensors"), 0
    for key in tensors:
        for name, value in values.items():
            if key.endswith(name.partition("language_model.")[2] + ".weight") and "layers." in key and "vis" not in key:
                tensors[key], found = value.to(tensors[key].dtype).contiguous(), found + 1
    assert found == len(values) > 0
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return grpo_of(tmp_path, "none", dtype, **options)


def half_of_the_letters(reports) -> torch.Tensor:
    """A reward that random reports differ in, and that can be learned."""
    return torch.tensor([sum(c in set("abcdefghijklm") for c in text) / 12 for text in reports.completions])


def step(grpo, studies):
    """Gradients of the last inner pass, and the step's metrics; every report has a reward of its own."""
    grpo.rewards.terms = {"ccs": lambda r: torch.tensor([crc32(text.encode()) % 997 / 997 for text in r.completions])}
    return step_gradients(grpo, studies)


def test_every_linear_layer_of_the_text_model_and_no_other(checkpoint):
    policy = grpo_of(checkpoint).policy
    text = policy.family.text_model(policy.base)
    inner = [m for m in text.layers.modules() if isinstance(m, nn.Linear) and "lora" not in type(m).__module__]
    assert len(four_bit(policy)) == 7 * len(text.layers)
    assert all(type(m) is Nf4Linear or m.in_features == 4 or m.out_features == 4 for m in inner)  # LoRA's own
    for part in (policy.family.vision_tower(policy.base), policy.base.lm_head):
        assert not any(isinstance(m, Nf4Linear) for m in part.modules())
    packed = sum(layer.packed.nbytes for layer in four_bit(policy).values())
    assert packed == sum(layer.in_features * layer.out_features for layer in four_bit(policy).values()) / 2


@pytest.mark.parametrize("vision", [False, True])
def test_a_step_is_that_of_whole_weights_of_the_same_values(checkpoint, studies, vision, tmp_path):
    options = {"beta": 0.1, "inner_passes": 2, "micro_batch": 3, "studies_per_pass": 1, "vision": vision}
    packed, result = step(grpo_of(checkpoint, **options), studies[:2])
    whole, expected = step(whole_twin(checkpoint, tmp_path, **options), studies[:2])
    assert torch.equal(result.rollout.tokens, expected.rollout.tokens) and whole.abs().max() > 1e-4
    assert (result.rollout.logps - expected.rollout.logps).abs().max() < 1e-5
    assert (packed - whole).abs().max() < 1.4e-6 * max(1, whole.abs().max())
    assert result.metrics["sampling_gap"] < 6e-6
    for name in ("loss", "kl", "entropy", "reward"):
        assert result.metrics[name] == pytest.approx(expected.metrics[name], abs=1e-5)


@pytest.mark.parametrize("targets", [[], ["q_proj", "v_proj"]])
def test_in_bf16_a_young_adapter_counts(tiny_checkpoint, targets):
    """As for whole weights: what it adds is far below the last bit, and the sum is rounded once."""
    config = setting(tiny_checkpoint(scale=0.1, **SIZES, rope_parameters=ROPE), "bfloat16")
    config.model.quantize, config.lora.targets = "nf4", targets
    policy = Policy.load(config)
    layer = policy.family.text_model(policy.base).layers[0].self_attn.q_proj
    generator = torch.Generator().manual_seed(3)
    layer.lora_B["default"].weight.data = torch.randn(layer.lora_B["default"].weight.shape, generator=generator) * 1e-4
    x = torch.randn(4096, layer.in_features, generator=generator).bfloat16()
    for adapted in (FusedLinear(layer), layer):
        with torch.no_grad():
            added = adapted(x).double() - layer.base_layer(x).double()
            factors = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
            exact = x.double() @ (layer.scaling["default"] * factors).T
        assert ((added * exact).sum() / exact.square().sum()).item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pass_without_gradient_changes_nothing(checkpoint, studies, dtype):
    """bitsandbytes' own layers repack their weights in one, on some CPUs."""
    policy = grpo_of(checkpoint, dtype=dtype).policy
    prompts = policy.encoder.encode(studies[:2])

    def gradients():
        policy.model.zero_grad()
        sft_loss(policy, prompts, ["aei", "no effusion"])
        return torch.cat([p.grad.flatten() for p in policy.trainable()])

    before = gradients()
    with torch.no_grad(), policy.reference():
        decode(Sampler(policy), policy.prefill(prompts), 8)
    decode(Sampler(policy), policy.prefill(prompts), 8)
    assert torch.equal(gradients(), before) and before.abs().max() > 0


def test_reference_and_reload_are_exact(checkpoint, studies, tmp_path):
    grpo = grpo_of(checkpoint)
    policy, prompts = grpo.policy, grpo.policy.encoder.encode(studies[:2])
    tokens, mask = torch.randint(0, 200, (2, 9)), torch.ones(2, 9, dtype=torch.bool)

    @torch.no_grad()
    def logps(of):
        return of.logprobs(of.prefill(prompts), tokens, mask)[0]

    start = logps(policy)
    for parameter in policy.trainable():
        parameter.data += 0.05
    moved = logps(policy)
    with policy.reference():
        assert torch.equal(logps(policy), start) and not torch.equal(moved, start)
    policy.model.save_pretrained(str(tmp_path))
    again = Policy.load(grpo.config, str(tmp_path))
    assert torch.equal(logps(again), moved)


def test_autograd_keeps_no_written_out_weight(tiny_checkpoint, studies):
    policy = grpo_of(tiny_checkpoint(scale=0.1, **SIZES, rope_parameters=ROPE), dtype="bfloat16").policy
    shapes = {tuple(layer.state.shape) for layer in four_bit(policy).values()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(tuple(x.shape)), x)[1], lambda x: x):
        prefix = policy.prefill(policy.encoder.encode(studies[:2]))
        policy.logprobs(prefix, torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool))
    assert kept and not shapes & set(kept)


def test_a_checkpoint_that_bitsandbytes_quantised_is_read(tiny_checkpoint, studies, tmp_path):
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    base = tiny_checkpoint(scale=0.1, **SIZES, rope_parameters=ROPE)
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["model.visual", "lm_head"],
    )  # fmt: skip
    model = AutoModelForImageTextToText.from_pretrained(
        base, quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
    )
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "bitsandbytes"
    read, own = (build(setting(path, "float32")).policy for path in (tmp_path, base))
    assert len(four_bit(read)) == 7 * 3 and not four_bit(own)
    ours = grpo_of(base).policy
    prompts = ours.encoder.encode(studies[:2])
    with torch.no_grad():
        texts = [decode(Sampler(policy), policy.prefill(prompts), 12) for policy in (read, ours, own)]
    assert (texts[0].logps - texts[1].logps).abs().max() < 1e-5 and texts[0].texts == texts[1].texts
    assert (texts[0].logps - texts[2].logps).abs().max() > 1e-4  # 4 bits are not 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model.shard=true"], "not spread over ranks"),
        (['model.dtype="float64"'], "16 or 32"),
        (['model.quantize="int8"'], "nf4"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_it_is_refused_in_one_line(changes, words):
    with pytest.raises(UserError, match=words):
        check(load_config(None, ["model.quantize=nf4", *changes]))
    assert "model.quantize" not in MAY_CHANGE  # of a run that is resumed: another base, other numbers


def test_without_the_library_one_line_says_what_to_install(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    config = setting(tiny_checkpoint(), "float32")
    config.model.quantize = "nf4"
    with pytest.raises(UserError, match=r"needs bitsandbytes; pip install 'mrg_grpo\[quant\]'"):
        Policy.load(config)


def test_it_learns(tiny_checkpoint, studies):
    config = setting(
        tiny_checkpoint(scale=0.1, **SIZES, rope_parameters=ROPE), "float32", beta=0.0, group_size=16, recompute="all"
    )
    config.model.quantize = "nf4"
    grpo = build(config)
    grpo.rewards.terms = {"ccs": half_of_the_letters}
    rewards = [result.metrics["reward"] for result in run(grpo, studies, 30)]
    assert sum(rewards[-5:]) > 1.5 * sum(rewards[:5]), rewards
