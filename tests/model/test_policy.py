"""The shared prefix against plain full-sequence transformers: log-probabilities, gradients, greedy decoding.

Every test that takes `checkpoint` runs for every model family.
"""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from PIL import Image
from tiny import WINDOW
from transformers import AutoModelForImageTextToText

from mrg_grpo.config import Config, LoraSettings
from mrg_grpo.data.study import Context, Study
from mrg_grpo.model.adapters import parameter_counts
from mrg_grpo.model.decoder import FusedLinear
from mrg_grpo.model.families import FAMILIES
from mrg_grpo.model.logprobs import token_logprobs
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import decode, sample_groups, uniforms
from mrg_grpo.model.sampler import Sampler, pick
from mrg_grpo.objective import grpo_loss

G, T = 4, 9


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request, tiny_checkpoint):
    return tiny_checkpoint(family=request.param)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """One study with one image, one with two images of other sizes: prompts of different lengths."""
    folder, generator = tmp_path_factory.mktemp("images"), torch.Generator().manual_seed(3)
    paths = []
    for i, (width, height) in enumerate([(84, 56), (112, 84), (56, 112)]):
        pixels = torch.randint(0, 256, (height, width), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
        paths.append(str(folder / f"{i}.png"))
    return [Study("one", (paths[0],), "", "train"), Study("two", (paths[1], paths[2]), "", "train")]


def load(checkpoint, dtype="float64", randomise=True, temperature=1.0, adapter=None, **lora) -> Policy:
    config = Config()
    config.model.path, config.model.device, config.model.dtype = str(checkpoint), "cpu", dtype
    config.lora = LoraSettings(rank=4, alpha=8, **lora)
    config.prompt.text, config.sampling.temperature = "Report?", temperature
    policy = Policy.load(config, adapter)
    if randomise:  # fresh LoRA has B = 0: the gradient of A would be 0 and prove nothing
        generator = torch.Generator().manual_seed(5)
        for parameter in policy.trainable():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter) * 0.2
    if dtype == "float64":
        policy.model.double()
    return policy


def sample(policy, prefix, ids, tokens, step):
    config = Config()
    config.grpo.group_size, config.sampling.max_tokens, config.run.seed = G, tokens, 1
    return sample_groups(policy, prefix, ids, config, step)


def continuations(policy, count=2 * G, seed=0):
    """Random token rows with different lengths, stop token inside the mask, no suppressed ids."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 200, (count, T), generator=generator)
    lengths = torch.randint(1, T + 1, (count,), generator=generator)
    lengths[0], lengths[1] = T, 1
    mask = torch.arange(T) < lengths.unsqueeze(1)
    return tokens * mask, mask


def plain_inputs(policy, prompts, row, ids, attention):
    """What transformers' own forward is given for a sequence (1, P + t) that starts with prompt `row`."""
    tiles = prompts.pixels.get("num_patches", torch.ones(9, dtype=torch.long)).tolist()  # InternVL
    counts = torch.tensor([sum(tiles.pop(0) for _ in policy.encoder.images(study)) for study in prompts.studies])
    images = slice(int(counts[:row].sum()), int(counts[: row + 1].sum()))
    pixels = prompts.pixels["pixel_values"].to(policy.base.dtype)
    image = (ids == policy.family.config.image_token_id).int()
    if "image_grid_thw" not in prompts.pixels:
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        kinds = {"token_type_ids": image} if policy.base.config.model_type == "gemma3" else {}
        return {"pixel_values": pixels[images], "position_ids": positions, **kinds}
    grid = prompts.pixels["image_grid_thw"]
    patches = grid.prod(-1)
    start, end = int(patches[: images.start].sum()), int(patches[: images.stop].sum())
    return {"pixel_values": pixels[start:end], "image_grid_thw": grid[images], "mm_token_type_ids": image}


def full_sequence_logps(policy, prompts, tokens, mask, rows, temperature=1.0):
    """What any trainer does: the prompt repeated for each report, one forward of it all, by transformers alone."""
    logps = []
    for row, ids, keep in zip(rows.tolist(), tokens, mask):
        sequence = torch.cat([prompts.input_ids[row], ids[keep]]).unsqueeze(0)
        attention = torch.cat([prompts.attention_mask[row], torch.ones(int(keep.sum()), dtype=torch.long)]).unsqueeze(0)
        inputs = plain_inputs(policy, prompts, row, sequence, attention)
        output = policy.base(input_ids=sequence, attention_mask=attention, use_cache=False, **inputs)
        logits = output.logits[0, prompts.input_ids.shape[1] - 1 : -1] / temperature
        logits[:, policy.suppressed] = -torch.inf
        logps.append(torch.log_softmax(logits, -1).gather(1, ids[keep].unsqueeze(1)).squeeze(1))
    return logps


