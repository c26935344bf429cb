"""`mrg-grpo plan`: memory and arithmetic of a run before it, from config.json alone. No weights are read.

Sizes come from the model built on the meta device, formulas from footprint.py and hours.py. Memory is the worst case:
every study with the most images, every image at max_pixels, every report at max_tokens. Hours are of the usual study.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn
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
from mrg_grpo.model.pretrained import quantization, read_config
from mrg_grpo.preflight.footprint import (
    PHASES,
    Machine,
    Model,
    Shape,
    largest_micro_batch,
    peaks,
    resident,
    sft_peak,
)
from mrg_grpo.preflight.hours import EAGER_LAYER, GRAPH_LAYER, arithmetic, decoding_hours, seconds, sft_seconds
from mrg_grpo.prompt import context_line


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
        linear = sum(x.weight.numel() for x in decoder.layers.modules() if isinstance(x, nn.Linear))
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
    width = getattr(
        vision, "embed_dim", vision.hidden_size
    )  # Qwen2-VL calls its own width so, and the other the text's
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
        vision_hidden=width,
        vision_inner=getattr(vision, "intermediate_size", None) or round(width * vision.mlp_ratio),
        vision=seen,
        text=layers,
        total=total,
        adapter=sum(p.numel() for p in wrapped.parameters() if p.requires_grad),
        adapted=sum(module.get_base_layer().weight.numel() for module in lora_layers.values()),
        rank=rank,
        targets=tuple(sorted({name.rpartition(".")[2] for name in lora_layers})),
        size=size,
        gpu=not on_cpu,
        packed4=linear if config.model.quantize == "nf4" or quantization(model_config) else 0,
    )


def step_shape(config: Config, images: float, context: str = "") -> Shape:
    """The largest step: `images` of max_pixels and this context for every study, every report at the length limit."""
    path = config.model.resolved_path()
    model_config = read_config(config)
    vision = model_config.vision_config
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    tokens, patches = family_of(model_config).most_tokens(max_pixels(config, path))
    grpo, reports = config.grpo, config.grpo.studies_per_step * config.grpo.group_size
    held = min(grpo.studies_per_pass or grpo.studies_per_step, grpo.studies_per_step)
    return Shape(
        studies=grpo.studies_per_step,
        held=held,
        group=grpo.group_size,
        micro=min(grpo.micro_batch or reports, held * grpo.group_size),
        prompt=round(images * (tokens + 2)) + text_tokens(config, path, context),
        report=config.sampling.max_tokens,
        sampled=min(config.sampling.batch or reports, reports),
        decode=config.run.decode_batch,
        merged=config.sampling.fast_decode,
        patches=round(images * patches),
        patch_width=3 * getattr(vision, "temporal_patch_size", 1) * patch**2,
        padded=not config.data.rendered,  # phantom prompts are all of one length
        passes=grpo.inner_passes,
        recompute=grpo.recompute,
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


def text_tokens(config: Config, path: str, context: str = "") -> int:
    """Tokens of the chat text around the images, with a study's context in front of the question; without a tokenizer
    beside config.json 64, and a token for every four letters of the context."""
    if not (Path(path) / "tokenizer.json").is_file():
        return 64 + len(context) // 4
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    encoder = PromptEncoder(tokenizer, None, None, config.prompt.text, config.prompt.think)  # type: ignore[arg-type]
    return len(encoder.ids(encoder.chat(0, context + encoder.question)))


ASSUMED_WORDS = {"age": 3, "sex": 2, "indication": 40, "history": 40, "comparison": 20, "prior_report": 200}
"""Of a context whose data are not here: more than nearly all have."""


@dataclass(frozen=True)
class Counts:
    """How many images a training study has and how many studies a run decodes, each with where the number is from."""

    most: float  # images of a study
    mean: float
    images: str  # "counted", "given", "data.views" or "assumed ..."
    test: int  # studies decoded at the end, before and after
    val: int  # studies of a periodic evaluation
    studies: str  # "counted", "published size" or "assumed ..."
    context: str = ""  # the longest that stands in front of a question
    usual: str = ""  # one of average length


def counts_of(config: Config, given: float | None) -> Counts:
    """Counted where the data lie here; else images as given or assumed, and sizes as published or assumed.

    given: images of a study. The limits of [run] hold in each case.
    """
    run, data = config.run, config.data
    splits = readable_splits(config, needed=given is None)
    if splits:
        train, asked = studies_of(splits, "train"), config.prompt.context
        prior = "prior_images" in asked
        images = [len(study.images) + prior * len(study.context.prior_images) for study in train]
        known = sorted((context_line(vars(study.context), asked, len(study.images)) for study in train), key=len)
        contexts = known[-1], known[len(known) // 2]
        most, mean, how = max(images), sum(images) / len(images), "counted"
        test, val, source = len(test_studies(splits, config)), len(validation_studies(splits, config)), "counted"
    else:
        most = mean = (int(data.views) if data.views.isdigit() else 2) * (1 + ("prior_images" in config.prompt.context))
        contexts = ("word " * sum(ASSUMED_WORDS.get(name, 0) for name in config.prompt.context),) * 2
        how = "data.views" if data.views.isdigit() else f"assumed: {data.root} is not here, say --images"
        sizes, source = published_sizes(data.form)
        most_test, most_val = sizes.get("test", run.test_studies), sizes.get("val", run.eval_studies)
        test, val = min(run.test_studies or most_test, most_test), min(run.eval_studies, most_val)
    if given is not None:
        return Counts(given, given, "given", test, val, source, *contexts)
    return Counts(most, mean, how, test, val, source, *contexts)


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
    config: Config,
    gpu_gb: float = 80.0,
    tflops: float = 125.0,
    bandwidth: float = 1300.0,
    images: float | None = None,
    fit: bool = False,
) -> None:
    """`mrg-grpo plan`: print sizes, memory by phase, the micro-batch that fits, and hours; see `Machine`.

    fit: print instead the settings of memory with which a step is fastest on this GPU, as TOML.
    """
    for name, value in (("gpu-gb", gpu_gb), ("tflops", tflops), ("bandwidth", bandwidth), ("images", images)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"--{name} {value:g}: must be a number above 0")
    machine = Machine(gpu_gb, tflops, bandwidth)
    counts = counts_of(config, images)
    if fit:
        print(fitting(config, machine, counts))
        return
    m, s = model_sizes(config), step_shape(config, counts.most, counts.context)
    usual = step_shape(config, counts.mean, counts.usual)
    grpo = config.grpo
    print(
        f"{m.total:,} base parameters ({m.vision:,} vision, {m.text:,} decoder layers), {m.adapter:,} of the adapter\n"
        f"{s.studies} studies x {s.group} reports, images of a study: {counts.most:g} at most, {counts.mean:.2f} on "
        f"average ({counts.images}), {s.prompt} prompt tokens, {s.report} report tokens; {s.held} studies a pass, "
        f"micro-batch {s.micro}, recompute {s.recompute}\n"
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


def fitting(config: Config, machine: Machine, counts: Counts) -> str:
    """The settings of memory with which a step is fastest on a GPU, as TOML; what a step means stays as it is.

    Tried are 4 bits, what is recomputed, the prompts held at once, the micro-batches, and the studies that evaluation
    decodes. UserError where nothing fits.
    """
    best: tuple[float, int] | None = None
    for tried, m in candidates(config):
        s, grpo = step_shape(tried, counts.most, counts.context), tried.grpo
        decode = next((n for n in halves(config.run.decode_batch) if fits_decoding(m, s, n, machine.room)), 0)
        warm = next(
            (n for n in halves(config.sft.batch_size) if sft_peak(m, s, config.sft.batch_size, n) <= machine.room), 0
        )
        steps = {name: need for name, need in peaks(m, s, grpo.beta).items() if name != "evaluate"}
        if not decode or not warm or max(steps.values()) > machine.room:
            continue
        spent = seconds(m, step_shape(tried, counts.mean, counts.usual), machine, grpo.inner_passes, grpo.beta)
        key = (round(sum(spent.values()), 3), grpo.micro_batch)  # of equally fast ones that with the least memory
        if best is None or key < best:
            best = key
            lines = [
                f"# fastest of what fits in {machine.gpu_gb:g} GB: {key[0]:.1f} s a step at {machine.tflops:g} TFLOP/s",
                f"[run]\ndecode_batch = {decode}",
                f'\n[model]\nquantize = "{tried.model.quantize}"',
                f"\n[grpo]\nstudies_per_pass = {grpo.studies_per_pass}\nmicro_batch = {grpo.micro_batch}",
                f'recompute = "{grpo.recompute}"',
                f"\n[sft]\nmicro_batch = {warm}",
            ]
    if best is None:
        raise UserError(f"nothing fits in {machine.gpu_gb:g} GB; lower data.max_pixels or sampling.max_tokens")
    return "\n".join(lines)


def candidates(config: Config) -> Iterator[tuple[Config, Model]]:
    """All settings of memory that `fitting` tries, each with its sizes."""
    for quantize in ("none",) if config.model.shard else ("none", "nf4"):
        tried = deepcopy(config)
        tried.model.quantize, grpo = quantize, tried.grpo
        m = model_sizes(tried)
        for recompute, held in product(("none", "prompt", "all"), halves(config.grpo.studies_per_step)):
            for micro in halves(held * grpo.group_size):
                grpo.recompute, grpo.studies_per_pass, grpo.micro_batch = recompute, held, micro
                yield tried, m


def fits_decoding(m: Model, s: Shape, studies: int, room: float) -> bool:
    """Whether evaluation can decode so many studies at once."""
    return peaks(m, replace(s, decode=studies))["evaluate"] <= room


def halves(most: int) -> list[int]:
    """`most`, half of it, and so on down to 1."""
    return [most, *halves(most // 2)] if most > 1 else [1]


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
