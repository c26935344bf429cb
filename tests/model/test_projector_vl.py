"""LLaVA and InternVL: every language model they may have, tiles, layers of features, the beginning of a prompt."""

import json
import re
import shutil

import pytest
import torch
from model.test_policy import G, T, check_parity, continuations, load, sample
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import WINDOW
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaProcessor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mrg_grpo.config import Config
from mrg_grpo.data.images import open_image
from mrg_grpo.data.study import Study
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


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """One study with one image, one with two images of other shapes."""
    folder, paths = tmp_path_factory.mktemp("images"), []
    for size in [(84, 56), (112, 84), (56, 112)]:
        paths.append(str(folder / f"{size}.png"))
        Image.effect_noise(size, 60).save(paths[-1])
    return [Study("one", (paths[0],), "", "train"), Study("two", (paths[1], paths[2]), "", "train")]


@pytest.fixture(scope="module", params=TEXTS, ids=name_of)
def text(request):
    return request.param


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_every_language_model_equals_full_sequences(family, text, studies, tiny_checkpoint):
    check_parity(load(tiny_checkpoint(family=family, **text)), studies, 3)


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_every_language_model_is_decoded_by_hand_as_by_its_layers(family, text, studies, tiny_checkpoint):
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


# ---- pictures and prompts


def theirs(policy, fast, study):
    """The same study by transformers' own processor."""
    content = [*({"type": "image", "image": open_image(path).convert("RGB")} for path in study.images)]
    content.append({"type": "text", "text": policy.encoder.question})
    images, config = policy.encoder.image_processor, policy.base.config
    if config.model_type == "llava":
        strategy = config.vision_feature_select_strategy
        processor = LlavaProcessor(images, fast, 14, strategy, fast.chat_template, num_additional_image_tokens=1)
    else:
        names = {"start_image_token": "<img>", "end_image_token": "</img>", "video_token": "<video>"}
        for name, token in (names | {"context_image_token": "<IMG_CONTEXT>"}).items():
            setattr(fast, name, token)
            setattr(fast, f"{name}_id", fast.convert_tokens_to_ids(token))
        with pytest.MonkeyPatch.context() as patch:  # it wants a video processor, and that wants torchvision
            patch.setattr(InternVLProcessor, "check_argument_for_proper_class", lambda *_: None)
            processor = InternVLProcessor(images, fast, image_seq_length=4, chat_template=fast.chat_template)
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_a_prompt_is_what_transformers_own_processor_makes(family, studies, tiny_checkpoint):
    policy = load(tiny_checkpoint(family=family))
    for study in studies:
        want = theirs(policy, AutoTokenizer.from_pretrained(policy.tokenizer.name_or_path), study)
        got = policy.encoder.encode([study])
        assert got.input_ids.tolist() == want["input_ids"].tolist()
        assert torch.equal(got.pixels["pixel_values"], want["pixel_values"])
        begins = policy.tokenizer.convert_ids_to_tokens(got.input_ids[0].tolist()).count("<s>")
        assert begins == (1 if family == "llava" else 0)


def test_a_beginning_that_the_template_writes_is_not_doubled(tiny_checkpoint):
    encoder = load(tiny_checkpoint(family="llava")).encoder
    assert encoder.ids("<s>Hi") == encoder.ids("Hi") and encoder.ids("Hi")[0] == encoder.tokenizer.bos_token_id


