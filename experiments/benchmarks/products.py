"""How long the linear layers take, by the way in which they are multiplied: a CPU, fp32.

    python -m experiments.benchmarks.products        # two minutes; on an idle machine

All linear layers of the benchmark's text model and its projection, one after the other, so that weights come from where
they lie and not from the nearest cache. First as one token of every report has them: torch's own product, as it stands
and with the few rows as columns, and mrg_grpo.model.decoder.FusedLinear, each layer for itself ("packed") and those
of the same rows together ("joined", as sampling runs). Then as training has them, forward and backward with LoRA:
PEFT's layers, and those of mrg_grpo.model.lora. Last the projection of a picture's patches in the vision
tower, as the convolution it is written as and as one product. Rounds go through the ways in turn; the median counts.
Writes results/products.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from experiments.benchmarks import cases, performance_page
from mrg_grpo.model.decoder import FusedLinear
from mrg_grpo.model.lora import patch_lora

RESULTS = performance_page.RESULTS / "products.json"
LAYER = ((256, 256), (128, 256), (128, 256), (256, 256), (768, 256), (768, 256), (256, 768))
"""(out, in) of q, k, v, o, gate, up, down; experiments/benchmarks/cases.py has the model."""
SHAPES = (*LAYER * 6, (2048, 256))
JOINED = (slice(0, 3), slice(3, 4), slice(4, 6), slice(6, 7))
"""Which of LAYER read the same rows."""


def measure(rows: int, rounds: int) -> dict[str, float]:
    """Milliseconds for all layers, for `rows` rows."""
    layers = [nn.Linear(width, out, bias=False) for out, width in SHAPES]
    packed = [FusedLinear(layer) for layer in layers]
    groups = [layers[7 * n : 7 * n + 7][part] for n in range(6) for part in JOINED] + [layers[-1:]]
    joined = [(FusedLinear(*group), group[0].in_features) for group in groups]
    inputs = {width: torch.randn(rows, width) for width in (256, 768)}
    columns = {width: x.t().contiguous() for width, x in inputs.items()}
    ways = {
        "torch": lambda: [layer(inputs[layer.in_features]) for layer in layers],
        "columns": lambda: [layer.weight @ columns[layer.in_features] for layer in layers],
        "packed": lambda: [new(inputs[layer.in_features]) for new, layer in zip(packed, layers)],
        "joined": lambda: [new(inputs[width]) for new, width in joined],
    }
    with torch.no_grad():
        return medians(ways, rounds)


def measure_training(rows: int, rounds: int) -> dict[str, float]:
    """Milliseconds forward and backward of all layers with LoRA, for `rows` tokens."""
    layers = nn.ModuleList(nn.Linear(width, out, bias=False) for out, width in LAYER * 6)
    lora = LoraConfig(r=cases.LORA["r"], lora_alpha=cases.LORA["lora_alpha"], target_modules=r"\d+")
    slow = get_peft_model(layers, lora).eval()  # type: ignore[arg-type]
    quick = copy.deepcopy(slow)
    patch_lora(quick)
    inputs = {width: torch.randn(rows, width, requires_grad=True) for width in (256, 768)}

    def run(model: Any) -> None:
        for layer in model.base_model.model:
            layer(inputs[layer.in_features]).sum().backward()

    return medians({"peft": lambda: run(slow), "ours": lambda: run(quick)}, rounds)


def measure_patches(patches: int, rounds: int) -> dict[str, float]:
    """Milliseconds for the projection of `patches` patches of 14 x 14 pixels, two frames of three colours each."""
    slow = nn.Sequential(nn.Conv3d(3, 192, kernel_size=(2, 14, 14), stride=(2, 14, 14), bias=False))
    quick = copy.deepcopy(slow)
    patch_lora(quick)
    pixels = torch.randn(patches, 3, 2, 14, 14)
    with torch.no_grad():
        return medians({"convolution": lambda: slow(pixels), "product": lambda: quick(pixels)}, rounds)


def medians(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each way, taken in turn; the first tenth of the rounds warms up."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    return {way: 1e3 * statistics.median(values[rounds // 10 :]) for way, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--patches", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [{"rows": n, **measure(n, options.rounds)} for n in options.rows]
    tokens = [{"tokens": n, **measure_training(n, max(10, options.rounds // 10))} for n in options.tokens]
    patches = [{"patches": n, **measure_patches(n, max(10, options.rounds // 10))} for n in options.patches]
    for row in (*rows, *tokens, *patches):
        print({name: round(value, 2) for name, value in row.items()})
    performance_page.keep(
        RESULTS, {"threads": options.threads, "milliseconds": rows, "training": tokens, "patches": patches}
    )


if __name__ == "__main__":
    main()
