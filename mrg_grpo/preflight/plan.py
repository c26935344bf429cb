"""`mrg-grpo plan`: memory and arithmetic of a run before it, from config.json alone. No weights are read.

Sizes come from the model built on the meta device, formulas from footprint.py. Memory is the worst case: every study
with the most images, every image at max_pixels, every report at max_tokens. Hours are of the usual study.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.lora import Linear
from transformers import AutoModelForImageTextToText, AutoTokenizer

from mrg_grpo.config import Config
from mrg_grpo.data.load import read_splits, studies_of, test_studies, validation_studies
from mrg_grpo.data.splits import Studies, published_sizes
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.evaluation.table import format_table
from mrg_grpo.hub import quiet, require_there
from mrg_grpo.model.adapters import attach
from mrg_grpo.model.encoder import PromptEncoder
from mrg_grpo.model.families import family_of
from mrg_grpo.model.pretrained import read_config
from mrg_grpo.preflight.footprint import (
    EAGER_LAYER,
    GRAPH_LAYER,
    PHASES,
    Machine,
    Model,
    Shape,
    arithmetic,
    decoding_hours,
    largest_micro_batch,
    peaks,
    resident,
    seconds,
    sft_peak,
    sft_seconds,
)


def model_sizes(config: Config) -> Model:
    """Build base and adapter on the meta device and count. UserError where config.json is not to be had."""
    model_config = read_config(config)
    family, text, vision = family_of(model_config), model_config.get_text_config(), model_config.vision_config
    with torch.device("meta"):
        base = AutoModelForImageTextToText.from_config(model_config)
        total = sum(p.numel() for p in base.parameters())
        seen = sum(p.numel() for p in family.vision_tower(base).parameters())
        decoder: Any = family.text_model(base)
        layers = sum(p.numel() for p in decoder.layers.parameters())
        if config.model.adapter:
            require_there(config.model.adapter, "adapter")
            try:
                lora = PeftConfig.from_pretrained(config.model.adapter)
                lora.inference_mode = False
                with quiet():
                    wrapped, rank = get_peft_model(base, lora), lora.r  # type: ignore[attr-defined]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"adapter {config.model.adapter}: does not fit or is none ({first_line(error)})"
                ) from error
        else:
            wrapped, rank = attach(base, family, config, None, True), config.lora.rank
    # of linear layers alone: LoRA on the embedding is never merged, and keeps next to nothing of a token
    lora_layers: dict[str, Any] = {
        name: module for name, module in wrapped.named_modules() if isinstance(module, Linear)
    }
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    # "auto" is bfloat16 on the GPU that is planned for, whatever this machine has
    on_cpu = config.model.device == "cpu"
    size = {"float32": 4, "float64": 8, "bfloat16": 2, "auto": 4 if on_cpu else 2}[config.model.dtype]
    return Model(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        queries=head_dim * text.num_attention_heads,
        keys=head_dim * text.num_key_value_heads,
        heads=text.num_attention_heads,
        inner=text.intermediate_size,
        vocabulary=text.vocab_size,
        vision_hidden=vision.hidden_size,
        vision_inner=vision.intermediate_size,
        vision=seen,
        text=layers,
        total=total,
        adapter=sum(p.numel() for p in wrapped.parameters() if p.requires_grad),
        adapted=sum(module.get_base_layer().weight.numel() for module in lora_layers.values()),
        rank=rank,
        targets=tuple(sorted({name.rpartition(".")[2] for name in lora_layers})),
        size=size,
        gpu=not on_cpu,
    )


def step_shape(config: Config, images: float) -> Shape:
    """The largest step: `images` of max_pixels for every study, every report at the length limit."""
    path = config.model.resolved_path()
    vision = read_config(config).vision_config
    patch, merge = vision.patch_size, getattr(vision, "spatial_merge_size", 1)
    tokens = max_pixels(config, path) // (patch * merge) ** 2
    grpo, reports = config.grpo, config.grpo.studies_per_step * config.grpo.group_size
    held = min(grpo.studies_per_pass or grpo.studies_per_step, grpo.studies_per_step)
    return Shape(
        studies=grpo.studies_per_step,
        held=held,
        group=grpo.group_size,
        micro=min(grpo.micro_batch or reports, held * grpo.group_size),
        prompt=round(images * (tokens + 2)) + text_tokens(config, path),
        report=config.sampling.max_tokens,
        sampled=min(config.sampling.batch or reports, reports),
        decode=config.run.decode_batch,
        merged=config.sampling.fast_decode,
        patches=round(images * tokens * merge**2),
        patch_width=3 * getattr(vision, "temporal_patch_size", 1) * patch**2,
        padded=not config.data.rendered,  # phantom prompts are all of one length
        passes=grpo.inner_passes,
    )


def max_pixels(config: Config, path: str) -> int:
    """data.max_pixels, or the checkpoint's own limit, or the one of Qwen2.5-VL's processor."""
    if config.data.max_pixels:
        return config.data.max_pixels
    file = Path(path) / "preprocessor_config.json"
    if not file.is_file():
        return 12_845_056
    processor = json.loads(file.read_text(encoding="utf-8"))
    return int(processor.get("max_pixels") or (processor.get("size") or {}).get("longest_edge") or 12_845_056)


def text_tokens(config: Config, path: str) -> int:
    """Tokens of the chat text around the images; 64 where no tokenizer lies beside config.json."""
    if not (Path(path) / "tokenizer.json").is_file():
        return 64
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    encoder = PromptEncoder(tokenizer, None, None, config.prompt.text, config.prompt.think)  # type: ignore[arg-type]
    return len(tokenizer(encoder.chat(0), add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Counts:
    """How many images a training study has and how many studies a run decodes, each with where the number is from."""

    most: float  # images of a study
    mean: float
    images: str  # "counted", "given", "data.views" or "assumed ..."
    test: int  # studies decoded at the end, before and after
    val: int  # studies of a periodic evaluation
    studies: str  # "counted", "published size" or "assumed ..."


def counts_of(config: Config, given: float | None) -> Counts:
    """Counted where the data lie here; else images as given or assumed, and sizes as published or assumed.

    given: images of a study. The limits of [run] hold in each case.
    """
    run, data = config.run, config.data
    splits = readable_splits(config, needed=given is None)
    if splits:
        images = [len(study.images) for study in studies_of(splits, "train")]
        most, mean, how = max(images), sum(images) / len(images), "counted"
        test, val, source = len(test_studies(splits, config)), len(validation_studies(splits, config)), "counted"
    else:
        most = mean = int(data.views) if data.views.isdigit() else 2
        how = "data.views" if data.views.isdigit() else f"assumed: {data.root} is not here, say --images"
        sizes, source = published_sizes(data.form)
        test, val = min(run.test_studies or sizes["test"], sizes["test"]), min(run.eval_studies, sizes["val"])
    if given is not None:
        return Counts(given, given, "given", test, val, source)
    return Counts(most, mean, how, test, val, source)


def readable_splits(config: Config, needed: bool) -> Studies | None:
    """The studies where the data lie here; None where they do not, or, unless they are needed, cannot be read: a
    laptop may have the reports without the pictures."""
    if not config.data.rendered and not Path(config.data.root).is_dir():
        return None
    try:
        return read_splits(config)
    except UserError:
        if needed:
            raise
        return None


def run_plan(
    config: Config, gpu_gb: float = 80.0, tflops: float = 125.0, bandwidth: float = 1300.0, images: float | None = None
) -> None:
    """`mrg-grpo plan`: print sizes, memory by phase, the micro-batch that fits, and hours; see `Machine`."""
    for name, value in (("gpu-gb", gpu_gb), ("tflops", tflops), ("bandwidth", bandwidth), ("images", images)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"--{name} {value:g}: must be a number above 0")
    machine = Machine(gpu_gb, tflops, bandwidth)
    counts = counts_of(config, images)
    m, s, usual = model_sizes(config), step_shape(config, counts.most), step_shape(config, counts.mean)
    grpo = config.grpo
    print(
        f"{m.total:,} base parameters ({m.vision:,} vision, {m.text:,} decoder layers), {m.adapter:,} of the adapter\n"
        f"{s.studies} studies x {s.group} reports, images of a study: {counts.most:g} at most, {counts.mean:.2f} on "
        f"average ({counts.images}), {s.prompt} prompt tokens, {s.report} report tokens; {s.held} studies a pass, "
        f"micro-batch {s.micro}\n"
    )
    print(memory_table(m, s, grpo.beta))
    print(fit_line(m, s, machine, grpo.beta))
    warm = sft_peak(m, s, config.sft.batch_size, config.sft.micro_batch)
    verdict = "fits" if warm <= machine.room else "DOES NOT FIT: lower sft.micro_batch"
    warm_hours = sft_seconds(m, usual, machine, config.sft.batch_size) * config.run.steps / 3600
    print(
        f"sft on batches of {config.sft.batch_size}: peak {warm / 1e9:.3f} GB, {verdict}; {warm_hours:.1f} hours for "
        f"{config.run.steps} steps, and the decoding below\n"
    )
    flop = arithmetic(m, usual, grpo.inner_passes, grpo.beta)
    spent = seconds(m, usual, machine, grpo.inner_passes, grpo.beta)
    rows = [(name, f"{flop[name] / 1e12:.2f}", f"{spent[name]:.3f}") for name in flop]
    rows.append(("step", f"{sum(flop.values()) / 1e12:.2f}", f"{sum(spent.values()):.3f}"))
    print(format_table(("arithmetic", "TFLOP", "seconds"), rows))
    print(hours_line(config, counts, m, usual, machine, sum(spent.values())))


def memory_table(m: Model, s: Shape, beta: float) -> str:
    """GB by term and phase."""
    alive = resident(m, s)
    terms = {name: {**alive, **f(m, s)} for name, f in PHASES.items() if beta or name != "reference"}
    names = dict.fromkeys(name for phase in terms.values() for name in phase)
    rows = [(n, *(f"{p[n] / 1e9:.3f}" if n in p else "-" for p in terms.values())) for n in names]
    rows.append(("peak", *(f"{sum(p.values()) / 1e9:.3f}" for p in terms.values())))
    return format_table(("GB (1e9 bytes)", *terms), rows)


def fit_line(m: Model, s: Shape, machine: Machine, beta: float) -> str:
    fits = max(peaks(m, s, beta).values()) <= machine.room
    best = largest_micro_batch(m, s, machine.room, beta)
    line = f"{'fits' if fits else 'DOES NOT FIT'} in {machine.gpu_gb:g} GB ({machine.room / 1e9:.1f} of them usable); "
    if best:
        return f"{line}largest micro-batch that fits: {best} of {s.held * s.group} reports"
    return f"{line}no micro-batch fits: lower grpo.studies_per_pass, data.max_pixels or run.decode_batch"


def hours_line(config: Config, counts: Counts, m: Model, s: Shape, machine: Machine, step: float) -> str:
    run, training = config.run, step * config.run.steps / 3600
    rounds = (run.steps - 1) // run.eval_every if run.eval_every and counts.val else 0
    decoding = decoding_hours(m, s, machine, 2 * counts.test + rounds * counts.val)
    validation = f" and {rounds} x {counts.val} validation" if rounds else ""
    return (
        f"hours to expect of train: {training:.1f} for {run.steps} steps, {decoding:.1f} to decode 2 x {counts.test} "
        f"test{validation} studies ({counts.studies}); assuming {machine.tflops:g} TFLOP/s, "
        f"{machine.bandwidth:g} GB/s and {(GRAPH_LAYER if s.merged else EAGER_LAYER) * 1e3:g} ms a layer and token"
    )
