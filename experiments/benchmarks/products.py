"""How long one token takes in the linear layers, by the way in which they are multiplied: a CPU, fp32.

    python -m experiments.benchmarks.products        # a minute; on an idle machine

All linear layers of the benchmark's text model and its projection, one after the other as in sampling, so that weights
come from where they lie and not from the nearest cache. "Packed" is mrg_grpo.decoder.MergedLinear; the others are
torch's own product, as it stands and with the few rows as columns. Rounds go through the ways in turn; the median
counts. Writes results/products.json.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from experiments.benchmarks import performance_page
from mrg_grpo.decoder import MergedLinear

RESULTS = performance_page.RESULTS / "products.json"
LAYER = ((256, 256), (128, 256), (128, 256), (256, 256), (768, 256), (768, 256), (256, 768))
"""(out, in) of q, k, v, o, gate, up, down; experiments/benchmarks/cases.py has the model."""
SHAPES = (*LAYER * 6, (2048, 256))


def measure(rows: int, rounds: int) -> dict[str, float]:
    """Milliseconds for all layers, for `rows` rows."""
    layers = [nn.Linear(width, out, bias=False) for out, width in SHAPES]
    packed = [MergedLinear(layer) for layer in layers]
    inputs = {width: torch.randn(rows, width) for width in (256, 768)}
    columns = {width: x.t().contiguous() for width, x in inputs.items()}
    ways = {
        "torch": lambda: [layer(inputs[layer.in_features]) for layer in layers],
        "columns": lambda: [layer.weight @ columns[layer.in_features] for layer in layers],
        "packed": lambda: [new(inputs[layer.in_features]) for new, layer in zip(packed, layers)],
    }
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
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        rows = [{"rows": n, **measure(n, options.rounds)} for n in options.rows]
    for row in rows:
        print({name: round(value, 2) for name, value in row.items()})
    performance_page.keep(RESULTS, {"threads": options.threads, "milliseconds": rows})


if __name__ == "__main__":
    main()
