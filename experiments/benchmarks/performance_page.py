"""The tables and pictures of docs/performance.md, out of experiments/results/*.json.

    python -m experiments.benchmarks.performance_page        # from the stored results, without measuring anything anew

Each section stands between two markers of its name; a section whose result is not there stays as it is. What is asked
of a figure (ASKED) is printed beside it, reached or not.
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
PAGE = ROOT / "docs" / "performance.md"
ASKED = {
    "G=32 in times of G=8": 3.2, "memory of any G in times of G=8": 1.05, "cold": 1.0, "warm": 1.8, "share": 0.6,
    "pairs ms": 15.0, "first step s": 20.0, "study s": 1.0, "of TRL's memory": 0.35,
}  # fmt: skip
FASTER = {"a": 5.0, "b": 8.0, "c": 2.5}
"""Times as fast as TRL, by case."""
FIXED = "group in fixed batches"
NAMES = {"group": "G, all reports sampled together", FIXED: "G, in batches of a fixed size", "prompt": "prompt tokens",
         "report": "report tokens", "vocabulary": "vocabulary"}  # fmt: skip


def verdict(value: float, limit: float, most: bool = True) -> str:
    """'asked: at most 3.2, reached'"""
    good = value <= limit if most else value >= limit
    return f"asked: {'at most' if most else 'at least'} {limit:g}, {'reached' if good else 'NOT reached'}"


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
        f"* A step with G = 32 takes {ratio:.2f} times one with G = 8 "
        f"({verdict(ratio, ASKED['G=32 in times of G=8'])}).",
        f"* In batches of a fixed size, peak memory at G = 16, 32 and 64 is at most {largest:.3f} times that at G = 8 "
        f"({verdict(largest, ASKED['memory of any G in times of G=8'])}).",
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
        ["one report at a time, as f1chexbert", f"{record['one_by_one']:.2f}", "1", ""],
        ["cold: nothing known", f"{record['cold']:.2f}", f"{record['cold_ratio']:.2f}",
         verdict(record["cold_ratio"], ASKED["cold"], most=False)],
        ["warm: references known", f"{record['warm']:.2f}", f"{record['warm_ratio']:.2f}",
         verdict(record["warm_ratio"], ASKED["warm"], most=False)],
    ]  # fmt: skip
    return "\n".join(
        [
            f"{record['reports']} generated reports against {record['reports']} references, {record['tokens']:,} "
            f"tokens in all, the longest {record['longest']}; {record['threads']} threads, torch {record['torch']}; "
            f"medians of {len(record['rounds'])} rounds.",
            "",
            table(["labels to MCCS", "seconds", "times as fast", ""], rows),
            "",
            f"* Cold, the arithmetic that these texts need ({record['gflop']:.0f} GFLOP, without padding) runs at "
            f"{record['share_of_peak']:.0%} of the machine's matrix-product peak of {record['peak_gflops']:.0f} "
            f"GFLOP/s ({verdict(record['share_of_peak'], ASKED['share'], most=False)}).",
            f"* From label ids to MCCS, {record['pairs']:,} pairs take {record['pairs_ms']:.1f} ms "
            f"({verdict(record['pairs_ms'], ASKED['pairs ms'])}).",
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
                ["from `mrg-grpo train experiments/phantom.toml` to", "seconds", ""],
                [
                    ["imports done (a process of their own)", f"{record['imports']:.1f}", ""],
                    ["the first step begins", f"{record['first_step_began']:.1f}",
                     verdict(record["first_step_began"], ASKED["first step s"])],
                    ["the first step is done and logged", f"{record['first_step_ended']:.1f}",
                     verdict(record["first_step_ended"], ASKED["first step s"])],
                ],
            ),
            "",
            f"* Phantom: the {record['split']:,} training studies with their reports are there after "
            f"{record['split_seconds']:.2f} s; report and picture of the first study take "
            f"{record['first_study']:.3f} s, of the slowest of {record['random']} random ones "
            f"{record['slowest_of_random']:.3f} s ({verdict(slowest, ASKED['study s'])}).",
            f"* {record['images_a_second']:.0f} pictures a second by one thread, {record['images_a_second_ahead']:.0f} "
            "by the two that work ahead of the step.",
        ]
    )  # fmt: skip


# ---- beside TRL


def beside_trl(record: dict) -> str:
    rows = [
        [f"({row['case']})", f"{row['beta']:g}", f"{row['our_seconds']:.2f}", f"{row['trl_seconds']:.2f}",
         f"{row['speed_ratio']:.2f}", verdict(row["speed_ratio"], FASTER[row["case"]], most=False),
         f"{row['our_mib']:.0f}", f"{row['trl_mib']:.0f}", f"{row['memory_ratio']:.2f}",
         verdict(row["memory_ratio"], ASKED["of TRL's memory"]),
         f"{row['gflop_needed'] / row['our_seconds'] / record['peak_gflops']:.0%}"]
        for row in record["rows"]
    ]  # fmt: skip
    header = ["case", "beta", "our s", "TRL's s", "times as fast", "", "our MiB", "TRL's MiB",
              "of its memory", "", "share of peak"]  # fmt: skip
    names = list(record["rows"][0]["phases"])
    seconds = [
        [f"({row['case']})", f"{row['beta']:g}", *(f"{row['phases'].get(name, 0.0):.2f}" for name in names)]
        for row in record["rows"]
    ]
    return "\n\n".join(
        (
            f"{record['peak_gflops']:.0f} GFLOP/s in matrix products, {pairs(record['rows'])} pairs.",
            table(header, rows),
            "Our seconds by phase:",
            table(["case", "beta", *names], seconds),
        )
    )


def products(record: dict) -> str:
    ways = {"torch": "torch's own", "columns": "rows as columns", "packed": "packed", "joined": "packed and joined"}
    rows = [
        [f"{row['rows']}", *(f"{row[way]:.2f} ms" for way in ways), f"{row['torch'] / row['joined']:.2f}"]
        for row in record["milliseconds"]
    ]
    head = ["reports written together", *ways.values(), "the last, times as fast as the first"]
    training = two_ways(record["training"], "tokens", "peft")
    patches = two_ways(record["patches"], "patches", "convolution", "product")
    tables = (
        table(head, rows),
        table(["tokens trained together", "PEFT's layers", "ours", "times as fast"], training),
        table(["patches projected", "convolution", "one product", "times as fast"], patches),
    )
    return "\n\n".join([f"{record['threads']} threads.", *tables])


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


SECTIONS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "products": ("products.json", products),
    "growth": ("growth.json", growth),
    "reward": ("reward.json", reward),
    "start": ("start.json", start),
    "beside TRL": ("step_against_trl.json", beside_trl),
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
