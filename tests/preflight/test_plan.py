"""The plan against what tensors really take: counted by autograd's own hooks on a tiny Qwen2.5-VL, not re-typed."""

import json
import re
from dataclasses import replace

import pytest
import torch
from kept import Kept
from PIL import Image

from mrg_grpo.cli import main
from mrg_grpo.config import Config, LoraSettings, load_config
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.model import recompute
from mrg_grpo.model.families import FAMILIES
from mrg_grpo.model.kv_cache import DecodeCache
from mrg_grpo.model.logprobs import chunk_elements
from mrg_grpo.model.nf4 import Nf4Linear
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.sampler import Sampler
from mrg_grpo.preflight import footprint, hours, plan
from mrg_grpo.run.checkpoint import State
from tests.tiny import write_checkpoint

N, G, P, T = 3, 2, 40, 12
ALL = []
QV = ["q_proj", "v_proj"]
WITH_EMBEDDING = [*QV, "embed_tokens"]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    # wide layers: what the plan leaves out (rotary tables, token ids) is a smaller part of them
    rope = {"rope_type": "default", "mrope_section": [4, 4, 8], "rope_theta": 1e4}
    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 5, "rope_parameters": rope}
    return tiny_checkpoint(**sizes)


def settings(checkpoint, dtype="float32", targets=ALL) -> Config:
    config = Config()
    config.model.path, config.model.dtype, config.model.device = str(checkpoint), dtype, "cpu"
    config.lora = LoraSettings(rank=8, alpha=8, targets=list(targets))
    config.grpo.studies_per_step, config.grpo.group_size, config.sampling.max_tokens = N, G, T
    return config


def shape(padded: bool) -> footprint.Shape:
    return footprint.Shape(N, N, G, N * G, P, T, N * G, N, True, 0, 1176, padded)


def prompt_batch(policy: Policy, padded: bool):
    """Prompts of text alone, of one length or of several."""
    from mrg_grpo.data.study import Study
    from mrg_grpo.model.batch import PromptBatch

    ids = torch.randint(0, 200, (N, P), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :7] = 0
    return PromptBatch([Study(str(n), (), "", "train") for n in range(N)], ids, mask, {})


