"""Arithmetic of a GRPO step, and how long it takes.

FLOP follow from shapes (footprint.py has the sizes). Seconds rest on a stated throughput. The defaults of `Machine` are
assumptions: 40% of an A100's 312 TFLOP/s (bf16, dense) and 64% of its 2,039 GB/s, both from its data sheet. Where a
GPU waits for the CPU to start operations, the constants below decide.
"""

from __future__ import annotations

from dataclasses import replace

from mrg_grpo.preflight.footprint import NF4, Machine, Model, Shape

GRAPH_LAYER = 1e-4
"""Seconds of a decoder layer for one token whatever its size, in a graph of some 40 small operations. Assumed."""
EAGER_LAYER = 2e-3
"""The same where a CPU starts every operation of transformers' layers. Assumed."""
PASS_LAYER = 1.6e-3
"""Seconds in which a CPU starts a layer's operations in one forward pass of training, three times that with the
backward pass: what micro-batches of one report wait for. Measured beside one H200 (experiments/results/gpu_step.json).
"""


def forward(m: Model, rows: float, tokens: float, before: float) -> float:
    """The decoder on `rows` sequences of `tokens` behind `before` cached ones."""
    linear = 2 * (m.text + m.adapter) * rows * tokens
    return linear + 4 * m.layers * m.queries * rows * tokens * (before + tokens / 2)


def arithmetic(m: Model, s: Shape, passes: int = 1, beta: float = 1.0) -> dict[str, float]:
    """FLOP by phase. A backward pass through frozen weights costs one forward: no gradients of weights."""
    vision = 2 * m.vision * s.studies * s.patches
    prompt = forward(m, s.studies, s.prompt, 0)
    reports = forward(m, s.reports, s.report, s.prompt)
    logits = 2 * m.vocabulary * m.hidden * s.reports * s.report
    again = prompt * (s.recompute != "none") + reports * (s.recompute == "all")
    return {
        "prefill": vision + prompt,
        "sample": reports + logits,
        "reference": prompt + reports + logits if beta else 0.0,
        "train": passes * (2 * reports + 2 * logits + prompt + again) + (passes - 1 + s.parts) * prompt,
    }


def traffic(m: Model, s: Shape, reports: int) -> float:
    """Bytes that one token of `reports` reads at least: weights, projection, and keys and values half-way. A GPU reads
    the whole room of the reports."""
    own = s.report if m.gpu and s.merged else s.report / 2
    cached = (s.shared(reports) * s.prompt + reports * own) * m.cache
    written_out = m.packed4 * (NF4 + m.size)  # codes are read, weights written, and read as whole ones are
    return (m.text + m.vocabulary * m.hidden) * m.size + written_out + cached


def decode_seconds(m: Model, s: Shape, machine: Machine, reports: int) -> float:
    """All decoding steps of `reports`: bound by arithmetic, by memory traffic or by the start of operations."""
    flop = forward(m, reports, 1, s.prompt + s.report / 2) + 2 * m.vocabulary * m.hidden * reports
    launches = (GRAPH_LAYER if s.merged else EAGER_LAYER) * m.layers
    return s.report * max(flop / machine.tflops / 1e12, traffic(m, s, reports) / machine.bandwidth / 1e9, launches)


def seconds(m: Model, s: Shape, machine: Machine, passes: int, beta: float) -> dict[str, float]:
    """Seconds of a step by phase: reports end at half the limit on average, the longest at the limit."""
    mean = replace(s, report=max(1, s.report // 2))
    spent = {name: flop / machine.tflops / 1e12 for name, flop in arithmetic(m, mean, passes, beta).items()}
    prompts, blocks = s.studies / s.held, s.reports / s.micro
    again = prompts * (passes - 1 + s.parts)
    if s.recompute != "none":
        again += prompts * passes
    if s.recompute == "all":
        again += blocks * passes
    runs = {  # forward passes of the layers, and backward passes
        "prefill": (prompts, 0.0),
        "reference": ((prompts + blocks) if beta else 0.0, 0.0),
        "train": (passes * blocks + again, passes * (prompts + blocks)),
    }
    for name, (forwards, backwards) in runs.items():
        written_out = m.packed4 * (NF4 + m.size) * (forwards + backwards) / machine.bandwidth / 1e9
        spent[name] = max(spent[name] + written_out, PASS_LAYER * m.layers * (forwards + 2 * backwards))
    spent["sample"] = s.reports / s.sampled * decode_seconds(m, s, machine, s.sampled)
    return spent


def sft_seconds(m: Model, s: Shape, machine: Machine, batch: int) -> float:
    """Of a warm-start step: every study with one report, forward and backward; nothing is sampled."""
    spent = seconds(m, replace(s, studies=batch, held=batch, group=1, micro=batch, sampled=batch), machine, 1, 0.0)
    return spent["prefill"] + spent["train"]


def decoding_hours(m: Model, s: Shape, machine: Machine, studies: int) -> float:
    """Greedy decoding of a split."""
    one = replace(s, studies=s.decode, held=s.decode, group=1)
    prefill_seconds = arithmetic(m, one)["prefill"] / machine.tflops / 1e12
    return studies / s.decode * (prefill_seconds + decode_seconds(m, one, machine, s.decode)) / 3600
