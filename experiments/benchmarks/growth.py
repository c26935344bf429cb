"""How our step grows: seconds and peak memory against group size, prompt, report and vocabulary.

    python -m experiments.benchmarks.growth             # goes on where it stopped; --again begins anew

The model of the benchmark (see `cases`), one study, G = 8 reports of 128 tokens behind a prompt of 512, vocabulary
2,048, beta 0.04 (so that the reference runs too), reports of a forced length, and one of these changed at a time. G is
changed twice: with all reports sampled together, the fastest, and with sampling and training in batches of a fixed
size, where memory must not grow. Each point is a process of its own: one step to warm up, then the median of some.
Memory is the peak of the resident set minus what it was when the model was loaded, in a second process in which glibc
hands freed memory back at once, so that the resident set is what is alive; as in a run, which keeps what was freed for
the next step, that is in the peak too, and this number stands beside it. Each point is kept in results/growth.json as
soon as it is measured; `performance_page` makes docs/results/performance.md of it.

A prompt of P tokens is the largest square picture that leaves room for the question, and then text.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import isqrt
from pathlib import Path

import torch

from experiments.benchmarks import cases, ours, performance_page
from experiments.benchmarks.step_against_trl import MICRO_BATCH, peak_gflops, run
from mrg_grpo.data.study import Study
from mrg_grpo.files import write_whole
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.run.process import settle_heap

RESULTS = performance_page.RESULTS / "growth.json"
BETA = 0.04
QUESTION_TEXT = "Report."
QUESTION = 35
"""Tokens around the picture: the chat's own and a short question's."""
SAMPLED = 8
"""Reports sampled together where the batches are of a fixed size; MICRO_BATCH of them train together."""


@dataclass(frozen=True)
class Point:
    """One setting; sampled 0 is all reports of the step together."""

    group: int = 8
    prompt: int = 512
    report: int = 128
    vocabulary: int = 2048
    sampled: int = 0


AXES = {
    "group": [Point(group=g) for g in (2, 4, 8, 16, 32, 64)],
    "group in fixed batches": [Point(group=g, sampled=SAMPLED) for g in (2, 4, 8, 16, 32, 64)],
    "prompt": [Point(prompt=p) for p in (64, 128, 256, 512, 1024, 2048)],
    "report": [Point(report=t) for t in (32, 64, 128, 256, 512)],
    "vocabulary": [Point(vocabulary=v) for v in (2048, 8192, 32768, 151936)],
}
QUICK = {
    "group": [Point(group=g, prompt=96, report=16) for g in (2, 4)],
    "vocabulary": [Point(group=2, prompt=96, report=16, vocabulary=v) for v in (2048, 4096)],
}


def side(prompt: int) -> int:
    """Pixels of the largest square picture that leaves room for the question: a token is 28 x 28 of them."""
    return 28 * isqrt(prompt - QUESTION)


def lengthened(batch: PromptBatch, prompt: int) -> PromptBatch:
    """The prompt with the end of its question, a full stop, repeated until it has `prompt` tokens."""
    ids, missing = batch.input_ids, prompt - batch.input_ids.shape[1]
    if missing < 0:
        raise ValueError(f"a prompt of {prompt} tokens has no room for its {ids.shape[1]}")
    stop = ids[:, -9:-8].expand(-1, missing)
    mask = torch.ones(len(ids), prompt, dtype=batch.attention_mask.dtype)
    longer = torch.cat([ids[:, :-8], stop, ids[:, -8:]], dim=1)
    return replace(batch, input_ids=longer, attention_mask=mask, lengths=[], positions=None, rope_deltas=None)


def hand_back_freed_memory() -> None:
    """From here on glibc maps every block above 64 KiB by itself and unmaps it when it is freed."""
    libc = ctypes.CDLL("libc.so.6")
    for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc.mallopt(parameter, 65536)


def measure(point: Point, checkpoint: Path, images: Path, steps: int) -> dict:
    """One point in this process: seconds of each timed step, median seconds of each phase, peak MiB."""
    case = cases.Case("growth", 1, side(point.prompt), point.group, 1, point.report)
    config = ours.configuration(case, checkpoint, BETA, MICRO_BATCH)
    config.sampling.batch, config.prompt.text, config.prompt.think = point.sampled, QUESTION_TEXT, False
    grpo = ours.build(config)
    paths = cases.pictures(case, images, steps + 1)
    before = cases.rss_mib()
    cases.reset_peak()
    studies = [[Study(str(number), tuple(pictures), "", "train")] for number, pictures in enumerate(paths)]
    batches = [grpo.policy.encoder.encode(study) for study in studies]  # not in the step's time: pictures do not grow
    seconds, phases = ours.timed_steps(
        grpo, [lambda batch=batch: lengthened(batch, point.prompt) for batch in batches], point.report
    )
    return {
        "seconds": seconds[1:],  # the first one warms up
        "phases": {name: round(spent, 4) for name, spent in phases.items()},
        "peak_mib": round(cases.rss_mib("VmHWM") - before, 1),
    }


def key(point: Point) -> str:
    return " ".join(f"{name}={value}" for name, value in asdict(point).items())


def points(axes: dict[str, list[Point]]) -> Iterator[Point]:
    """Every point once."""
    return iter(dict.fromkeys(point for axis in axes.values() for point in axis))


def collect(axes: dict[str, list[Point]], record: dict, folder: Path, steps: int, out: Path) -> dict:
    """Measure the points that the record lacks, each in a process of its own, and keep it after each."""
    threads = record["threads"]
    for point in points(axes):
        if key(point) in record["points"]:
            continue
        checkpoint = folder / f"model-{point.vocabulary}"
        if not checkpoint.exists():
            cases.write_checkpoint(checkpoint, point.vocabulary)
        arguments = ["--point", json.dumps(asdict(point)), "--checkpoint", str(checkpoint)]
        arguments += ["--images", str(folder / "images")]
        row = run("growth", [*arguments, "--steps", str(steps)], threads)
        alive = run("growth", [*arguments, "--steps", "1", "--memory"], threads)["peak_mib"]
        record["points"][key(point)] = {**asdict(point), **row, "alive_mib": alive}
        print(f"{key(point)}: {statistics.median(row['seconds']):.2f} s, {alive:.0f} MiB", flush=True)
        write_whole(out, json.dumps(record, indent=1) + "\n")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a point, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure every point anew")
    parser.add_argument("--quick", action="store_true", help="four small points, nothing is written to the page")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.point:
        hand_back_freed_memory() if options.memory else settle_heap()
        point = Point(**json.loads(options.point))
        print(json.dumps(measure(point, options.checkpoint, options.images, options.steps)))
        return
    record = {"threads": options.threads, "torch": torch.__version__, "steps": options.steps, "points": {}}
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            collect(QUICK, record, Path(folder), 1, Path(folder) / "growth.json")
            return
        if options.out.exists() and not options.again:
            record = json.loads(options.out.read_text(encoding="utf-8"))
        record["peak_gflops"] = peak_gflops(options.threads)
        record["axes"] = {axis: [key(point) for point in wanted] for axis, wanted in AXES.items()}
        collect(AXES, record, Path(folder), options.steps, options.out)
    performance_page.write()


if __name__ == "__main__":
    main()