def edited(checkpoint, folder, file="config.json", **values):
    """A copy of the checkpoint with other values in one of its files."""
    shutil.copytree(checkpoint, folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("layer", [-1, -2, 1, [-3, -2]])
def test_features_of_any_layer_with_and_without_the_token_of_the_whole(
    layer, strategy, studies, tiny_checkpoint, tmp_path
):
    base = tiny_checkpoint(family="llava", feature_layer=layer)
    policy = load(edited(base, tmp_path / "base", vision_feature_select_strategy=strategy), vision=True)
    check_parity(policy, studies, 3)  # every LoRA of the tower has a gradient
    ids = policy.encoder.encode(studies[:1]).input_ids
    assert (ids == policy.base.config.image_token_id).sum() == 16 + (strategy == "full")


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_lora_of_the_tower_takes_every_linear_layer_in_front_of_the_features(family, tiny_checkpoint):
    policy = load(tiny_checkpoint(family=family), vision=True)
    linear = {"bare": set(), "adapted": set()}
    for name, module in policy.family.vision_tower(policy.base).named_modules():
        layer = re.match(r".*layers?\.(\d+)\.", name)
        if layer and isinstance(module, LoraLayer):
            linear["adapted"].add((int(layer[1]), name))
        elif layer and isinstance(module, torch.nn.Linear) and not re.search("base_layer|lora_", name):
            linear["bare"].add((int(layer[1]), name))
    assert {place for place, _ in linear["adapted"]} == {0, 1} and len(linear["adapted"]) == 2 * 6
    assert {place for place, _ in linear["bare"]} == ({2} if family == "llava" else set())


def test_a_checkpoint_in_the_layout_of_the_hub_loads(studies, tiny_checkpoint, tmp_path):
    """Llava's files name weights as transformers did until 2025."""
    plain = tiny_checkpoint(family="llava")
    shutil.copytree(plain, tmp_path / "old")
    weights = load_file(plain / "model.safetensors")
    if any(name.startswith("model.") for name in weights):
        old = {
            "model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.",
            "model.vision_tower.": "vision_tower.vision_model.",
            "model.multi_modal_projector.": "multi_modal_projector.",
        }  # fmt: skip
        for ours, theirs in old.items():
            weights = {re.sub(f"^{re.escape(ours)}", theirs, name): weight for name, weight in weights.items()}
    assert not any(name.startswith("model.") for name in weights)
    save_file(weights, tmp_path / "old" / "model.safetensors", {"format": "pt"})
    here, there = load(plain), load(tmp_path / "old")
    prompts = here.encoder.encode(studies)
    with torch.no_grad():
        assert torch.equal(here.prefill(prompts).last_hidden, there.prefill(prompts).last_hidden)


@pytest.mark.parametrize("pad", [False, True])
def test_images_are_processed_as_by_the_processor_that_the_checkpoint_names(pad):
    size = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    image = Image.effect_noise((84, 60), 60).convert("RGB")
    ours = LlavaImageProcessorPil(**size, do_pad=pad)([image], return_tensors="pt")["pixel_values"]
    clip = CLIPImageProcessorPil(**size)([image], return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, clip) != pad


@pytest.mark.parametrize(("pixels", "tiles"), [(0, 7), (784, 1), (3000, 3), (784 * 6, 7)])
def test_the_pixel_limit_is_a_limit_of_tiles(pixels, tiles, tiny_checkpoint, tmp_path):
    """An image of 3 x 2 tiles, of 28 x 28 pixels each; with several tiles the whole image is one more."""
    Image.effect_noise((84, 56), 60).save(tmp_path / "x.png")
    config = Config()
    config.model.path, config.model.device = str(tiny_checkpoint(family="internvl")), "cpu"
    config.data.max_pixels = pixels
    policy = Policy.load(config)
    prompt = policy.encoder.encode([Study("x", (str(tmp_path / "x.png"),), "", "train")])
    assert len(prompt.pixels["pixel_values"]) == tiles
    assert (prompt.input_ids == policy.base.config.image_token_id).sum() == 4 * tiles


@pytest.mark.parametrize(
    ("family", "file", "values", "pixels", "words"),
    [
        ("llava", "config.json", {}, 1000, "data.max_pixels 1000: LLaVA sees every image at 3,136 pixels"),
        ("internvl", "config.json", {}, 700, "data.max_pixels 700: a tile of InternVL has 784 pixels"),
        ("llava", "preprocessor_config.json", {"crop_size": {"height": 42, "width": 42}}, 0, "makes images of 42 x 42"),
        ("llava", "preprocessor_config.json", {"do_center_crop": False}, 0, "makes images of None x None"),
        ("internvl", "preprocessor_config.json", {"size": {"height": 56, "width": 56}}, 0, "takes 28 x 28"),
        ("llava", "config.json", {"text_config": {"model_type": "gemma"}}, 0, 'a llava of "clip_vision_model" and "ge'),
        (
            "llava",
            "config.json",
            {"vision_config": {"model_type": "siglip_vision_model"}},
            0,
            'a llava of "siglip_visi',
        ),
        ("internvl", "config.json", {"text_config": {"model_type": "qwen3_moe"}}, 0, '"internvl_vision" and "qwen3_mo'),
    ],
)
def test_what_does_not_fit_is_refused(family, file, values, pixels, words, tiny_checkpoint, tmp_path):
    config = Config()
    config.model.path = str(edited(tiny_checkpoint(family=family), tmp_path / "base", file, **values))
    config.model.device, config.data.max_pixels = "cpu", pixels
    with pytest.raises(UserError, match=words):
        Policy.load(config)
