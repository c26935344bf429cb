"""What one step of the 7B policy costs on IU X-Ray, on paper: our way beside the repeated-prompt way, phase by phase.

    python -m experiments.benchmarks.on_paper                                     # from the stored report lengths
    python -m experiments.benchmarks.on_paper --data ../shared/data/iu_xray       # counts the lengths again

experiments/iu_xray.toml on one 80 GB GPU, from config.json alone; nothing is run. Our way is what mrg_grpo.preflight.footprint
says of this engine. The repeated-prompt way is what engines without a shared prefix do: every one of the B = N * G
reports brings its own copy of the pictures and the prompt into sampling, reference and training. Both are taken at the
same utilisation, with the same LoRA, the same micro-batches, no activation checkpointing and every report alive to the
end of sampling. Not counted, in either: reading pictures, labels, the optimiser.

Report lengths are of the references in the form that the warm start teaches, in Qwen's own vocabulary (qwen.tiktoken of
PyPI's `dashscope`, which `make test` installs), their think blocks written from the embedded labeler's labels.
Writes results/on_paper.json; `performance_page` makes docs/performance.md of it.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

from experiments.benchmarks import performance_page
from mrg_grpo import embedded
from mrg_grpo.config import Config, load_config
from mrg_grpo.preflight.footprint import (
    EAGER_LAYER,
    GRAPH,
    Machine,
    Model,
    Shape,
    arithmetic,
    forward,
    kept_by_layer,
    peaks,
    prefill_graph,
    resident,
    train,
)
from mrg_grpo.preflight.plan import model_sizes, step_shape
from mrg_grpo.prompt import target_text

RESULTS = performance_page.RESULTS / "on_paper.json"
CONFIG = "experiments/iu_xray.toml"
MODEL = "experiments/huatuo_7b"
VIEWS = 2
ARITHMETIC, TRAFFIC = 0.40, 0.64
"""Shares of the data sheet that are assumed to be reached."""
SHEETS = {"A100 80 GB": (312.0, 2039.0), "H100 SXM 80 GB": (989.0, 3350.0)}
"""Dense bf16 TFLOP/s and GB/s, from NVIDIA's data sheets."""
MODEL_SHOWN = ("text", "adapter", "layers", "queries", "keys", "size", "vocabulary", "hidden", "vision")
SHAPE_SHOWN = ("studies", "group", "micro", "prompt", "report", "patches")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen cuts text before byte pairs are merged."""


def machines() -> dict[str, Machine]:
    return {
        name: Machine(80.0, ARITHMETIC * tflops, TRAFFIC * bandwidth) for name, (tflops, bandwidth) in SHEETS.items()
    }


# ---- report lengths


def qwen_ranks() -> dict[bytes, int] | None:
    """qwen.tiktoken of dashscope: byte sequence -> rank; None where the package, read as a file, is not installed."""
    spec = importlib.util.find_spec("dashscope")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "resources" / "qwen.tiktoken"
        if path.is_file():
            pairs = (line.split() for line in path.read_bytes().splitlines())
            return {base64.b64decode(token): int(rank) for token, rank in pairs}
    return None


def count_tokens(text: str, ranks: Mapping[bytes, int]) -> int:
    """Tokens of a text: in each piece the two neighbours of the lowest rank are merged until none has one."""
    total = 0
    for piece, _ in pre_tokenizers.Split(Regex(SPLIT), "isolated").pre_tokenize_str(text):
        parts = [bytes([byte]) for byte in piece.encode()]
        while True:
            found = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
            if not found:
                break
            place = min(found)[1]
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        total += len(parts)
    return total


def report_lengths(folder: Path, together: int) -> dict[str, float]:
    """Tokens of the training references as targets, the stop token with them; `together` of them end with the longest.

    "longest_of": the mean over all draws of so many references of the longest among them.
    """
    annotation = json.loads((folder / "annotation.json").read_text(encoding="utf-8"))
    reports, ranks = [study["report"] for study in annotation["train"]], qwen_ranks()
    if ranks is None:
        raise SystemExit("report lengths need qwen.tiktoken: pip install --no-deps dashscope")
    labels = embedded.labeler("cpu").label(reports).tolist()
    alone = [count_tokens(target_text(report, None, think=False), ranks) + 1 for report in reports]
    whole = [count_tokens(target_text(report, row), ranks) + 1 for report, row in zip(reports, labels)]
    return {
        "references": len(reports), "mean": sum(whole) / len(whole), "most": max(whole),
        "mean_without_think": sum(alone) / len(alone), "together": together,
        "longest_of": expected_longest(whole, together),
    }  # fmt: skip


def expected_longest(lengths: list[int], count: int) -> float:
    """Mean of the longest of `count` drawn with replacement: sum over sorted values of x * (F(x)^n - F(x-)^n)."""
    ordered = sorted(lengths)
    share = [(i / len(ordered)) ** count for i in range(len(ordered) + 1)]
    return sum(x * (share[i + 1] - share[i]) for i, x in enumerate(ordered))


# ---- arithmetic, bytes, seconds


def repeated_arithmetic(m: Model, s: Shape, beta: float) -> dict[str, float]:
    """FLOP by phase where each of the B reports brings its own pictures and prompt; names of our phases.

    A frozen tower runs forward in every phase; the backward pass through frozen decoder weights costs one forward.
    """
    vision = 2 * m.vision * s.reports * s.patches
    prompt, reports = forward(m, s.reports, s.prompt, 0), forward(m, s.reports, s.report, s.prompt)
    logits = 2 * m.vocabulary * m.hidden * s.reports * s.report
    return {
        "prefill": vision + prompt,
        "sample": reports + logits,
        "reference": vision + prompt + reports + logits if beta else 0.0,
        "train": vision + 2 * (prompt + reports + logits),
    }


def cache_bytes(m: Model, s: Shape, prompts: int) -> float:
    """Keys and values of so many prompts and of B whole reports."""
    return (prompts * s.prompt + s.reports * s.report) * m.cache


def repeated_graph(m: Model, s: Shape) -> float:
    """What autograd keeps of b whole sequences, counted as our own prompts are."""
    whole = replace(s, studies=s.micro, prompt=s.prompt + s.report)
    return prefill_graph(m, whole)


def token_seconds(m: Model, s: Shape, machine: Machine, prompts: int, launches: bool) -> tuple[float, str]:
    """One decoding step of B reports that read the caches of `prompts` prompts, and what bounds it."""
    flop = forward(m, s.reports, 1, s.prompt + s.report / 2) + 2 * m.vocabulary * m.hidden * s.reports
    weights = (m.text + m.vocabulary * m.hidden) * m.size
    traffic = weights + (prompts * s.prompt + s.reports * s.report / 2) * m.cache
    bounds = {"arithmetic": flop / machine.tflops / 1e12, "traffic": traffic / machine.bandwidth / 1e9}
    if launches:
        bounds["launches"] = EAGER_LAYER * m.layers
    bound = max(bounds, key=lambda name: bounds[name])
    return bounds[bound], bound


def phase_seconds(
    m: Model, s: Shape, machine: Machine, flop: dict[str, float], prompts: int, steps: float, launches: bool
) -> dict[str, float]:
    """Seconds by phase; sampling takes `steps` decoding steps."""
    spent = {name: value / machine.tflops / 1e12 for name, value in flop.items()}
    return {**spent, "sample": steps * token_seconds(m, s, machine, prompts, launches)[0]}


def estimate(m: Model, s: Shape, lengths: dict[str, float], beta: float) -> dict:
    """Every figure of the page. s has the length limit; FLOP are of the mean length, sampling of the longest report."""
    mean = replace(s, report=round(lengths["mean"]))
    flop = {"ours": arithmetic(m, mean, 1, beta), "repeated": repeated_arithmetic(m, mean, beta)}
    prompts = {"ours": s.studies, "repeated": s.reports}
    steps = lengths["longest_of"]
    seconds, bounds = {}, {}
    for name, machine in machines().items():
        for way in flop:
            for launches in (True, False):
                label = f"{name}, {way}, {'eager' if launches else 'no launches'}"
                seconds[label] = phase_seconds(m, mean, machine, flop[way], prompts[way], steps, launches)
                bounds[label] = token_seconds(m, mean, machine, prompts[way], launches)[1]
    alive = sum(resident(m, s).values()) + 4 * m.adapter  # with the adapter's gradients
    return {
        "model": {name: getattr(m, name) for name in MODEL_SHOWN},
        "shape": {name: getattr(s, name) for name in SHAPE_SHOWN}, "mean_report": mean.report,
        "lengths": lengths, "beta": beta, "flop": flop, "seconds": seconds, "bounds": bounds,
        "linear_per_token": 2 * (m.text + m.adapter), "attention_per_pair": 4 * m.layers * m.queries,
        "cache_per_token": m.cache,
        "kept_per_token": m.layers * kept_by_layer(m, 2 * m.size * m.queries + m.size * s.prompt),
        "bytes": {
            "ours": {"cache": cache_bytes(m, s, s.studies), "kept": training_graph(m, s),
                     "peak": max(peaks(m, s).values())},
            "repeated": {"cache": cache_bytes(m, s, s.reports), "kept": repeated_graph(m, s),
                         "peak": alive + repeated_graph(m, s)},
        },
        "machines": {name: vars(machine) for name, machine in machines().items()},
        "sheets": SHEETS, "shares": [ARITHMETIC, TRAFFIC], "eager_layer": EAGER_LAYER,
    }  # fmt: skip


def training_graph(m: Model, s: Shape) -> float:
    """What autograd keeps of the N prompts and of one micro-batch of reports behind them."""
    terms = train(m, s)
    return terms[GRAPH] + terms["continuation activations"]


def reports_of_a_step() -> int:
    return step_shape(configuration(), VIEWS).reports


def configuration() -> Config:
    return load_config(CONFIG, [f"model.path={MODEL}"])


def planned(lengths: dict[str, float]) -> dict:
    """The estimate for CONFIG on MODEL."""
    config = configuration()
    return estimate(model_sizes(config), step_shape(config, VIEWS), lengths, config.grpo.beta)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="IU X-Ray in R2Gen's form: counts report lengths")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    lengths = json.loads(RESULTS.read_text(encoding="utf-8"))["lengths"] if not options.data else None
    result = planned(lengths or report_lengths(options.data, reports_of_a_step()))
    print(performance_page.on_paper(result))
    performance_page.keep(options.out, result)


if __name__ == "__main__":
    main()
