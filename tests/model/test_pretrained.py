"""Checkpoints in the form of the hub: both config forms, real vocabulary, the real 7B's arithmetic, and refusals."""

import os
import shutil
import subprocess
import sys

import hub
import pytest
import torch
from damage import blind_template, cut_shard, edit, foreign_tokenizer, missing_shard, missing_tensor, text_template
from peft.tuners.lora import LoraLayer
from PIL import Image
from tiny import tokenizer, write_checkpoint
from transformers import AutoConfig, AutoModelForImageTextToText

from mrg_grpo.config import Config
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.grpo import Grpo
from mrg_grpo.model.adapters import attach
from mrg_grpo.model.families import FAMILIES, family_of
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.pretrained import closing_id
from mrg_grpo.rewards import Rewards
from mrg_grpo.sft import encode_targets


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The same checkpoint twice: as published in 2025, and with a nested config and today's parameter names."""
    vocabulary = hub.ranks()
    flat, nested = tmp_path_factory.mktemp("flat"), tmp_path_factory.mktemp("nested")
    hub.write_tokenizer(flat, vocabulary)
    shutil.copytree(flat, nested, dirs_exist_ok=True)
    hub.write_weights(flat, hub.flat_config(), old=True)
    hub.write_weights(nested, hub.nested_config(), old=False)
    for folder in (flat, nested):
        hub.write_rest(folder)
    return {"flat": flat, "nested": nested}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "x.png"
    pixels = torch.randint(0, 256, (84, 56), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return Study("x", (str(path),), "no pleural effusion", "train")


def setting(folder, dtype="float32") -> Config:
    config = Config()
    config.model.path, config.model.device, config.model.dtype = str(folder), "cpu", dtype
    config.prompt.text, config.sampling.max_tokens, config.grpo.group_size = "Report?", 8, 4
    config.reward.weights = {"ccs": 1.0}
    return config


class LengthLabeler:
    """A stand-in labeler: condition i is positive where the report's length has bit i."""

    def label(self, texts):
        return torch.tensor([[len(text) >> i & 1 for i in range(14)] for text in texts])


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_prompt_has_the_real_ids(forms, study, form):
    policy = Policy.load(setting(forms[form]))
    assert len(policy.tokenizer) == 151665 and policy.stop_ids == [151645, 151643]
    assert policy.tokenizer("Hello world")["input_ids"] == [9707, 1879]
    assert sorted(policy.suppressed.tolist()) == [151652, 151653, 151654, 151655, 151656]
    prompts = policy.encoder.encode([study])
    system = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]  # You are a helpful assistant.
    image = [151652, *[151655] * 6, 151653]  # 84 x 56 pixels are 6 x 4 patches, 2 x 2 to a token
    ids = prompts.input_ids[0].tolist()
    assert ids[: len(system) + 3 + len(image)] == [*system, 151644, 872, 198, *image]
    assert ids[-5:] == [151645, 198, 151644, 77091, 198]
    assert "Report?" in policy.tokenizer.decode(ids)
    text = "Herz größer: <think>心影</think>\n\n  no 1234 effusion."
    assert policy.tokenizer.decode(policy.tokenizer(text)["input_ids"]) == text


def test_both_config_forms_give_the_same_numbers(forms, study):
    results = []
    for folder in forms.values():
        policy = Policy.load(setting(folder))
        assert {p.dtype for p in policy.base.model.visual.parameters() if not p.requires_grad} == {torch.float32}
        prompts = policy.encoder.encode([study])
        tokens = torch.arange(40).view(4, 10)
        with torch.no_grad():
            logps, _ = policy.logprobs(policy.prefill(prompts), tokens, torch.ones(4, 10, dtype=torch.bool))
        results.append(logps)
    assert torch.equal(*results) and results[0].std() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_a_step_of_grpo_from_the_hubs_files(forms, study, form, dtype, tmp_path):
    config = setting(forms[form], dtype)
    config.grpo.learning_rate, config.grpo.warmup = 1e-2, 1
    policy = Policy.load(config)
    assert policy.base.lm_head.weight.dtype == config.model.resolved_dtype()
    assert all(p.dtype == torch.float32 for p in policy.trainable())
    grpo = Grpo(config, policy, Rewards(config.reward, LengthLabeler()))
    prompts = policy.encoder.encode([study])
    result = grpo.step(prompts, 1)
    assert result.metrics["grad_norm"] > 0 and not torch.isin(result.rollout.tokens, policy.suppressed).any()
    with torch.no_grad():
        logps, _ = policy.logprobs(policy.prefill(prompts), result.rollout.tokens, result.rollout.mask)
    gap = (logps - result.rollout.logps)[result.rollout.mask].abs().max()
    assert gap > 1e-3  # the step moved it
    policy.model.save_pretrained(str(tmp_path))
    loaded = Policy.load(config, adapter=str(tmp_path))
    with torch.no_grad():
        again, _ = loaded.logprobs(loaded.prefill(prompts), result.rollout.tokens, result.rollout.mask)
    assert torch.equal(again, logps)