@pytest.mark.parametrize("targets", [ALL, QV, WITH_EMBEDDING], ids=["all", "qv", "with embedding"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
def test_activations_and_cache_are_what_autograd_keeps(checkpoint, dtype, padded, targets):
    config = settings(checkpoint, dtype, targets)
    policy, sizes, given = Policy.load(config), plan.model_sizes(config), shape(padded)
    with Kept(policy) as kept:
        prefix = policy.prefill(prompt_batch(policy, padded))
    assert footprint.prefill_graph(sizes, given) == pytest.approx(kept.total, rel=0.06)
    real = sum(t.numel() * t.element_size() for t in [*prefix.keys, *prefix.values])
    assert footprint.prefix_cache(sizes, given, N) == real
    tokens = torch.randint(0, 200, (N * G, T + 1), generator=torch.Generator().manual_seed(1))  # T of them run
    with Kept(policy) as kept:
        policy.logprobs(prefix, tokens, torch.ones_like(tokens).bool())
    assert footprint.continuation_graph(sizes, given) == pytest.approx(kept.total, rel=0.05)
    cache = DecodeCache(prefix.keys, prefix.values, torch.arange(N), G, policy.places(prefix, torch.arange(N), T))
    buffers = [*cache.prefix_keys, *cache.prefix_values, *cache.keys, *cache.values]
    real = sum(t.numel() * t.element_size() for t in buffers)
    assert footprint.sample(sizes, given)["decode cache"] == real


def merged_weights(policy):
    decoder = Sampler(policy).decoder
    assert decoder
    return [weight for layer in decoder.linear_layers() for weight in layer.weights]


def test_weights_are_what_the_policy_holds(checkpoint):
    for targets in (ALL, QV, WITH_EMBEDDING):
        config = settings(checkpoint, "bfloat16", targets)
        policy, sizes = Policy.load(config), plan.model_sizes(config)
        trained = policy.trainable()
        assert sizes.adapter == sum(p.numel() for p in trained)
        base = [p for p in policy.model.parameters() if not p.requires_grad]
        assert sizes.total * 2 == sum(p.numel() * p.element_size() for p in base)
        alive = footprint.resident(sizes, shape(False))
        assert alive["adapter and its start"] == 2 * sum(p.numel() * p.element_size() for p in trained)
        joined = {id(layer.joined): layer.joined for layer in policy.model.modules() if hasattr(layer, "joined")}
        beside = sum(
            group.matrix.numel() - sum(layer.weight.numel() for layer in group.layers) for group in joined.values()
        )
        assert alive["B beside the weights"] == pytest.approx(2 * beside, rel=0.01)
        kept = {p.data_ptr() for p in base}
        merged = merged_weights(policy)
        copied = sum(weight.numel() for weight in merged if weight.data_ptr() not in kept)
        assert footprint.sample(sizes, shape(False))["merged copy of adapted weights"] == 2 * copied


def test_packed_weights_are_those_of_every_linear_layer(checkpoint):
    config = settings(checkpoint, "float32", QV)
    policy, sizes = Policy.load(config), plan.model_sizes(config)
    merged = merged_weights(policy)
    assert all(weight.is_mkldnn for weight in merged)
    copied = sum(weight.numel() for weight in merged)
    planned = footprint.sample(sizes, shape(False))["merged copy of adapted weights"]
    assert planned == pytest.approx(4 * copied, rel=0.02)  # norms and biases, which are not packed, are counted too


def test_the_copy_for_late_faults_is_counted_where_it_is_kept(checkpoint):
    config = settings(checkpoint, "bfloat16", QV)
    policy, sizes = Policy.load(config), plan.model_sizes(config)
    optimizer = torch.optim.AdamW(policy.trainable())
    for parameter in policy.trainable():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = State.of(policy, optimizer)
    moments = [x for entry in state.optimizer["state"].values() for x in entry.values() if x.dim() > 0]
    held = sum(x.numel() * x.element_size() for x in [*state.adapter.values(), *moments])
    name = "adapter and optimiser as before the step"
    assert footprint.resident(sizes, replace(shape(False), passes=2))[name] == held
    assert footprint.resident(sizes, shape(False))[name] == 0


def test_an_adapter_to_continue_is_counted_as_it_is(checkpoint, tmp_path):
    Policy.load(settings(checkpoint, targets=QV)).model.save_pretrained(str(tmp_path / "adapter"))
    config = settings(checkpoint)
    config.model.adapter = str(tmp_path / "adapter")
    assert plan.model_sizes(config) == plan.model_sizes(settings(checkpoint, targets=QV))


def test_arithmetic_is_what_torch_counts(checkpoint):
    from torch.utils.flop_counter import FlopCounterMode

    def added(_, left, right, **__):
        return 2 * left[0] * left[1] * right[1]

    known = {torch.ops.aten.addmm_: added}  # torch does not count it
    config = settings(checkpoint)
    policy, sizes, given = Policy.load(config), plan.model_sizes(config), shape(False)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=known) as counter:
        prefix = policy.prefill(prompt_batch(policy, False))
    # of torch's own attention on the CPU nothing is counted
    attention = 4 * sizes.layers * sizes.queries * N * P * P / 2
    assert hours.arithmetic(sizes, given)["prefill"] - attention == pytest.approx(counter.get_total_flops(), rel=0.02)
    tokens = torch.randint(0, 200, (N * G, T + 1))  # the first token is predicted by the prefix
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        policy.logprobs(prefix, tokens, torch.ones_like(tokens).bool())
    reports = hours.arithmetic(sizes, given)["reference"] - hours.arithmetic(sizes, given)["prefill"]
    slopes = 2 * sizes.vocabulary * sizes.hidden * N * G * T  # the projection's backward, at hand in the forward pass
    assert reports + slopes == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_largest_micro_batch_is_the_last_that_fits(checkpoint):
    sizes, given = plan.model_sizes(settings(checkpoint)), shape(True)
    needs = [max(footprint.peaks(sizes, replace(given, micro=b)).values()) for b in range(1, N * G + 1)]
    assert needs == sorted(needs)
    assert footprint.largest_micro_batch(sizes, given, needs[3]) == 4
    assert footprint.largest_micro_batch(sizes, given, needs[0] - 1) == 0
    assert "reference" not in footprint.peaks(sizes, given, beta=0.0)
    vast = replace(sizes, vocabulary=10**9)
    assert footprint.logits_chunk(vast, 8) < 8 * 4 * 10**9 * 3 and chunk_elements("cuda") < 10**9  # one row at a time


@pytest.mark.parametrize(
    ("family", "pixels"), [(family, 784 * 6 if family == "internvl" else 0) for family in sorted(FAMILIES)]
)
def test_the_prompt_is_planned_as_long_as_that_of_the_largest_image(family, pixels, tiny_checkpoint, tmp_path):
    config = settings(tiny_checkpoint(family=family))
    config.data.max_pixels = pixels
    size = {"internvl": (168, 112), "qwen3_vl": (128, 96)}.get(family, (112, 112))  # 3 x 2 tiles, 4 x 3 patches
    Image.effect_noise(size, 60).save(tmp_path / "x.png")
    policy = Policy.load(config)
    prompt = policy.encoder.encode([Study("x", (str(tmp_path / "x.png"),), "", "train")])
    planned = plan.step_shape(config, 1)
    assert abs(planned.prompt - prompt.input_ids.shape[1]) <= 4  # Gemma writes four newlines around an image
    grid, pictures = prompt.pixels.get("image_grid_thw"), prompt.pixels["pixel_values"]
    patch, extra = (
        policy.base.config.vision_config.patch_size,
        int(family in ("internvl", "llava")),
    )  # one for the whole
    side = pictures.shape[-1] // (patch if isinstance(patch, int) else patch[0])
    patches = int(grid.prod()) if grid is not None else len(pictures) * (side**2 + extra)
    assert planned.patches == patches and model_sizes_of(config).vision > 0


def model_sizes_of(config: Config):
    sizes = plan.model_sizes(config)
    footprint.peaks(sizes, plan.step_shape(config, 2))
    return sizes


def test_the_7b_model_is_planned_from_config_json_alone(request, capsys):
    root = request.config.rootpath / "experiments"
    arguments = [str(root / "iu_xray.toml"), "--set", f"model.path={root / 'huatuo_7b'}"]
    assert main(["plan", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "8,292,166,656 base parameters" in printed  # as published for Qwen2.5-VL-7B
    assert "80,740,352 of the adapter" in printed and "hours to expect" in printed
    config = load_config(arguments[0], arguments[2:])
    sizes, given, machine = plan.model_sizes(config), plan.step_shape(config, 2), footprint.Machine(80)
    warm = hours.sft_seconds(sizes, given, machine, given.studies)  # a step with one report of each of its studies
    whole = replace(given, group=1, held=given.studies, micro=given.studies)
    alone = hours.seconds(sizes, whole, machine, 1, 0.0)
    assert warm == alone["prefill"] + alone["train"] and 2 * warm < sum(
        hours.seconds(sizes, given, machine, 1, 0.01).values()
    )
    assert f"{warm * 375 / 3600:.1f} hours for 375 steps" in printed
    assert main(["plan", *arguments, "--gpu-gb", "16"]) == 0
    assert "DOES NOT FIT in 16 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "gpu"), [(name, gpu) for name in ("iu_xray", "mimic_cxr") for gpu in (80, 40, 24)] + [("iu_xray", 16)]
)
def test_the_shipped_configurations_load_and_fit_their_gpu(request, name, gpu):
    root = request.config.rootpath / "experiments"
    path = root / (f"{name}.toml" if gpu == 80 else f"{name}_{gpu}gb.toml")
    config = load_config(path)
    assert config.model.path == "FreedomIntelligence/HuatuoGPT-Vision-7B-Qwen2.5VL"
    assert config.labeler.path == "chexbert.pth" and config.reward.weights == {"mccs": 0.75, "format": 0.25}
    if gpu != 80:  # as many groups as in the full configuration
        full = load_config(root / f"{name}.toml")
        groups = full.run.steps * full.grpo.studies_per_step
        assert config.run.steps * config.grpo.studies_per_step == groups
        assert config.data.form == full.data.form and config.grpo.beta == full.grpo.beta
    config.model.path = str(root / "huatuo_7b")
    counts = plan.counts_of(config, None)
    assert counts.most == (2 if name == "iu_xray" else 1) and "data" in counts.images
    assert counts.studies == "published size" and counts.test == (590 if name == "iu_xray" else 3858)
    sizes, given, room = plan.model_sizes(config), plan.step_shape(config, counts.most), footprint.Machine(gpu).room
    assert footprint.largest_micro_batch(sizes, given, room) >= config.grpo.micro_batch
    assert footprint.sft_peak(sizes, given, config.sft.batch_size, config.sft.micro_batch) <= room
    assert config.grpo.studies_per_step >= 8


@pytest.mark.parametrize("gpu", [80, 24, 16])
def test_the_settings_that_fit_are_a_file_that_fits(request, capsys, tmp_path, gpu):
    root = request.config.rootpath / "experiments"
    arguments = ["--set", f"model.path={root / 'huatuo_7b'}", "--gpu-gb", str(gpu)]
    assert main(["plan", str(root / "iu_xray.toml"), "--fit", *arguments]) == 0
    found = capsys.readouterr().out
    assert ('quantize = "nf4"' in found) == (gpu < 40) and found.startswith(f"# fastest of what fits in {gpu} GB: ")
    path = tmp_path / "fits.toml"
    path.write_text(f'include = "{root / "iu_xray.toml"}"\n{found}')
    assert main(["plan", str(path), *arguments]) == 0
    printed = capsys.readouterr().out
    assert f"fits in {gpu} GB" in printed and "DOES NOT FIT" not in printed
    seconds = re.search(r": ([\d.]+) s a step", found)
    step = re.search(r"^step +[\d.]+ +([\d.]+)", printed, re.MULTILINE)
    assert seconds and step and float(step[1]) == pytest.approx(float(seconds[1]), abs=0.051)
    assert main(["plan", str(root / "iu_xray.toml"), "--fit", *arguments[:-1], "4"]) == 2
    assert "nothing fits in 4 GB" in capsys.readouterr().err


def test_four_bits_are_counted_as_they_lie(checkpoint):
    pytest.importorskip("bitsandbytes")
    config = settings(checkpoint, "bfloat16", ALL)
    config.model.quantize = "nf4"
    policy, sizes = Policy.load(config), plan.model_sizes(config)
    layers = [layer for layer in policy.model.modules() if isinstance(layer, Nf4Linear)]
    assert sizes.packed4 == sum(layer.in_features * layer.out_features for layer in layers)
    scales = sum(layer.packed.nbytes + layer.state.absmax.nbytes + layer.state.state2.absmax.nbytes for layer in layers)
    whole = sum(p.numel() * p.element_size() for p in policy.model.parameters() if not p.requires_grad)
    assert sizes.base == pytest.approx(scales + whole, rel=0.01)
    alive = footprint.resident(sizes, shape(False))
    assert alive["a weight written out"] > 0 and alive["B beside the weights"] == 0
    assert footprint.sample(sizes, shape(False))["merged copy of adapted weights"] == 0


def test_recomputed_layers_are_counted_as_they_are_kept(checkpoint, monkeypatch):
    """Of a layer its input alone, which torch's checkpoint holds, beside what lies outside of layers."""
    config, held, plain = settings(checkpoint, "bfloat16", ALL), [], recompute.checkpoint
    config.grpo.recompute = "all"

    def watched(forward, *inputs, **named):
        held.extend(x for x in inputs if isinstance(x, torch.Tensor))
        return plain(forward, *inputs, **named)

    monkeypatch.setattr(recompute, "checkpoint", watched)
    policy, sizes, given = Policy.load(config), plan.model_sizes(config), replace(shape(False), recompute="all")

    def held_by(run):
        held.clear()
        found = run()
        return found, sum(x.numel() * x.element_size() for x in held)

    prefix, inputs = held_by(lambda: policy.prefill(prompt_batch(policy, False)))
    own = sum(t.numel() * t.element_size() for t in [*prefix.keys, *prefix.values])
    assert footprint.prefill_graph(sizes, given) == inputs + own
    tokens = torch.randint(0, 200, (N * G, T + 1))
    _, inputs = held_by(lambda: policy.logprobs(prefix, tokens, torch.ones_like(tokens).bool()))
    slopes = 2 * N * G * T * sizes.hidden * sizes.size  # of the projection, with the hidden states it came from
    assert footprint.continuation_graph(sizes, given) == inputs + slopes
    whole = replace(given, recompute="none")
    assert footprint.prefill_graph(sizes, whole) > 4 * footprint.prefill_graph(sizes, given)


def on(form, root, **run) -> Config:
    config = Config()
    config.data.form, config.data.root = form, str(root)
    for name, value in run.items():
        setattr(config.run, name, value)
    return config


def test_studies_are_counted_where_the_data_lie_and_the_limits_of_the_run_hold(tmp_path, capsys):
    assert main(["phantom", "--export", str(tmp_path), "--split", "train", "--count", "5"]) == 0
    assert main(["phantom", "--export", str(tmp_path), "--split", "test", "--count", "4"]) == 0
    for limit, test in ((0, 4), (3, 3), (9, 4)):
        counts = plan.counts_of(on("iu_xray_r2gen", tmp_path, test_studies=limit), None)
        assert counts == plan.Counts(1, 1.0, "counted", test, 0, "counted")
    assert plan.counts_of(on("iu_xray_r2gen", tmp_path), 2.0) == plan.Counts(2.0, 2.0, "given", 4, 0, "counted")
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="images are missing"):
        plan.counts_of(on("iu_xray_r2gen", tmp_path), None)
    assert plan.counts_of(on("iu_xray_r2gen", tmp_path), 2.0).studies == "published size"


@pytest.mark.parametrize(
    ("form", "limits", "expected"),
    [
        ("iu_xray_r2gen", {}, (590, 200, "published size")),
        ("iu_xray_r2gen", {"test_studies": 700, "eval_studies": 500}, (590, 296, "published size")),
        ("mimic_cxr", {"test_studies": 100, "eval_studies": 0}, (100, 0, "published size")),
        ("iu_xray_xml", {}, (791, 200, "assumed: shares of the published total")),
        ("iu_xray_kaggle", {"eval_studies": 900}, (770, 385, "assumed: shares of the published total")),
    ],
)
def test_elsewhere_it_is_said_what_the_number_is(form, limits, expected, tmp_path):
    counts = plan.counts_of(on(form, tmp_path / "none", **limits), None)
    assert (counts.test, counts.val, counts.studies) == expected


def test_a_quantised_checkpoint_is_refused_in_the_line_that_train_says(tmp_path, capsys):
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "awq"}}))
    said = []
    for command in ("plan", "report"):
        arguments = ["x.png"] if command == "report" else ["experiments/phantom.toml"]
        assert main([command, *arguments, "--set", f"model.path={tmp_path}"]) == 2
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1] and "quantised (awq, " in said[0]


