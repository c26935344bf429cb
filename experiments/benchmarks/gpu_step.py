"""Steps of the 7B policy on this machine's GPU: seconds by phase and peak memory, beside `mrg-grpo plan` and TRL.

    python -m experiments.benchmarks.gpu_step experiments/iu_xray.toml experiments/iu_xray_24gb.toml
    python -m experiments.benchmarks.gpu_step experiments/iu_xray.toml --peer       # TRL's step too, and the ratio
    python -m experiments.benchmarks.gpu_step experiments/iu_xray.toml --growth     # G = 8 to 64, N = 4 to 32

No checkpoint is needed: the architecture is that of experiments/huatuo_7b/config.json, weights are drawn, tokenizer and
image processor are the embedded ones. So a report means nothing and never ends: every one runs to
`sampling.max_tokens`, as in the plan's worst case; images are as large as `data.max_pixels` lets them be, two a study.
The reward is a hash of the text, so that groups have spread; the labeler is a stub. Every row takes a few whole GRPO
steps in a process of its own. Memory is the most that PyTorch had given out, seconds are the median of the steps after
the first.

TRL (GRPOTrainer, transformers' generate) has the same weights, pictures, question, lengths, LoRA, dtype and
micro-batch. The pictures are of one size then, since TRL 1.16 fails on such prompts of several lengths. It needs trl,
datasets and a torchvision that fits the torch; .venv-bench of `make bench` has them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results" / "gpu_step.json"
IMAGE = (420, 616)
"""330 tokens, of the 334 that 262,144 pixels can be; smaller where max_pixels is."""
MODEL = "experiments/huatuo_7b"
ALIKE = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id")
"""Ids that the embedded tokenizer has otherwise."""
GROWTH = [[f"grpo.group_size={g}", "grpo.studies_per_step=4"] for g in (8, 16, 32, 64)] + [
    [f"grpo.studies_per_step={n}", f"grpo.studies_per_pass={min(n, 4)}"] for n in (4, 8, 16, 32)
]


def write_model(folder: Path, model: str, device: str) -> None:
    """Drawn bf16 weights of this config.json, beside the embedded tokenizer and image processor."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from mrg_grpo.embedded import base_path

    shutil.copytree(base_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config, embedded = AutoConfig.from_pretrained(model), AutoConfig.from_pretrained(base_path())
    for name in ALIKE:
        if hasattr(embedded, name):
            setattr(config, name, getattr(embedded, name))
    config.dtype = torch.bfloat16
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        drawn = AutoModelForImageTextToText.from_config(config)
    torch.set_default_dtype(torch.float32)
    drawn.save_pretrained(folder)


def draw_pictures(folder: Path, steps: int, studies: int, even: bool = False) -> list[list[list[str]]]:
    """For each step and study the paths of two pictures; prompts are of two lengths, or of one where they are even."""
    from PIL import Image

    drawn = random.Random(0)
    whole = []
    for step in range(steps):
        whole.append([[str(folder / f"{step}-{n}-{view}.png") for view in range(2)] for n in range(studies)])
        for n, names in enumerate(whole[-1]):
            for view, name in enumerate(names):
                height, width = IMAGE if even or n + view else (IMAGE[0] - 28, IMAGE[1])
                Image.frombytes("L", (width, height), drawn.randbytes(width * height)).save(name)
    return whole


def configuration(folder: str, path: str, changes: list[str], device: str) -> Any:
    from mrg_grpo.config import load_config

    config = load_config(path, changes)
    config.model.path, config.model.device, config.model.dtype = folder, device, "bfloat16"
    config.reward.weights = {"experiments.benchmarks.cases:spread_reward": 1.0}
    return config


def measure(folder: str, path: str, changes: list[str], steps: int, device: str, even: bool = False) -> dict[str, Any]:
    """Our steps of one configuration in this process."""
    import torch

    from mrg_grpo.data.study import Study
    from mrg_grpo.grpo import Grpo
    from mrg_grpo.model.policy import Policy
    from mrg_grpo.preflight import footprint, hours, plan
    from mrg_grpo.rewards import Rewards

    labeler: Any = SimpleNamespace(
        device=torch.device(device),
        label=lambda reports: torch.zeros(len(reports), 14, dtype=torch.long, device=device),
    )
    config = configuration(folder, path, changes, device)
    policy = Policy.load(config)
    policy.stop_ids = [-1]  # no report ends before the limit
    grpo = Grpo(config, policy, Rewards(config.reward, labeler, config.prompt.think))
    metrics = []
    with tempfile.TemporaryDirectory() as images:
        drawn = draw_pictures(Path(images), steps, config.grpo.studies_per_step, even)
        for step, studies in enumerate(drawn, 1):
            group = [Study(f"{step}-{n}", tuple(p), "No pneumothorax.", "train") for n, p in enumerate(studies)]
            prompts = policy.encoder.encode(group).to(policy.device)
            metrics.append(grpo.step(prompts, step).metrics)
            seconds, memory = metrics[-1]["seconds/step"], metrics[-1]["memory_gb"]
            print(f"step {step}: {seconds:.2f} s, {memory:.2f} GB", file=sys.stderr)
    sizes, shape, machine = plan.model_sizes(config), plan.step_shape(config, 2), footprint.Machine()
    full = hours.arithmetic(sizes, shape, config.grpo.inner_passes, config.grpo.beta)
    planned = {name: flop / machine.tflops / 1e12 for name, flop in full.items()}
    planned["sample"] = hours.seconds(sizes, shape, machine, config.grpo.inner_passes, config.grpo.beta)["sample"]
    peaks = footprint.peaks(sizes, shape, config.grpo.beta)
    peaks.pop("evaluate")  # nothing is evaluated here
    phases = [name for name in metrics[-1] if name.startswith("seconds/")]
    measured = {name.removeprefix("seconds/"): statistics.median(one[name] for one in metrics[1:]) for name in phases}
    return {
        "engine": "ours",
        "config": path,
        "changes": changes,
        "prompt_tokens": max(prompts.lengths),
        "reports": shape.reports,
        "report_tokens": shape.report,
        "measured_gb": metrics[-1]["memory_gb"],
        "planned_gb": round((max(peaks.values()) - sizes.size // 2 * 4 * footprint.BERT) / 1e9, 2),  # no labeler here
        "measured_seconds": measured,
        "planned_seconds": {name: round(seconds, 3) for name, seconds in planned.items()},
        "token_ms": 1e3 * measured["sample"] / shape.report,
        "traffic_ms": 1e3 * hours.traffic(sizes, shape, shape.sampled) / machine.bandwidth / 1e9,
        "sampling_gap": max(one["sampling_gap"] for one in metrics),
        "sampling_gap_mean": statistics.mean(one["sampling_gap_mean"] for one in metrics),
        "entropy": metrics[0]["entropy"],
    }


def measure_peer(folder: str, path: str, changes: list[str], steps: int, device: str, even: bool) -> dict[str, Any]:
    """TRL's steps of the same configuration in this process."""
    from experiments.benchmarks import peer
    from mrg_grpo.model.families.base import Family
    from mrg_grpo.prompt import question

    config = configuration(folder, path, changes, device)
    grpo, names = config.grpo, config.lora.targets or Family.default_targets
    with tempfile.TemporaryDirectory() as images:
        drawn = draw_pictures(Path(images), steps, grpo.studies_per_step, even)
        setting = peer.Setting(
            checkpoint=Path(folder), pictures=[paths for step in drawn for paths in step],
            question=question(config.prompt.text, config.prompt.think), group=grpo.group_size,
            studies=grpo.studies_per_step, tokens=config.sampling.max_tokens, beta=grpo.beta, rate=grpo.learning_rate,
            lora={"r": config.lora.rank, "lora_alpha": config.lora.alpha,
                  "target_modules": Family.lora_pattern.format(targets="|".join(names))},
            micro_batch=min(grpo.micro_batch, grpo.studies_per_step * grpo.group_size),
            max_pixels=config.data.max_pixels, device=device,
        )  # fmt: skip
        return {"config": path, "changes": changes, **peer.measure_setting(setting, steps)}


def line(row: dict[str, Any]) -> str:
    """A measured row in words."""
    seconds = ", ".join(f"{name} {spent:.2f}" for name, spent in row["measured_seconds"].items())
    words = f"{row['engine']} {row['config']} {' '.join(row['changes'])}: {seconds} s; {row['measured_gb']:.2f} GB"
    if "ratio" in row:
        return f"{words}; our step is {row['ratio']:.2f} times as fast, with {row['memory_ratio']:.2f} of the memory"
    share = row["traffic_ms"] / row["token_ms"]
    return f"{words}; a token {row['token_ms']:.1f} ms, of which weights and caches alone {share:.0%} (planned traffic)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", default=MODEL, help="a folder with config.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peer", action="store_true", help="TRL's step too")
    parser.add_argument("--growth", action="store_true", help="more reports a study and more studies a step")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="a setting changed in all of them")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "FOLDER"), help="measure in this process, these weights")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.one:
        engine = {"ours": measure, "peer": measure_peer}[given.one[0]]
        found = engine(given.one[1], given.configs[0], given.changes, given.steps, given.device, given.peer)
        print(json.dumps(found))
        return
    import torch

    cuda = given.device == "cuda"
    record: dict[str, Any] = {
        "command": f"python -m experiments.benchmarks.gpu_step {' '.join(sys.argv[1:])}",
        "card": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_model(folder, given.model, given.device)
        if cuda:
            torch.cuda.empty_cache()

        def run(engine: str, path: str, changes: list[str]) -> dict[str, Any]:
            words = [w for change in changes for w in ("--set", change)]
            command = [sys.executable, "-m", "experiments.benchmarks.gpu_step", path, "--one", engine, str(folder)]
            command += [*words, "--steps", str(given.steps), "--device", given.device]
            command += ["--peer"] if given.peer else []
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            return json.loads(done.stdout.splitlines()[-1])

        for path in given.configs:
            for more in [[], *(GROWTH if given.growth else [])]:
                ours = run("ours", path, given.changes + more)
                record["rows"].append(ours)
                print(line(ours), flush=True)
                if given.peer and not more:
                    theirs = run("peer", path, given.changes)
                    theirs["ratio"] = theirs["measured_seconds"]["step"] / ours["measured_seconds"]["step"]
                    theirs["memory_ratio"] = ours["measured_gb"] / theirs["measured_gb"]
                    record["rows"].append(theirs)
                    print(line(theirs), flush=True)
                given.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