@pytest.mark.parametrize("config", [hub.flat_config({}, {}), hub.nested_config({}, {})], ids=["flat", "nested"])
@pytest.mark.parametrize("vision", [False, True])
def test_the_real_7b_configuration_maps(config, vision, tmp_path):
    """Qwen2.5-VL-7B-Instruct on the meta device: family, LoRA targets, and counts done by hand."""
    hub.write_json(tmp_path / "config.json", config)
    loaded = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        base = AutoModelForImageTextToText.from_config(loaded).requires_grad_(False)
        ours = Config()
        ours.lora.rank, ours.lora.vision = 16, vision
        model = attach(base, family_of(loaded), ours, None, True)
    assert type(family_of(loaded)) is FAMILIES["qwen2_5_vl"]

    d, ff, kv, v, layers = 3584, 18944, 512, 152064, 28
    attention = (d * d + d) + 2 * (d * kv + kv) + d * d  # q, k and v have biases
    text = layers * (attention + 3 * d * ff + 2 * d) + d + 2 * v * d  # two norms, last norm, embedding and lm_head
    w, wf, depth = 1280, 3420, 32
    block = (w * 3 * w + 3 * w) + (w * w + w) + 2 * (w * wf + wf) + (wf * w + w) + 2 * w
    merger = w + (4 * w * 4 * w + 4 * w) + (4 * w * d + d)
    tower = 3 * 2 * 14 * 14 * w + depth * block + merger
    language_lora = 16 * layers * ((d + d) + 2 * (d + kv) + (d + d) + 3 * (d + ff))
    vision_lora = 16 * depth * ((w + 3 * w) + (w + w) + 3 * (w + wf)) if vision else 0
    assert text + tower == 8_292_166_656 and language_lora == 40_370_176

    counts = [p.numel() for p in model.parameters() if not p.requires_grad]
    assert sum(counts) == text + tower
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == language_lora + vision_lora
    wrapped = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    assert sum("language_model" in name for name in wrapped) == layers * 7
    assert len(wrapped) == layers * 7 + (depth * 5 if vision else 0)


def test_the_real_medgemma_configuration_maps(tmp_path):
    """MedGemma-4B names few keys; transformers' defaults fill the rest, and the published count comes out."""
    hub.write_json(tmp_path / "config.json", hub.MEDGEMMA_4B)
    loaded = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        base = AutoModelForImageTextToText.from_config(loaded).requires_grad_(False)
        model = attach(base, family_of(loaded), Config(), None, True)
    d, ff, q, kv, layers = 2560, 10240, 2048, 1024, 34
    lora = 16 * layers * ((d + q) + 2 * (d + kv) + (q + d) + 3 * (d + ff))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == lora == 29_802_496
    assert sum(p.numel() for p in model.parameters()) - lora == 4_300_079_472  # Google's own count
    wrapped = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    assert len(wrapped) == layers * 7 and all("language_model" in name for name in wrapped)