def test_without_config_json_one_line_says_so(tmp_path, capsys):
    (tmp_path / "c.toml").write_text(f'[model]\npath = "{tmp_path}"\n')
    assert main(["plan", str(tmp_path / "c.toml")]) == 2
    assert "config.json" in capsys.readouterr().err


def test_the_recorded_measurement_is_within_a_fifth(request):
    record = json.loads((request.config.rootpath / "experiments" / "results" / "plan_check.json").read_text())
    rows = record["settings"]
    assert len(rows) >= 3 and max(r["measured"] for r in rows) > 16 * min(r["measured"] for r in rows)
    for row in rows:
        assert row["planned"] == pytest.approx(row["measured"], rel=0.2)


def test_what_stands_in_front_of_the_question_is_counted(tmp_path):
    """The longest context of the training studies for memory, the middle one for hours; assumed where no data lie."""
    data = tmp_path / "data"
    assert main(["phantom", "--export", str(data), "--split", "train", "--count", "30"]) == 0
    head, *rows = (data / "reports.csv").read_text().splitlines()
    told = [f"{row},{'cough ' * (n % 10)}" for n, row in enumerate(rows)]
    (data / "reports.csv").write_text("\n".join([f"{head},indication", *told]) + "\n")
    table = ["data.form=table", f"data.root={data}", "data.table=reports.csv", "data.columns.split=none"]
    config = load_config(None, table)
    bare = plan.counts_of(config, None)
    assert bare.context == bare.usual == ""
    config.prompt.context = ["indication"]
    counts = plan.counts_of(config, None)
    assert counts.context == f"Context: Indication: {' '.join(['cough'] * 9)}.\n" and 0 < len(counts.usual) < 60
    shapes = [plan.step_shape(config, 1, text).prompt for text in ("", counts.usual, counts.context)]
    assert shapes[0] < shapes[1] < shapes[2] and shapes[2] - shapes[0] >= 9
    config.data.root = str(tmp_path / "elsewhere")
    config.prompt.context = ["indication", "prior_images"]
    assumed = plan.counts_of(config, None)
    assert assumed.most == 4 and len(assumed.context.split()) == plan.ASSUMED_WORDS["indication"]