def check_parity(policy, studies, micro, temperature=1.0):
    """Log-probabilities and the gradients of all trainable parameters, by three moves and by full sequences."""
    prompts = policy.encoder.encode(studies)
    assert (prompts.attention_mask.sum(1)[0] < prompts.attention_mask.sum(1)[1]).item()  # padding is exercised
    tokens, mask = continuations(policy)
    rows = torch.arange(2).repeat_interleave(G)
    advantages = torch.randn(2 * G, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    prefix = policy.prefill(prompts)
    ours = []
    for part in torch.arange(2 * G).split(micro):
        logps, _ = policy.logprobs(prefix, tokens[part], mask[part], rows[part])
        grpo_loss(logps, advantages[part], mask[part], normalizer=2 * G)[0].backward()
        ours.append(logps.detach())
    policy.backward(prefix)
    gradients = [p.grad.clone() for p in policy.trainable()]
    policy.model.zero_grad()

    plain = full_sequence_logps(policy, prompts, tokens, mask, rows, temperature)
    loss = -sum(
        (torch.exp(x - x.detach()) * advantages[i]).mean() for i, x in enumerate(plain)
    ) / (2 * G)  # fmt: skip
    loss.backward()
    for got, want, keep in zip(torch.cat(ours), plain, mask):
        assert (got[keep] - want.detach()).abs().max() < 1e-9
        assert (got[~keep] == 0).all()
    scale = max(p.grad.abs().max() for p in policy.trainable())
    for got, parameter in zip(gradients, policy.trainable()):
        assert parameter.grad.abs().max() > 0
        assert (got - parameter.grad).abs().max() < 1e-6 * max(1.0, float(scale))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("micro", [1, 3, G, 2 * G])
def test_logprobs_and_gradients_equal_full_sequences(checkpoint, studies, micro, temperature):
    check_parity(load(checkpoint, temperature=temperature), studies, micro, temperature)


def test_what_is_known_stands_in_the_prompt_and_changes_no_parity(checkpoint, studies):
    """Contexts of other lengths, and the picture of the study before; a special token in a text opens nothing."""
    policy = load(checkpoint)
    plain = [len(row) for row in (policy.encoder.encode([study]).input_ids[0] for study in studies)]
    marks = " ".join(policy.encoder.special)
    first = Context(indication=f"cough {marks}", comparison="none", prior_images=studies[1].images[:1])
    told = [replace(studies[0], context=first), replace(studies[1], context=Context(age="67", history="not asked"))]
    policy.encoder.context = frozenset(("indication", "comparison", "age", "prior_images"))
    prompts = policy.encoder.encode(told)
    text = policy.tokenizer.batch_decode(prompts.input_ids)
    assert "Context: Indication: cough" in text[0] and "Comparison: none." in text[0] and "Context: Age: 67." in text[1]
    assert "of the 2 images the last is from it" in text[0] and "not asked" not in text[1]
    assert policy.encoder.question in text[0] and policy.encoder.question in text[1]
    assert all(length > before for length, before in zip(prompts.lengths, plain))
    image = policy.family.config.image_token_id
    one = [policy.encoder.encode([replace(studies[1], images=(path,))]).input_ids for path in studies[1].images]
    features = int((one[0] == image).sum()) + int((policy.encoder.encode([studies[0]]).input_ids == image).sum())
    assert int((prompts.input_ids[0] == image).sum()) == features  # of the two pictures, none of the text
    stops = [int((ids == stop).sum()) for ids in (prompts.input_ids[0], one[0][0]) for stop in policy.stop_ids]
    assert stops[: len(stops) // 2] == stops[len(stops) // 2 :]
    policy.encoder.context = frozenset(("indication", "comparison", "age", "prior_images"))
    check_parity(policy, [told[1], told[0]] if prompts.lengths[0] > prompts.lengths[1] else told, 3)


@pytest.mark.parametrize("micro", [3, 2 * G])
def test_gradients_of_a_trained_vision_tower_equal_full_sequences(checkpoint, studies, micro):
    policy = load(checkpoint, vision=True)
    assert any("vis" in name for name, p in policy.model.named_parameters() if p.requires_grad)
    check_parity(policy, studies, micro)


@pytest.mark.parametrize("merge", [False, True])
def test_greedy_equals_generate(checkpoint, studies, merge):
    policy = load(checkpoint)
    for study in studies:
        prompts = policy.encoder.encode([study])
        with torch.no_grad():
            prefix = policy.prefill(prompts)
        got = decode(Sampler(policy, fast=merge), prefix, 24)
        ids = prompts.input_ids
        inputs = plain_inputs(policy, prompts, 0, ids, prompts.attention_mask)
        inputs.pop("position_ids", None)  # generate counts them itself
        want = policy.base.generate(
            input_ids=ids,
            attention_mask=prompts.attention_mask,
            do_sample=False,
            max_new_tokens=24,
            suppress_tokens=policy.suppressed.tolist(),
            **inputs,
        )[0, ids.shape[1] :]
        assert got.tokens[0].tolist() == want.tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_sampling_and_training_agree(checkpoint, studies, temperature):
    policy = load(checkpoint, dtype="float32", temperature=temperature)
    prompts = policy.encoder.encode(studies)
    prefix = policy.prefill(prompts)
    rollout = sample(policy, prefix, ["one", "two"], 40, step=2)
    logps, entropy = policy.logprobs(prefix, rollout.tokens, rollout.mask)
    assert (logps - rollout.logps).abs().max() < 1e-4
    assert not torch.isin(rollout.tokens[rollout.mask], policy.suppressed).any()
    assert (entropy[rollout.mask] > 0).all() and rollout.mask.any(1).all()
    ends = rollout.tokens.gather(1, (rollout.lengths - 1).unsqueeze(1)).squeeze(1)
    assert torch.equal(torch.isin(ends, torch.tensor(policy.stop_ids)), rollout.finished)


def test_samples_do_not_depend_on_the_batch(checkpoint, studies):
    policy = load(checkpoint)
    prefix = policy.prefill(policy.encoder.encode(studies))
    both = sample(policy, prefix, ["one", "two"], 20, step=7)
    alone = sample(policy, policy.prefill(policy.encoder.encode(studies[1:])), ["two"], 20, step=7)
    assert both.texts[G:] == alone.texts
    other = sample(policy, prefix, ["one", "two"], 20, step=8)
    assert other.texts != both.texts


def test_the_hand_written_token_equals_transformers_layers(checkpoint, studies):
    """`Decoder` against the text model itself with LoRA, on padded prompts of different lengths, over some tokens."""
    policy = load(checkpoint)
    tokens, _ = continuations(policy)
    rows = torch.arange(len(studies))
    with torch.no_grad():
        prefix = policy.prefill(policy.encoder.encode(studies))
        samplers = [Sampler(policy, fast) for fast in (True, False)]
        caches = [sampler.start(prefix, rows, G, WINDOW + 6)[0] for sampler in samplers]
        for t in range(WINDOW + 4):  # own tokens fall out of the window too
            by_hand, plain = (sampler.step(tokens[:, t % T], cache) for sampler, cache in zip(samplers, caches))
            seen = plain.isfinite()
            # transformers' norms round to fp32 on the way, these do not
            assert torch.equal(seen, by_hand.isfinite()) and (by_hand[seen] - plain[seen]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("rows", [1, 7, 16, 70])
@pytest.mark.parametrize("targets", [[], ["v_proj", "up_proj"]])
def test_merged_layers_equal_those_with_lora(checkpoint, dtype, rows, targets):
    """Packed by oneDNN in fp32, a copy in fp64, as they stand in bf16; adapted all or in part, any number of rows."""
    policy = load(checkpoint, dtype, targets=targets)
    layer = policy.family.text_model(policy.base).layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    groups = [[attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj], [attention.o_proj]]
    for group in groups:
        merged = FusedLinear(*group)
        assert merged.packed == (dtype == "float32")
        together = merged.packed or dtype == "bfloat16" or not targets
        assert len(merged.weights) == (1 if together else len(group))
        if dtype == "bfloat16":
            assert merged.weights[0].data_ptr() == group[0].weight.data_ptr()  # no copy
        x = torch.randn(rows, group[0].in_features).to(group[0].weight.dtype)
        want, bound = (
            torch.cat([part(x) for part in group], -1), {"float32": 1e-5, "bfloat16": 0.02, "float64": 1e-12}[dtype]
        )  # fmt: skip
        assert ((merged(x) - want).abs().max() / want.abs().max()) < bound


@pytest.mark.parametrize("size", [1e-4, 1e-3, 0.1])
def test_a_young_adapter_counts_in_bf16(checkpoint, size):
    """What it adds is far below the last bit of a bf16 weight: a sum of both would drop it, and sample the start."""
    policy = load(checkpoint, "bfloat16")
    layer = policy.family.text_model(policy.base).layers[0].mlp.gate_proj
    generator = torch.Generator().manual_seed(3)
    layer.lora_B["default"].weight.data = torch.randn(layer.lora_B["default"].weight.shape, generator=generator) * size
    x = torch.randn(4096, layer.in_features, generator=generator).bfloat16()
    for adapted in (FusedLinear(layer), layer):  # as it is sampled and as it is trained
        with torch.no_grad():
            added = adapted(x).double() - layer.base_layer(x).double()
            exact = x.double() @ layer.get_delta_weight("default").double().T
        # each output is rounded, but what is lost one way is won the other: over many, all of the adapter is there
        assert ((added * exact).sum() / exact.square().sum()).item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("targets", [[], ["up_proj", "k_proj"], ["gate_proj", "o_proj"]])
def test_the_start_policy_is_decoded_by_the_bases_own_layers_in_bf16(checkpoint, studies, targets):
    """Of a fresh adapter: where they stand in for the layers with LoRA, nothing of the joined matrices is asked for."""
    policy = load(checkpoint, "bfloat16", randomise=False, targets=targets)
    prompts = policy.encoder.encode(studies)
    with torch.no_grad():
        start = decode(Sampler(policy), policy.prefill(prompts), 12)
        for parameter in policy.trainable():
            parameter += 0.3
        moved = decode(Sampler(policy), policy.prefill(prompts), 12)
        with policy.reference():
            again = decode(Sampler(policy), policy.prefill(prompts), 12)
    assert again.texts == start.texts != moved.texts


@pytest.mark.parametrize(
    "kind",
    [
        {"use_dora": True}, {"lora_bias": True}, {"bias": "lora_only"},
        {"trainable_token_indices": {"embed_tokens": list(range(60, 90))}},
    ],
)  # fmt: skip
def test_an_adapter_that_is_more_than_two_matrices_is_not_merged(checkpoint, studies, kind, tmp_path):
    """Sampled is what trains, also with a foreign adapter of which merging would drop a part."""
    policy = load(checkpoint, "float32")
    lora = LoraConfig(r=4, target_modules=policy.family.lora_targets([]), **kind)
    other = get_peft_model(policy.model.unload(), lora)
    for name, parameter in other.named_parameters():
        if "lora" in name or "trainable_tokens" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.2
    other.save_pretrained(tmp_path)
    policy = load(checkpoint, "float32", randomise=False, adapter=str(tmp_path))
    assert not policy.fast_decode
    prompts = policy.encoder.encode(studies)
    prefix = policy.prefill(prompts)
    rollout = sample(policy, prefix, ["one", "two"], 12, step=2)
    logps, _ = policy.logprobs(prefix, rollout.tokens, rollout.mask)
    assert (logps - rollout.logps).abs().max() < 1e-4


@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "q_proj", "down_proj"]])
def test_lora_on_the_embedding_is_sampled_and_trained_as_it_stands(checkpoint, studies, targets, tmp_path):
    """The embedding stays unmerged among merged layers, and the tied lm_head does not move with it, as in PEFT."""
    check_parity(load(checkpoint, targets=targets), studies, 3)
    policy = load(checkpoint, "float32", targets=targets)
    assert policy.fast_decode
    prompts = policy.encoder.encode(studies)
    rollout = sample(policy, policy.prefill(prompts), ["one", "two"], 20, step=2)
    rows = torch.arange(2).repeat_interleave(G)
    with torch.no_grad():
        plain = full_sequence_logps(policy, prompts, rollout.tokens, rollout.mask, rows)
        policy.model.save_pretrained(str(tmp_path))
        for parameter in policy.trainable():
            parameter.zero_()
        base = full_sequence_logps(policy, prompts, rollout.tokens, rollout.mask, rows)
    for got, want, without, keep in zip(rollout.logps, plain, base, rollout.mask):
        assert (got[keep] - want).abs().max() < 1e-4 < (want - without).abs().max()

    loaded = load(checkpoint, "float32", randomise=False, adapter=str(tmp_path))
    for parameter in loaded.trainable():
        parameter.data += 0.1
    with loaded.reference():  # the adapter that is gone on from, not the base
        reference, _ = loaded.logprobs(loaded.prefill(prompts), rollout.tokens, rollout.mask)
    assert (reference - rollout.logps).abs().max() < 1e-4
    assert load(checkpoint, "float32", randomise=False, targets=targets).reference.fresh


