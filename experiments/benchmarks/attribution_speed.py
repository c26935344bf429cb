"""Seconds to find the sentences that carry the findings of 200 phantom reports, with the embedded labeler.

python experiments/benchmarks/attribution_speed.py
"""

import time

import torch

from mrg_grpo.data.phantom.dataset import load
from mrg_grpo.labelers import embedded_labeler
from mrg_grpo.labelers.attribution import attribute

if __name__ == "__main__":
    reports = [study.report for study in load(sizes={"test": 200})["test"]]
    reader = embedded_labeler()
    started = time.perf_counter()
    found = attribute(reader, reports)
    seconds = time.perf_counter() - started
    sentences = sum(len(attribution.sentences) for attribution in found)
    print(f"{len(reports)} reports, {sentences} sentences: {seconds:.2f} s on {torch.get_num_threads()} CPU threads")