@pytest.mark.slow
def test_nothing_imports_torchvision(tiny_checkpoint, tmp_path):
    """Load every family and encode an image in a process in which torchvision cannot be imported."""
    folders = [str(tiny_checkpoint(family=family)) for family in sorted(FAMILIES)]
    Image.new("L", (84, 56), 90).save(tmp_path / "x.png")
    code = f"""
import sys
sys.modules["torchvision"] = None
from mrg_grpo.config import Config
from mrg_grpo.data.study import Study
from mrg_grpo.model.policy import Policy
for folder in {folders}:
    config = Config()
    config.model.path = folder
    policy = Policy.load(config)
    policy.prefill(policy.encoder.encode([Study("x", ({str(tmp_path / "x.png")!r},), "", "train")]))
assert not [name for name in sys.modules if name.startswith("torchvision.")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# ---- refusals: one line each


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (missing_shard, "model-00002-of-00002.safetensors"),
        (cut_shard, "no usable checkpoint"),
        (missing_tensor, "1 weights are missing (model.language_model.layers.1.mlp.up_proj.weight"),
        (foreign_tokenizer, "the tokenizer has no image token <|image_pad|>"),
        (lambda f: edit(f, "config.json", lambda c: c.update(image_token_id=7)), "the model expects id 7"),
        (text_template, "the chat template cannot write an image"),
        (blind_template, "the chat template does not write <|image_pad|>"),
        (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
        (lambda f: (f / "config.json").unlink(), "no usable checkpoint"),
        (lambda f: (f / "config.json").write_text("{"), "no usable checkpoint"),
        (lambda f: (f / "tokenizer.json").unlink(), "no usable checkpoint"),
        (lambda f: [p.unlink() for p in f.glob("*processor*.json")], "no usable checkpoint"),
        (lambda f: (f / "generation_config.json").write_text("{"), "generation_config.json cannot be read (It looks"),
        (lambda f: edit(f, "generation_config.json", lambda c: c.update(eos_token_id=["x"])), "has eos_token_id"),
        (lambda f: edit(f, "generation_config.json", lambda c: c.update(eos_token_id=[])), "has eos_token_id []"),
        (lambda f: (f / "generation_config.json").write_text("[1]"), "generation_config.json cannot be read ('list'"),
        (lambda f: (f / "generation_config.json").write_text("[" * 50_000), "generation_config.json cannot be read"),
        (lambda f: edit(f, "config.json", lambda c: c.update(model_type="qwen3_5")), '"qwen3_5" is not supported'),
        (lambda f: edit(f, "config.json", lambda c: c.update(model_type="qwen2")), '"qwen2" is not supported'),
        (lambda f: edit(f, "config.json", lambda c: c.update(model_type="huatuo9")), "huatuo9"),
    ],
)  # fmt: skip
def test_what_does_not_fit_ends_in_one_line(damage, words, own_checkpoint):
    damage(own_checkpoint)
    with pytest.raises(UserError) as error:
        Policy.load(setting(own_checkpoint))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_without_generation_config_the_tokenizers_end_is_the_stop(own_checkpoint):
    (own_checkpoint / "generation_config.json").unlink()
    policy = Policy.load(setting(own_checkpoint))
    assert policy.stop_ids == [policy.tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("family", "stops", "expected"),
    [
        ("gemma3", ["<eos>", "<end_of_turn>"], ["<end_of_turn>", "<eos>"]),
        ("gemma3", ["<eos>"], ["<end_of_turn>", "<eos>"]),
        ("qwen3_vl", ["<|endoftext|>"], ["<|im_end|>", "<|endoftext|>"]),
        ("qwen2_5_vl", ["<|endoftext|>", "<|im_end|>"], ["<|im_end|>", "<|endoftext|>"]),
    ],
)
def test_the_token_that_closes_an_answer_comes_first_and_all_ends_stop(family, stops, expected, tmp_path):
    """Whatever generation_config lists, and in which order: the warm start teaches the first."""
    write_checkpoint(tmp_path, family=family)
    policy = Policy.load(setting(tmp_path))
    ids = policy.tokenizer.convert_tokens_to_ids(stops)
    edit(tmp_path, "generation_config.json", lambda c: c.update(eos_token_id=ids))
    policy = Policy.load(setting(tmp_path))
    assert policy.tokenizer.convert_ids_to_tokens(policy.stop_ids) == expected
    tokens, mask = encode_targets(policy, ["<report>Clear.</report>", "No"])
    assert [int(row[keep][-1]) for row, keep in zip(tokens, mask)] == [policy.stop_ids[0]] * 2


@pytest.mark.parametrize(
    ("behind", "closing"),
    [("<|im_end|>", "<|im_end|>"), ("\n<|endoftext|>", "<|endoftext|>"), ("\n", None), ("", None)],
)
def test_what_closes_an_answer_is_read_from_the_template(behind, closing, tmp_path):
    fast = tokenizer()
    fast.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
        + behind.replace("\n", "{{ '\\n' }}")
        + "{% endfor %}"
    )
    assert closing_id(fast) == (closing and fast.convert_tokens_to_ids(closing))
    fast.chat_template = "{{ raise_exception('answers are not for me') }}"
    assert closing_id(fast) is None


def test_the_processors_template_comes_before_the_tokenizers(own_checkpoint):
    (own_checkpoint / "chat_template.jinja").rename(own_checkpoint / "was.jinja")
    good = (own_checkpoint / "was.jinja").read_text()
    edit(own_checkpoint, "tokenizer_config.json", lambda c: c.update(chat_template="a text-only template"))
    hub.write_json(own_checkpoint / "chat_template.json", {"chat_template": good})
    assert Policy.load(setting(own_checkpoint)).tokenizer.chat_template == good


def test_code_in_a_checkpoint_runs_only_where_it_is_asked_for(own_checkpoint, tmp_path, monkeypatch):
    folder, fuse = own_checkpoint, tmp_path / "ran"
    (folder / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import PretrainedConfig\n"
        f"Path({str(fuse)!r}).touch()\nclass OwnConfig(PretrainedConfig):\n    model_type = 'own'\n"
    )
    edit(folder, "config.json", lambda c: c.update(model_type="own", auto_map={"AutoConfig": "own.OwnConfig"}))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = setting(folder)
    with pytest.raises(UserError, match=r"code of its own.*model.trust_remote_code = true"):
        Policy.load(config)
    assert not fuse.exists()
    config.model.trust_remote_code = True
    with pytest.raises(UserError, match='model type "own" is not supported'):
        Policy.load(config)
    assert fuse.exists()


def test_gemma3_refuses_a_pixel_limit_it_cannot_keep(tiny_checkpoint):
    config = setting(tiny_checkpoint(family="gemma3"))
    config.data.max_pixels = 1000
    with pytest.raises(UserError, match=r"data.max_pixels 1000: Gemma 3 sees every image at 3,136 pixels"):
        Policy.load(config)


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "awq", "bits": 4},
        {"quant_method": "gptq", "bits": 4}, {"quant_method": "compressed-tensors"}, {"quant_method": "fp8"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_a_quantised_checkpoint_is_refused_before_a_weight_is_read(quantisation, nested, tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    def put(config):
        (config["text_config"] if nested else config)["quantization_config"] = quantisation

    edit(tmp_path, "config.json", put)
    with pytest.raises(UserError, match=rf"quantised \({quantisation['quant_method']}, .*take the unquantised"):
        Policy.load(setting(tmp_path))


@pytest.mark.parametrize("path", ["/no/such", "./base", "~nobody/base", "a/b/c", "tests/no-base"])
def test_a_folder_that_is_not_there_is_refused_at_once(path, monkeypatch):
    monkeypatch.setattr("mrg_grpo.model.pretrained.AutoConfig", None)  # the hub is not asked
    with pytest.raises(UserError, match=f"model.path {path}: no such file or folder"):
        Policy.load(setting(path))


@pytest.mark.slow
def test_offline_the_line_says_what_to_do_and_nothing_stands_before_it(request, tmp_path):
    command = [sys.executable, "-m", "mrg_grpo", "report", "x.png", "--set", "model.path=org/some-model-7b"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=request.config.rootpath, env=offline, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    for words in ("hub cannot be reached", "hf download org/some-model-7b", "experiments/huatuo_7b"):
        assert words in line


@pytest.mark.slow
def test_no_noise_of_the_libraries_stands_before_a_refusal(tmp_path, request):
    write_checkpoint(tmp_path)
    missing_tensor(tmp_path)
    command = [sys.executable, "-m", "mrg_grpo", "report", "x.png", "--set", f"model.path={tmp_path}"]
    done = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True)
    assert done.returncode == 2
    assert [line[:20] for line in done.stderr.splitlines()] == ["mrg-grpo: model.path"]