def test_reports_that_ended_leave_the_batch_without_a_trace(checkpoint, studies, monkeypatch):
    policy = load(checkpoint)
    policy.stop_ids = list(range(0, 200, 9))  # end often
    prefix = policy.prefill(policy.encoder.encode(studies))
    often = sample(policy, prefix, ["one", "two"], 60, step=2)
    monkeypatch.setattr("mrg_grpo.model.rollout.CHECK_EVERY", 1)
    assert sample(policy, prefix, ["one", "two"], 60, step=2).texts == often.texts
    assert often.finished.all() and often.lengths.max() > often.lengths.min()


def test_reference_is_the_start_policy_and_merging_is_undone(checkpoint, studies):
    policy = load(checkpoint, randomise=False)
    prompts = policy.encoder.encode(studies)
    tokens, mask = continuations(policy)
    before = {name: p.clone() for name, p in policy.model.named_parameters()}

    def logps(reference):
        if reference:
            prefix = policy.prefill(prompts, reference=True)
            with policy.reference():
                return policy.logprobs(prefix, tokens, mask)[0]
        with torch.no_grad():
            return policy.logprobs(policy.prefill(prompts), tokens, mask)[0]

    start = logps(False)
    assert torch.equal(start, logps(True))
    for parameter in policy.trainable():
        parameter.data += 0.1
        before = {**before, **{n: p.clone() for n, p in policy.model.named_parameters() if p.requires_grad}}
    moved = logps(False)
    assert (moved - start).abs().max() > 1e-3 and torch.equal(logps(True), start)
    sampler = Sampler(policy)
    assert sampler.decoder and (logps(False) - moved).abs().max() < 1e-9
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_saved_adapter_continues_and_merges(checkpoint, studies, tmp_path):
    """Save, load, go on with the loaded one frozen as reference, merge by PEFT's own means: the same policy."""
    policy = load(checkpoint, dtype="float32")
    prompts = policy.encoder.encode(studies)
    tokens, mask = continuations(policy)
    rows = torch.arange(2).repeat_interleave(G)
    with torch.no_grad():
        saved = policy.logprobs(policy.prefill(prompts), tokens, mask)[0]
    policy.model.save_pretrained(str(tmp_path))

    loaded = load(checkpoint, dtype="float32", randomise=False, adapter=str(tmp_path))
    names = [[n for n, p in x.model.named_parameters() if p.requires_grad] for x in (policy, loaded)]
    assert names[0] == names[1]
    with torch.no_grad():
        assert torch.equal(loaded.logprobs(loaded.prefill(prompts), tokens, mask)[0], saved)
    for parameter in loaded.trainable():
        parameter.data += 0.1
    with loaded.reference():
        assert torch.equal(loaded.logprobs(loaded.prefill(prompts), tokens, mask)[0], saved)

    base = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    policy.base = PeftModel.from_pretrained(base, tmp_path).merge_and_unload().eval()
    with torch.no_grad():
        merged = full_sequence_logps(policy, prompts, tokens, mask, rows)
    for got, want, keep in zip(saved, merged, mask):
        assert (got[keep] - want).abs().max() < 3e-5


