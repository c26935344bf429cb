"""Kill runs with SIGKILL, resume them, hold what they leave against a run that was never stopped.

    python experiments/checks/kill_resume.py --kills 200 -o experiments/results/kill_resume.json

A small setting of the embedded default on one thread: five steps of two inner passes, a checkpoint every second step
and at the end, validation, followed studies. The run is the real command in a forked process (imports and the data set,
which take longest, are the parent's). Every second kill comes at a random moment of the run's life; the others wait for
the phase that was hit least and come at a random moment of it. A run is killed `--chain` times, each time resumed and
killed again, then resumed to its end. Then every file must be the same to the last byte, but for seconds and memory in
metrics.jsonl and the folder's name in config.toml.

Which phase a kill hit is read after it, from a byte in memory shared with the killed process: the phase timer and
save_checkpoint are wrapped here to write it. "between inner passes" is from the first optimiser step of a step to its
last.
"""

from __future__ import annotations

import argparse
import functools
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process has no threads of its parent's
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

import mrg_grpo.data.phantom.dataset as phantom
import mrg_grpo.train as train
from mrg_grpo.cli import main
from mrg_grpo.config import load_config
from mrg_grpo.labelers import config_labeler
from mrg_grpo.model.policy import Policy
from mrg_grpo.step_metrics import PhaseTimer

CONFIG = Path(__file__).resolve().parents[1] / "phantom.toml"
SETTINGS = [
    "run.steps=5", "run.save_every=2", "run.eval_every=2", "run.rollouts_every=1", "run.test_studies=2",
    "run.eval_studies=2", "run.follow_studies=2", "grpo.studies_per_step=2", "grpo.group_size=2",
    "grpo.inner_passes=2", "sampling.max_tokens=16",
]  # fmt: skip
PHASES = ("other", "prefill", "sample", "reward", "reference", "train", "between inner passes", "checkpoint")
NAMED = ("sample", "between inner passes", "checkpoint")


def mark_phases(board: mmap.mmap) -> None:
    """Wrap what begins and ends a phase, in this process, to write the phase's place in PHASES to board[0]."""
    timer, save = PhaseTimer.__call__, train.save_checkpoint

    @contextmanager
    def marked(self: PhaseTimer, phase: str):
        second = phase == "train" and "train" in self.seconds
        board[0] = PHASES.index("between inner passes" if second else phase)
        with timer(self, phase):
            yield
        board[0] = 0

    def saving(*arguments):
        board[0] = PHASES.index("checkpoint")
        result = save(*arguments)
        board[0] = 0
        return result

    PhaseTimer.__call__, train.save_checkpoint = marked, saving  # type: ignore[method-assign, assignment]


