"""Steps of the 7B policy on this machine's GPU, held against `mrg-grpo plan`.

    python experiments/benchmarks/gpu_step.py experiments/iu_xray.toml experiments/iu_xray_24gb.toml

No checkpoint is needed: the architecture is that of experiments/huatuo_7b/config.json, weights are drawn, tokenizer and
image processor are the embedded ones. So a report means nothing and never ends: every one runs to
`sampling.max_tokens`, as in the plan's worst case; images are as large as `data.max_pixels` lets them be, two a study.
Rewards are drawn too, since groups without spread would not be trained on; the labeler is a stub. Every configuration
takes a few whole GRPO steps in a process of its own. Memory is the most that PyTorch had given out, seconds are the
median of the steps after the first.
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

IMAGE = (420, 616)
"""330 tokens, of the 334 that 262,144 pixels can be; smaller where max_pixels is."""
MODEL = "experiments/huatuo_7b"
ALIKE = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id")
"""Ids that the embedded tokenizer has otherwise."""


def luck(completions: list[str], **columns: Any) -> list[float]:
    """A reward that groups differ in."""
    drawn = random.Random(columns["study_id"][0])
    return [drawn.random() for _ in completions]


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


def measure(folder: str, path: str, steps: int, device: str) -> dict[str, Any]:
    """Steps of one configuration in this process."""
    import torch
    from PIL import Image

    from mrg_grpo.config import load_config
    from mrg_grpo.data.study import Study
    from mrg_grpo.grpo import Grpo
    from mrg_grpo.model.policy import Policy
    from mrg_grpo.preflight import footprint, plan
    from mrg_grpo.rewards import Rewards

    labeler: Any = SimpleNamespace(
        device=torch.device(device),
        label=lambda reports: torch.zeros(len(reports), 14, dtype=torch.long, device=device),
    )
    config = load_config(path)
    config.model.path, config.model.device, config.model.dtype = folder, device, "bfloat16"
    config.reward.weights = {"gpu_step:luck": 1.0}
    policy = Policy.load(config)
    policy.stop_ids = [-1]  # no report ends before the limit
    grpo = Grpo(config, policy, Rewards(config.reward, labeler, config.prompt.think))
    drawn, metrics = random.Random(0), []
    with tempfile.TemporaryDirectory() as images:
        for step in range(1, steps + 1):
            studies = []
            for n in range(config.grpo.studies_per_step):
                names = []
                for view in range(2):
                    name = f"{images}/{step}-{n}-{view}.png"
                    height, width = IMAGE if n + view else (IMAGE[0] - 28, IMAGE[1])  # prompts of two lengths
                    Image.frombytes("L", (width, height), drawn.randbytes(width * height)).save(name)
                    names.append(name)
                studies.append(Study(f"{step}-{n}", tuple(names), "No pneumothorax.", "train"))
            prompts = policy.encoder.encode(studies).to(policy.device)
            metrics.append(grpo.step(prompts, step).metrics)
            print(
                f"step {step}: {metrics[-1]['seconds/step']:.2f} s, {metrics[-1]['memory_gb']:.2f} GB", file=sys.stderr
            )
    sizes, shape = plan.model_sizes(config), plan.step_shape(config, 2)
    machine = footprint.Machine()
    half = footprint.seconds(sizes, shape, machine, config.grpo.inner_passes, config.grpo.beta)
    whole = {
        name: flop / machine.tflops / 1e12
        for name, flop in footprint.arithmetic(sizes, shape, config.grpo.inner_passes, config.grpo.beta).items()
    }
    peaks = footprint.peaks(sizes, shape, config.grpo.beta)
    peaks.pop("evaluate")  # nothing is evaluated here
    phases = [name for name in metrics[-1] if name.startswith("seconds/")]
    return {
        "config": path,
        "prompt_tokens": int(prompts.attention_mask.sum(dim=1).max()),
        "reports": shape.reports,
        "report_tokens": shape.report,
        "measured_gb": metrics[-1]["memory_gb"],
        "planned_gb": round((max(peaks.values()) - sizes.size // 2 * 4 * footprint.BERT) / 1e9, 2),  # no labeler here
        "measured_seconds": {
            name.removeprefix("seconds/"): statistics.median(one[name] for one in metrics[1:]) for name in phases
        },
        "planned_seconds": {name: round(whole[name] if name != "sample" else half[name], 3) for name in whole},
        "sampling_gap": max(one["sampling_gap"] for one in metrics),
        "sampling_gap_mean": statistics.mean(one["sampling_gap_mean"] for one in metrics),
        "entropy": metrics[0]["entropy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", default=MODEL, help="a folder with config.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--one", help="measure in this process, with the weights in this folder")
    parser.add_argument("-o", "--output", type=Path, default=Path("experiments/results/gpu_step.json"))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.configs[0], arguments.steps, arguments.device)))
        return
    import torch

    cuda = arguments.device == "cuda"
    record: dict[str, Any] = {
        "command": f"python experiments/benchmarks/gpu_step.py {' '.join(arguments.configs)} --steps {arguments.steps}",
        "card": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_model(folder, arguments.model, arguments.device)
        if cuda:
            torch.cuda.empty_cache()
        for path in arguments.configs:
            command = [sys.executable, __file__, path, "--one", str(folder), "--steps", str(arguments.steps)]
            done = subprocess.run(
                [*command, "--device", arguments.device], check=True, stdout=subprocess.PIPE, text=True
            )
            record["rows"].append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(record["rows"][-1]), flush=True)
            arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