def test_lora_lands_in_the_language_model_only(checkpoint):
    policy = load(checkpoint)
    names = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert names and all("language_model" in name and "lora" in name for name in names)
    assert len(names) == 3 * 7 * 2
    assert parameter_counts(policy.model).startswith(f"{sum(p.numel() for p in policy.trainable()):,} trainable")
    some = load(checkpoint, targets=["q_proj", "v_proj"], vision=True)
    names = [name for name, p in some.model.named_parameters() if p.requires_grad]
    assert sum("language_model" in name for name in names) == 3 * 2 * 2
    linear = [m for m in some.family.vision_tower(some.base).modules() if isinstance(m, torch.nn.Linear)]
    wrapped = [m for m in some.family.vision_tower(some.base).modules() if isinstance(m, LoraLayer)]
    blocks = some.base.config.vision_config.num_hidden_layers
    if some.base.config.model_type == "llava":
        blocks -= 1  # features are of the last layer but one
    assert len(wrapped) == blocks * len(some.family.vision_targets) > 0
    assert all(any(f".{part}." in n for part in ("layers", "layer", "blocks")) for n in names) and len(linear) > len(
        wrapped
    )


def test_a_tower_that_trains_runs_anew(checkpoint, studies):
    policy = load(checkpoint, vision=True)
    prompts = policy.encoder.encode(studies)
    with torch.no_grad():
        before = policy.prefill(prompts).last_hidden
        for name, parameter in policy.model.named_parameters():
            if parameter.requires_grad and "language_model" not in name:
                parameter.data += 0.1
        assert (policy.prefill(prompts).last_hidden - before).abs().max() > 1e-3


