"""Hold `mrg-grpo plan` against measured memory.

    python experiments/checks/plan_check.py                     # all settings
    python experiments/checks/plan_check.py --only "large"      # these alone; the others stay as they are

A Qwen2.5-VL of 8.4 M random parameters, fp32 on the CPU. Three settings whose memory is at least four times apart, and
the largest of them with the prompts of three studies, and of one, held at a time, with layers that run again in the
backward pass, and with the base in 4 bits. Each runs two whole GRPO steps with every report at the length limit, in a
process of its own. Measured is the peak of the resident set (VmHWM) above the idle process: one that has imported
everything, run a step of the embedded base on one study and let go of it, so that library code and its tables are in
memory. The weights are part of both numbers. The labeler is a stub without weights. glibc is told to hand freed memory
back at once (MALLOC_MMAP_THRESHOLD_), so that the resident set is what is alive and not what was.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {
    "small": {"studies": 2, "group": 4, "micro": 4, "tokens": 48, "images": 1},
    "middle": {"studies": 6, "group": 8, "micro": 24, "tokens": 96, "images": 2},
    "large": {"studies": 12, "group": 12, "micro": 72, "tokens": 160, "images": 2},
    "large, 3 studies a pass": {"studies": 12, "held": 3, "group": 12, "micro": 36, "tokens": 160, "images": 2},
    "large, 1 study a pass": {"studies": 12, "held": 1, "group": 12, "micro": 12, "tokens": 160, "images": 2},
    "large, prompts recomputed": {
        "studies": 12, "group": 12, "micro": 72, "tokens": 160, "images": 2, "recompute": "prompt",
    },
    "large, all recomputed": {"studies": 12, "group": 12, "micro": 72, "tokens": 160, "images": 2, "recompute": "all"},
    "large, 3 studies a pass, all recomputed": {
        "studies": 12, "held": 3, "group": 12, "micro": 36, "tokens": 160, "images": 2, "recompute": "all",
    },
    "large, 4 bits": {
        "studies": 12, "group": 12, "micro": 72, "tokens": 160, "images": 2, "quantize": "nf4",
    },
    "large, 3 studies a pass, all recomputed, 4 bits": {
        "studies": 12, "held": 3, "group": 12, "micro": 36, "tokens": 160, "images": 2, "recompute": "all",
        "quantize": "nf4",
    },
}  # fmt: skip
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "TOKENIZERS_PARALLELISM": "false",
}


def write_model(folder: Path) -> None:
    """Random weights under the embedded base's tokenizer and image processor."""
    import shutil

    import torch
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    from mrg_grpo.embedded import base_path

    torch.manual_seed(0)
    shutil.copytree(base_path(), folder)
    config = AutoConfig.from_pretrained(folder)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 256, 896, 8
    text.num_attention_heads, text.num_key_value_heads = 4, 2
    text.rope_parameters = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e4}
    text.layer_types = ["full_attention"] * 8
    vision.out_hidden_size = 256
    config.dtype = torch.float32
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


def settings(folder: str, one: dict):
    from mrg_grpo.config import Config

    config = Config()
    config.model.path, config.model.device, config.model.dtype = folder, "cpu", "float32"
    config.run.decode_batch = one["studies"]
    config.sampling.max_tokens = one["tokens"]
    config.grpo.studies_per_step, config.grpo.group_size = one["studies"], one["group"]
    config.grpo.studies_per_pass, config.grpo.micro_batch = one.get("held", 0), one["micro"]
    config.grpo.recompute, config.model.quantize = one.get("recompute", "none"), one.get("quantize", "none")
    return config


def field(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def run_steps(folder: str, one: dict, steps: int) -> None:
    """GRPO steps with every report at the length limit."""
    import torch

    from mrg_grpo.data import load_studies
    from mrg_grpo.data.study import Study
    from mrg_grpo.grpo import Grpo
    from mrg_grpo.model.policy import Policy
    from mrg_grpo.rewards import Rewards

    class Stub:
        device = torch.device("cpu")

        def label(self, reports):
            return torch.zeros(len(reports), 14, dtype=torch.long)

    config = settings(folder, one)
    drawn = load_studies("phantom", "")["train"]
    policy = Policy.load(config)
    policy.stop_ids = [-1]  # every report runs to the limit
    grpo = Grpo(config, policy, Rewards(config.reward, Stub(), config.prompt.think))
    for step in range(1, steps + 1):
        part = drawn[(step - 1) * one["studies"] * 2 :]
        pairs = [part[2 * n : 2 * n + one["images"]] for n in range(one["studies"])]
        studies = [Study(p[0].id, tuple(image for s in p for image in s.images), p[0].report, "train") for p in pairs]
        grpo.step(policy.encoder.encode(studies), step)


def measure(folder: str, one: dict) -> dict[str, float]:
    """Two steps in this process: bytes of the peak above idle."""
    from mrg_grpo.embedded import base_path
    from mrg_grpo.run.process import give_back_freed_memory

    run_steps(str(base_path()), {"studies": 1, "group": 2, "micro": 2, "tokens": 4, "images": 1}, 1)
    gc.collect()
    give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    idle = field("VmRSS")
    run_steps(folder, one, 2)
    return {"idle": idle, "measured": field("VmHWM") - idle}


def planned(folder: str, one: dict) -> dict[str, float]:
    from mrg_grpo.preflight import footprint, plan

    config = settings(folder, one)
    model, shape = plan.model_sizes(config), plan.step_shape(config, one["images"])
    peaks = footprint.peaks(model, shape)
    return {"planned": max(peaks.values()), "peak_phase": max(peaks, key=lambda phase: peaks[phase]), **vars(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", default="experiments/results/plan_check.json")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "JSON"), help="measure one setting in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], json.loads(arguments.one[1]))))
        return
    path, rows = Path(arguments.output), {}
    if path.exists() and len(arguments.only) < len(SETTINGS):
        rows = {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["settings"]}
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/model"
        write_model(Path(folder))
        for name in arguments.only:
            one = SETTINGS[name]
            command = [sys.executable, __file__, "--one", folder, json.dumps(one)]
            done = subprocess.run(command, env=os.environ | ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True)
            got, plan = json.loads(done.stdout.splitlines()[-1]), planned(folder, one)
            row = {"name": name, **one, **got, **{key: plan[key] for key in ("planned", "peak_phase", "total")}}
            rows[name] = {**row, "ratio": round(row["planned"] / row["measured"], 3)}
            print(
                f"{name}: planned {row['planned'] / 1e6:.0f} MB, measured {row['measured'] / 1e6:.0f} MB, "
                f"ratio {rows[name]['ratio']}, idle {row['idle'] / 1e6:.0f} MB",
                flush=True,
            )
    ordered = [rows[name] for name in SETTINGS if name in rows]
    record = {
        "command": "python experiments/checks/plan_check.py", "parameters": ordered[0]["total"], "settings": ordered,
    }  # fmt: skip
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
