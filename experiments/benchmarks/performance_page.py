"""The tables and pictures of docs/results/performance.md, out of experiments/results/*.json.

    python -m experiments.benchmarks.performance_page        # from the stored results, without measuring anything anew

Each section stands between two markers of its name; a section whose result is not there stays as it is.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from experiments.docs import charts, sections
from experiments.docs.sections import markdown_table as table
from mrg_grpo.files import write_whole

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
PAGE = ROOT / "docs" / "results" / "performance.md"
FIXED = "group in fixed batches"
NAMES = {"group": "G, all reports sampled together", FIXED: "G, in batches of a fixed size", "prompt": "prompt tokens",
         "report": "report tokens", "vocabulary": "vocabulary"}  # fmt: skip


# ---- growth


def series(record: dict) -> dict[str, list[dict]]:
    """Axis -> its measured points in order, each with its value on the axis and the median of its seconds."""
    found = {}
    for axis, keys in record["axes"].items():
        rows = [record["points"][key] for key in keys if key in record["points"]]
        field = axis.split()[0]
        found[axis] = [{**row, "value": row[field], "median": statistics.median(row["seconds"])} for row in rows]
    return found


def at(rows: list[dict], value: int, field: str) -> float:
    return next(row[field] for row in rows if row["value"] == value)


def growth(record: dict) -> str:
    axes = series(record)
    ratio = at(axes["group"], 32, "median") / at(axes["group"], 8, "median")
    eight = at(axes[FIXED], 8, "alive_mib")
    largest = max(row["alive_mib"] / eight for row in axes[FIXED] if row["value"] > 8)
    parts = [
        f"{record['threads']} threads, {record['peak_gflops']:.0f} GFLOP/s in matrix products, "
        f"torch {record['torch']}.",
        "",
        f"* A step with G = 32 takes {ratio:.2f} times as long as one with G = 8.",
        f"* In batches of a fixed size, peak memory at G = 16, 32 and 64 is at most {largest:.3f} times that at G = 8.",
        "",
        "![Seconds of a step](images/growth_seconds.svg)",
        "",
        "![Peak memory of a step](images/growth_memory.svg)",
    ]
    phases = ("prefill", "sample", "reference", "train")
    for axis, rows in axes.items():
        header = [
            NAMES[axis],
            "seconds",
            *(f"{name} s" for name in phases),
            "peak MiB alive",
            "peak MiB in a run",
        ]
        cells = [
            [f"{row['value']:,}", f"{row['median']:.2f}", *(f"{row['phases'][name]:.2f}" for name in phases),
             f"{row['alive_mib']:.0f}", f"{row['peak_mib']:.0f}"] for row in rows
        ]  # fmt: skip
        parts += ["", table(header, cells)]
    return "\n".join(parts)


def growth_pictures(record: dict) -> dict[str, str]:
    """File name -> SVG."""
    axes = series(record)
    shown = {"G": ("group", FIXED), "prompt tokens": ("prompt",), "report tokens": ("report",),
             "vocabulary": ("vocabulary",)}  # fmt: skip

    def picture(title: str, phases: dict[str, Callable[[dict], float]]) -> str:
        panels = {}
        for panel, names in shown.items():
            curves = {}
            for axis in names:
                for name, value in phases.items():
                    label = f"{name}, in fixed batches" if axis == FIXED else name
                    curves[label] = [(float(row["value"]), value(row)) for row in axes[axis]]
            panels[f"against {panel}"] = curves
        return charts.lines(title, panels, x_name="", from_zero=True)

    step: dict[str, Callable[[dict], float]] = {"step": lambda row: row["median"]}
    alive: dict[str, Callable[[dict], float]] = {"peak above the loaded model": lambda row: row["alive_mib"]}
    return {
        "growth_seconds.svg": picture("Seconds of a step", step),
        "growth_memory.svg": picture("Peak memory of a step, MiB", alive),
    }


# ---- reward and start


def reward(record: dict) -> str:
    rows = [
        ["one report at a time, as f1chexbert", f"{record['one_by_one']:.2f}", "1"],
        ["batched, no reference labelled before", f"{record['cold']:.2f}", f"{record['cold_ratio']:.2f}"],
        ["batched, references labelled before", f"{record['warm']:.2f}", f"{record['warm_ratio']:.2f}"],
    ]
    return "\n".join(
        [
            f"{record['reports']} generated reports against {record['reports']} references, {record['tokens']:,} "
            f"tokens in all, the longest {record['longest']}; {record['threads']} threads, torch {record['torch']}; "
            f"medians of {len(record['rounds'])} rounds.",
            "",
            table(["texts to MCCS", "seconds", "speedup"], rows),
            "",
            f"* The arithmetic that these texts need ({record['gflop']:.0f} GFLOP, without padding) runs at "
            f"{record['share_of_peak']:.0%} of the machine's peak in matrix products, {record['peak_gflops']:.0f} "
            "GFLOP/s.",
            f"* From label ids to MCCS, {record['pairs']:,} pairs take {record['pairs_ms']:.1f} ms.",
            f"* Of {record['labels']:,} labels ({record['distinct']} different rows), {record['labels_that_differ']} "
            "differ between the two ways.",
        ]
    )


def start(record: dict) -> str:
    slowest = max(record["first_study"], record["slowest_of_random"])
    return "\n".join(
        [
            f"{record['threads']} threads, medians of {len(record['starts'])} starts.",
            "",
            table(
                ["from `mrg-grpo train experiments/phantom.toml` to", "seconds"],
                [
                    ["imports done (measured in a process of their own)", f"{record['imports']:.1f}"],
                    ["the first step begins", f"{record['first_step_began']:.1f}"],
                    ["the first step is done and logged", f"{record['first_step_ended']:.1f}"],
                ],
            ),
            "",
            f"* The {record['split']:,} built-in training studies with their reports are generated in "
            f"{record['split_seconds']:.2f} s. A report and its picture take at most {slowest:.3f} s.",
            f"* One thread draws {record['images_a_second']:.0f} pictures a second; the two threads that work ahead of "
            f"the step draw {record['images_a_second_ahead']:.0f}.",
        ]
    )


# ---- beside TRL


def beside_trl(record: dict) -> str:
    rows = [
        [f"({row['case']})", f"{row['beta']:g}", f"{row['our_seconds']:.2f}", f"{row['trl_seconds']:.2f}",
         f"{row['speed_ratio']:.2f}", f"{row['our_mib']:.0f}", f"{row['trl_mib']:.0f}", f"{row['memory_ratio']:.0%}",
         f"{row['gflop_needed'] / row['our_seconds'] / record['peak_gflops']:.0%}"]
        for row in record["rows"]
    ]  # fmt: skip
    header = ["case", "beta", "seconds", "TRL, seconds", "speedup", "peak MiB", "TRL, peak MiB", "memory of TRL's",
              "share of peak arithmetic"]  # fmt: skip
    names = list(record["rows"][0]["phases"])
    seconds = [
        [f"({row['case']})", f"{row['beta']:g}", *(f"{row['phases'].get(name, 0.0):.2f}" for name in names)]
        for row in record["rows"]
    ]
    return "\n\n".join(
        (
            f"{record['peak_gflops']:.0f} GFLOP/s in matrix products, {pairs(record['rows'])} pairs.",
            table(header, rows),
            "Seconds by phase:",
            table(["case", "beta", *names], seconds),
        )
    )


def products(record: dict) -> str:
    ways = {"torch": "torch's own", "columns": "rows as columns", "packed": "packed", "joined": "packed and joined"}
    rows = [
        [f"{row['rows']}", *(f"{row[way]:.2f} ms" for way in ways), f"{row['torch'] / row['joined']:.2f}"]
        for row in record["milliseconds"]
    ]
    head = ["reports written together", *ways.values(), "speedup, last over first"]
    training = two_ways(record["training"], "tokens", "peft")
    patches = two_ways(record["patches"], "patches", "convolution", "product")
    tables = (
        table(head, rows),
        table(["tokens trained together", "PEFT's layers", "ours", "speedup"], training),
        table(["patches projected", "convolution", "one product", "speedup"], patches),
    )
    return "\n\n".join([f"{record['threads']} threads.", *tables])


# ---- the 7B configuration, many GPUs, kills, MIMIC-CXR


def gpu_step(record: dict) -> str:
    names = ("prefill", "sample", "reference", "train", "step")
    cells = []
    for row in record["rows"]:
        title = f"`{Path(row['config']).name}`, {row['reports']} reports of {row['report_tokens']} tokens"
        planned = {**row["planned_seconds"], "step": sum(row["planned_seconds"].values())}
        for kind, memory, seconds in (("planned", row["planned_gb"], planned),
                                      ("measured", row["measured_gb"], row["measured_seconds"])):  # fmt: skip
            cells.append([title, kind, f"{memory:.1f}", *(f"{seconds[name]:.1f}" for name in names)])
    header = ["configuration", "", "peak GB", *(f"{name} s" for name in names)]
    return f"{record['card']}, torch {record['torch']}.\n\n{table(header, cells)}"


def plan_check(record: dict) -> str:
    rows = [
        [f"{row['studies']} x {row['group']} reports of {row['tokens']} tokens, micro-batch {row['micro']}"
         + (f", {row['held']} studies a pass" if "held" in row else "")
         + (f', recompute = "{row["recompute"]}"' if "recompute" in row else "")
         + (f', quantize = "{row["quantize"]}"' if "quantize" in row else ""),
         f"{row['planned'] / 1e6:,.0f}", f"{row['measured'] / 1e6:,.0f}", f"{row['ratio']:.3f}"]
        for row in record["settings"]
    ]  # fmt: skip
    return table(["setting", "planned MB", "measured MB", "planned / measured"], rows)


def scaling(record: dict) -> str:
    shards = [
        [ranks, f"{row['shards'][0]['sharded']:,}", f"{row['shards'][0]['whole']:,}"]
        for ranks, row in record["ranks"].items()
    ]
    paper = [
        [ranks, f"{row['gradient_bytes'] / 1e6:.0f}", f"{row['gradients']:.3f}", f"{row['small']:.3f}",
         f"{record['slowest_over_mean'][ranks]['decoding']:.2f}", f"{row['efficiency']:.0%}"]
        for ranks, row in record["on_paper"].items()
    ]  # fmt: skip
    lengths = record["lengths"]
    return "\n\n".join(
        (
            "Bytes of parameters on each rank with `model.shard = true`, built-in model, fp32, measured:",
            table(["ranks", "in shards", "whole (embeddings, norm, adapter)"], shards),
            f"Estimate for a 7B model, four studies of eight reports on each GPU; lengths of {lengths['reports']:,} "
            f"reports as sampled by the built-in model ({lengths['mean']:.0f} tokens on average, {lengths['longest']} "
            "at most):",
            table(["GPUs", "gradient MB sent by a rank", "seconds for them", "seconds for small exchanges",
                   "slowest rank over mean, sampling", "efficiency"], paper),
        )
    )  # fmt: skip


def kills(record: dict) -> str:
    phases = record["by_phase"]
    named = {"sample": "sampling", "between inner passes": "between inner passes", "checkpoint": "writing a checkpoint"}
    rest = record["kills"] - sum(phases[name] for name in named)
    cells = [str(record["kills"]), *(str(phases[name]) for name in named), str(rest), str(record["identical"])]
    return table(["kills", *named.values(), "elsewhere", "same bytes at the end"], [cells])


def soak(record: dict) -> str:
    first, last = record["reward_first_and_last_hundred"]
    return (
        f"{record['steps']:,} steps in {record['minutes']:.0f} minutes. Memory of the process grew by "
        f"{record['memory_growth']:.1%} from steps 101 to 200 to the last hundred; {record['skipped']:.0f} steps were "
        f"skipped; open files: {record['open_files_first_and_last'][0]} at the first and "
        f"{record['open_files_first_and_last'][1]} at the last step. Mean reward rose from {first:.3f} to {last:.3f}."
    )


def mimic(record: dict) -> str:
    rows = [
        [name, f"{row['seconds']:.1f}", f"{row['peak_mib_above_idle']:,}", f"{row['image_files_opened']}"]
        for name, row in record["load"].items()
    ]
    tree = record["tree"]
    size = f"{tree['subjects']:,} subjects, {tree['studies']:,} studies, {tree['images']:,} image files."
    return f"{size}\n\n{table(['form', 'seconds', 'peak MiB above idle', 'image files opened'], rows)}"


def two_ways(rows: list[dict], size: str, slow: str, quick: str = "ours") -> list[list[str]]:
    """Cells of rows that hold milliseconds of two ways: size, each way, how many times the second is as fast."""
    return [
        [f"{row[size]:,}", f"{row[slow]:.1f} ms", f"{row[quick]:.1f} ms", f"{row[slow] / row[quick]:.2f}"]
        for row in rows
    ]


def pairs(rows: list[dict]) -> str:
    """How many pairs each row has: "5", or "3 to 5"."""
    counts = sorted({row["pairs"] for row in rows})
    return " to ".join(str(count) for count in sorted({counts[0], counts[-1]}))


def four_bits(record: dict) -> str:
    rows = []
    for way, title in (("default", "default"), ("nf4", '`model.quantize = "nf4"`, `grpo.recompute = "all"`')):
        seconds, memory = (statistics.median(pair[way][name] for pair in record["pairs"]) for name in ("seconds", "gb"))
        f1, cosine, form = record[way].values()
        learned = [
            f"{statistics.mean(found['before']):.3f} -> {', '.join(f'{value:.3f}' for value in found['after'])}"
            for found in (f1, cosine, form)
        ]
        rows.append([title, *learned, f"{seconds:.2f}", f"{memory:.2f}"])
    header = ["", "micro F1, before -> after by seed", "clinical cosine", "wanted form", "seconds a step", "peak GB"]
    return table(header, rows)


SECTIONS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "products": ("products.json", products),
    "growth": ("growth.json", growth),
    "reward": ("reward.json", reward),
    "start": ("start.json", start),
    "beside TRL": ("step_against_trl.json", beside_trl),
    "gpu step": ("gpu_step.json", gpu_step),
    "plan check": ("plan_check.json", plan_check),
    "four bits": ("four_bits.json", four_bits),
    "scaling": ("scaling.json", scaling),
    "kills": ("kill_resume.json", kills),
    "soak": ("soak.json", soak),
    "mimic scale": ("mimic_scale.json", mimic),
}
"""Marker -> result file, and what makes the section of it."""


def write(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Rewrite every section whose result is there, and the pictures beside the page."""
    written = {}
    for name, (file, section) in SECTIONS.items():
        if (results / file).exists():
            record = json.loads((results / file).read_text(encoding="utf-8"))
            written[name] = section(record)
            if name == "growth":
                for picture, svg in growth_pictures(record).items():
                    charts.write(page.parent / "images" / picture, svg)
    sections.rewrite(page, written)


def keep(path: Path, result: dict) -> None:
    """The result file of a benchmark, and the page with it."""
    write_whole(path, json.dumps(result, indent=1) + "\n")
    write()


if __name__ == "__main__":
    write()