def test_a_gpu_must_not_round_what_a_float32_tower_convolves(checkpoint, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default; measured in docs/guides/gpus.md
    load(checkpoint)
    assert torch.backends.cudnn.allow_tf32 is False


def test_vision_tokens_are_suppressed_and_no_other(checkpoint):
    policy = load(checkpoint)
    names = policy.tokenizer.convert_ids_to_tokens(policy.suppressed.tolist())
    special = [
        t
        for t in policy.tokenizer.get_vocab()
        if any(word in t.lower() for word in ("image", "video", "vision", "img"))
    ]
    assert sorted(names) == sorted(special) and policy.base.config.image_token_id in policy.suppressed
    assert not set(policy.stop_ids) & set(policy.suppressed.tolist())


def test_projection_in_chunks_equals_autograd(monkeypatch):
    monkeypatch.setattr("mrg_grpo.model.logprobs.chunk_elements", lambda device: 50)
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 20, bias=False).double()
    hidden = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    targets, suppressed = torch.randint(4, 20, (7,)), torch.tensor([1, 3])
    weights = torch.randn(7, dtype=torch.float64)
    results = []
    for frozen in (True, False):
        head.requires_grad_(not frozen)
        hidden.grad = None
        logps, entropy = token_logprobs(hidden, head, targets, 0.7, suppressed)
        (logps * weights).sum().backward()
        results.append((logps.detach(), entropy, hidden.grad.clone()))
    for ours, autograd in zip(*results):
        assert torch.allclose(ours, autograd, atol=1e-12)


