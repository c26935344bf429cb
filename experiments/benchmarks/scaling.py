"""What many ranks send, hold and wait for: the section "Many GPUs" of docs/results/performance.md.

    python experiments/benchmarks/scaling.py -o experiments/results/scaling.json

1. exchanges: what 1, 2 and 4 ranks send in a step of the embedded default, by kind (torchrun on this machine, gloo).
2. shards: bytes of parameters on each of those ranks with model.shard = true.
3. lengths: how unevenly long reports make ranks wait. The embedded start policy writes groups of eight for phantom
   studies; ranks with so many studies each are drawn from them, and the slowest is held against the mean.
4. on paper: a step of the 7B policy at 8, 64 and 512 GPUs from 1 and 3, the planned seconds of one GPU
   (docs/guides/gpus.md) and stated bandwidths.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
ADAPTER_7B = 40_370_176
"""Trainable parameters of Qwen2.5-VL-7B at rank 16 on all seven projections, as tests/preflight/test_plan.py counts."""
STUDIES, GROUP = 4, 8
SAMPLE, REST = 7.2, 2.5
"""Planned seconds of a step of experiments/iu_xray.toml on one A100, sampling and all else (docs/guides/gpus.md)."""
NODE, NETWORK, LATENCY, HOP = 150e9, 25e9, 20e-6, 50e-6
"""Assumed: bytes/s between the GPUs of a node and between nodes (200 Gb/s); seconds per round of nccl and of gloo."""


def one_rank() -> None:
    """Run by torchrun: a step that counts its exchanges, and the bytes of parameters in shards; rank 0 prints JSON."""
    from mrg_grpo import distributed
    from mrg_grpo.config import load_config
    from mrg_grpo.data.load import read_splits
    from mrg_grpo.grpo import Grpo
    from mrg_grpo.labelers import embedded_labeler
    from mrg_grpo.model.fsdp import bytes_here
    from mrg_grpo.model.policy import Policy
    from mrg_grpo.rewards import Rewards
    from mrg_grpo.run.stream import StudyStream

    out = sys.stdout
    distributed.init_process_group()
    config = load_config(
        ROOT / "experiments" / "phantom.toml", [f"grpo.studies_per_step={2 * distributed.world_size()}"]
    )
    config.sampling.max_tokens = 48
    policy = Policy.load(config)
    grpo = Grpo(config, policy, Rewards(config.reward, embedded_labeler(), config.prompt.think))
    stream = StudyStream(read_splits(config)["train"], config.grpo.studies_per_step, 0)
    sent: dict[str, list[int]] = {}

    def counting(name, size):
        plain = getattr(distributed.dist, name)

        def counted(*arguments):
            sent.setdefault(name, []).append(size(*arguments))
            return plain(*arguments)

        setattr(distributed.dist, name, counted)

    counting("all_gather_object", lambda values, value: len(pickle.dumps(value)))
    counting("all_reduce", lambda tensor: tensor.numel() * tensor.element_size())
    for number, loaded in stream.prompts(policy.encoder, 1, 2):
        sent.clear()
        prompts = loaded.prompts
        assert prompts is not None  # pictures of the phantom are drawn
        grpo.step(prompts, number)
    config.model.shard = True
    shards = distributed.all_gather(bytes_here(Policy.load(config).model))
    if distributed.is_first():
        print("JSON" + json.dumps({"sent": sent, "reports": len(prompts.studies) * GROUP, "shards": shards}), file=out)
    distributed.destroy_process_group()


def measured_ranks(world: int) -> dict:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, __file__, "--rank"], capture_output=True, text=True, env=environment, check=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("JSON"))[4:])


def report_lengths(studies: int) -> torch.Tensor:
    """(studies, GROUP) tokens of reports that the embedded start policy samples."""
    from mrg_grpo.config import load_config
    from mrg_grpo.data.load import read_splits
    from mrg_grpo.model.policy import Policy
    from mrg_grpo.model.rollout import sample_groups

    config = load_config(ROOT / "experiments" / "phantom.toml", [])
    policy, parts = Policy.load(config), []
    chosen = read_splits(config)["train"][:studies]
    for start in range(0, studies, 16):
        prompts = policy.encoder.encode(chosen[start : start + 16])
        with torch.no_grad():
            prefix = policy.prefill(prompts)
        parts.append(sample_groups(policy, prefix, prompts.study_ids, config, 0).lengths.view(-1, GROUP))
    return torch.cat(parts)


def waiting(lengths: torch.Tensor, world: int, draws: int = 400) -> dict[str, float]:
    """The slowest of `world` ranks over their mean, averaged over drawn steps: of decoding steps, of trained tokens."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(lengths), (draws, world, STUDIES), generator=generator)
    steps = lengths.amax(1)[drawn].amax(2).float()  # (draws, world): the longest report decides
    tokens = lengths.sum(1)[drawn].sum(2).float()
    return {
        name: float((x.amax(1) / x.mean(1)).mean()) for name, x in (("decoding", steps), ("training", tokens))
    }  # fmt: skip


def on_paper(world: int, exchanges: int, wait: dict[str, float]) -> dict[str, float]:
    """Seconds of a 7B step with STUDIES studies on each of `world` GPUs, in nodes of eight."""
    size = 4 * ADAPTER_7B
    bandwidth = NODE if world <= 8 else NETWORK
    share = 2 * (world - 1) / world * size  # bytes that a rank of a ring sends, and receives
    gradients = share / bandwidth + 2 * (world - 1) * LATENCY
    small = 2 * exchanges * (world - 1) * HOP  # sizes, then contents, each once around the ring
    work = SAMPLE * wait["decoding"] + REST * wait["training"]
    alone = SAMPLE + REST
    return {
        "gradient_bytes": share, "gradients": gradients, "small": small, "work": work,
        "efficiency": alone / (work + gradients + small),
        "efficiency_exchanges_alone": alone / (alone + gradients + small),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(tempfile.gettempdir()) / "scaling.json")
    parser.add_argument("--studies", type=int, default=192, help="whose reports are measured")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        return one_rank()
    found = {str(world): measured_ranks(world) for world in (1, 2, 4)}
    lengths = report_lengths(arguments.studies)
    exchanges = 1 + len(
        found["2"]["sent"]["all_gather_object"]
    )  # and one beside the step: has anyone been told to stop?
    waits = {world: waiting(lengths, world) for world in (2, 4, 8, 64, 512)}
    record = {
        "ranks": found,
        "lengths": {"mean": float(lengths.float().mean()), "longest": int(lengths.max()), "reports": lengths.numel()},
        "slowest_over_mean": waits,
        "on_paper": {world: on_paper(world, exchanges, waits[world]) for world in (8, 64, 512)},
    }
    arguments.output.write_text(json.dumps(record, indent=1))
    print(json.dumps(record, indent=1))
    return None


if __name__ == "__main__":
    main()