def launch(folder: Path, board: mmap.mmap) -> int:
    """`mrg-grpo train CONFIG --resume` into `folder` in a forked process -> its id."""
    board[0] = 0
    child = os.fork()
    if child:
        return child
    output = os.open(printed(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    torch.set_num_threads(1)  # makes torch's pool anew after the fork, before two threads that load weights both try
    mark_phases(board)
    settings = [part for setting in [*SETTINGS, f"run.output_dir={folder}"] for part in ("--set", setting)]
    try:
        code = main(["train", str(CONFIG), *settings, "--resume"])
    except BaseException:  # the child must not go on in its parent's code, whatever happened
        traceback.print_exc()
        code = 1
    os._exit(code)


def printed(folder: Path) -> Path:
    """Where the latest process of a run prints: beside its folder, for what lies inside is compared."""
    return folder.with_name(f"{folder.name}.log")


def ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] != 0


def whole(folder: Path, board: mmap.mmap) -> Counter[str]:
    """A run to its end -> seconds it spent in each phase."""
    spent: Counter[str] = Counter()
    child, last = launch(folder, board), time.monotonic()
    while not ended(child):
        time.sleep(0.001)
        now = time.monotonic()
        spent[PHASES[board[0]]] += now - last
        last = now
    if not (folder / "evaluation.json").is_file():
        last_words = printed(folder).read_text(errors="replace")[-2000:]
        raise SystemExit(f"the run in {folder} did not come to its end; it printed last:\n{last_words}")
    return spent


def strike(child: int, board: mmap.mmap, delay: float, phase: str | None) -> str | None:
    """Kill the child `delay` seconds from now, or from its next entry into `phase` -> the phase it died in.

    None if it had come to its end before.
    """
    while phase is not None and PHASES[board[0]] != phase:
        if ended(child):
            return None
        time.sleep(0.0005)
    until = time.monotonic() + delay
    while time.monotonic() < until:
        if ended(child):
            return None
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return PHASES[board[0]] if os.WIFSIGNALED(status) else None


def timeless(path: Path, folder: Path) -> bytes:
    """A file's content, without seconds, memory and the name of the run's folder."""
    content = path.read_bytes()
    if path.name == "config.toml":
        return content.replace(str(folder).encode(), b"FOLDER")
    if path.name != "metrics.jsonl":
        return content
    records = [json.loads(line) for line in content.decode().split("\n")[:-1]]
    kept = [{k: v for k, v in r.items() if not k.startswith(("seconds", "memory"))} for r in records]
    return json.dumps(kept).encode()


def differences(straight: Path, other: Path) -> list[str]:
    """Names of files that differ, or that only one of two runs has. Temporary files of a kill begin with a dot."""
    names = [
        {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.relative_to(run).parts[0][0] != "."}
        for run in (straight, other)
    ]
    differ = [n for n in names[0] & names[1] if timeless(straight / n, straight) != timeless(other / n, other)]
    return sorted([*(names[0] ^ names[1]), *differ])


def rehearse() -> None:
    """Imports, the data set, and what the first use of a model loads: once, in the parent."""
    torch.set_num_threads(1)
    phantom.load = functools.cache(phantom.load)  # type: ignore[assignment]
    config = load_config(CONFIG)
    train.load_splits(config)
    policy = Policy.load(config)
    policy.model.save_pretrained(tempfile.mkdtemp())
    config_labeler(config).label(["clear"])


def kill_and_compare(
    kills: int, least: int, chain: int, seed: int, scratch: Path
) -> tuple[list[dict[str, object]], float]:
    """`kills` kills or more, `least` or more in each of NAMED -> a record of each, and a whole run's seconds."""
    chance, board = random.Random(seed), mmap.mmap(-1, 1)
    straight = scratch / "straight"
    spent = whole(straight, board)
    life = sum(spent.values())
    entries = {"sample": 5, "between inner passes": 5, "checkpoint": 3}
    done: list[dict[str, object]] = []
    hits: Counter[str] = Counter()
    run = 0
    while len(done) < kills or min(hits[phase] for phase in NAMED) < least:
        run += 1
        folder = scratch / f"run{run}"
        mine: list[dict[str, object]] = []
        for turn in range(chain):
            phase = min(NAMED, key=lambda name: hits[name]) if turn % 2 else None
            delay = chance.uniform(0, spent[phase] / entries[phase] if phase else life)
            hit = strike(launch(folder, board), board, delay, phase)
            if hit:
                hits[hit] += 1
                mine.append({"run": run, "phase": hit, "aimed": phase is not None})
        whole(folder, board)
        differ = differences(straight, folder)
        done += [{**record, "differs": differ} for record in mine]
        print(f"{len(done)} kills, {sum(not r['differs'] for r in done)} of them came to the same end", flush=True)
        shutil.rmtree(folder)
    return done, life


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--least", type=int, default=3, help="kills in each of the named phases")
    parser.add_argument("--chain", type=int, default=4, help="kills of one run before it may come to its end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rehearse()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        done, life = kill_and_compare(arguments.kills, arguments.least, arguments.chain, arguments.seed, Path(scratch))
    by_phase = Counter(str(record["phase"]) for record in done)
    result = {
        "kills": len(done),
        "identical": sum(not record["differs"] for record in done),
        "by_phase": dict(by_phase.most_common()),
        "runs": len({record["run"] for record in done}),
        "differing": [record for record in done if record["differs"]],
        "seconds_of_a_whole_run": round(life, 2),
        "seconds": round(time.monotonic() - started),
        "command": "python experiments/checks/kill_resume.py " + " ".join(sys.argv[1:]),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if result["identical"] == result["kills"] else 1


if __name__ == "__main__":
    sys.exit(run())