@pytest.mark.parametrize("p", [0.9, 0.99, 0.999])
def test_the_gradient_of_a_token_that_is_nearly_sure_in_bf16(p):
    torch.manual_seed(0)
    weight, targets = (torch.randn(500, 64) * 0.1).bfloat16(), torch.arange(8)
    head = torch.nn.Linear(64, 500, bias=False).requires_grad_(False)
    head.weight.data = weight
    hidden = torch.randn(8, 64)
    for i in range(8):  # towards the token's own row until it has the probability p
        low, high = 0.0, 200.0
        for _ in range(40):
            middle = (low + high) / 2
            moved = hidden[i] + middle * weight[i].float()
            below = torch.softmax(weight.float() @ moved, 0)[i] < p
            low, high = (middle, high) if below else (low, middle)
        hidden[i] = moved
    ours, exact = hidden.bfloat16().requires_grad_(), hidden.bfloat16().double().requires_grad_()
    token_logprobs(ours, head, targets, 1.0, torch.tensor([], dtype=torch.long))[0].sum().backward()
    torch.log_softmax(exact @ weight.double().T, -1)[targets, targets].sum().backward()
    assert (ours.grad - exact.grad).norm() < 0.03 * exact.grad.norm()


def test_inverse_cdf_follows_the_distribution_and_never_picks_a_suppressed_token():
    probabilities = torch.softmax(torch.tensor([0.0, 1.0, -torch.inf, 0.5, -torch.inf]), 0)
    n = 200_000
    uniform = uniforms(0, 0, [("x", 0)], n)[0]
    counts = torch.bincount(pick(probabilities.expand(n, -1), uniform), minlength=5) / n
    assert (counts - probabilities).abs().max() < 5e-3
    assert counts[2] == 0 and counts[4] == 0
    edge = pick(probabilities.expand(2, -1), torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64))
    assert edge.tolist() == [0, 3]
