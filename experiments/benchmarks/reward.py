"""MCCS of 64 reports against 64 references, beside labelling one report at a time as f1chexbert does.

    python -m experiments.benchmarks.reward ../shared/data/iu_xray        # a folder with R2Gen's annotation.json

The labeler has BERT-base's size and random weights: speed does not depend on what it says. The texts are real reports,
all distinct; the tokenizer is the embedded one, since the hub is not at hand. The three ways take turns, so that a
machine whose speed drifts does not decide, and a ratio is taken within a round:

    one by one   tokenise one report, run it, take the 14 classes: 64 generated ones, then 64 references
    cold         `Rewards.score` with nothing known
    warm         the same with the references' labels known, as from the second time a study comes up

Writes results/reward.json; `performance_page` makes docs/results/performance.md of it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig

from experiments.benchmarks import performance_page
from experiments.benchmarks.step_against_trl import peak_gflops
from mrg_grpo.config import RewardConfig
from mrg_grpo.data.study import Study
from mrg_grpo.labelers import CheXbert, embedded_labeler
from mrg_grpo.labelers.chexbert import MAX_TOKENS, CheXbertNet
from mrg_grpo.rewards import Rewards
from mrg_grpo.rewards.mccs import mccs

RESULTS = performance_page.RESULTS / "reward.json"
REPORTS = 64
PAIRS = 65_536
MARGIN = 0.4
SPREAD = 2.0
"""Standard deviation of a random weight, times the square root of the hidden size."""


def labeler(config: BertConfig) -> CheXbert:
    """Random weights under the embedded tokenizer, with the pooler that chexbert.pth carries.

    They are wider than BERT's own start, under which all texts would get the same labels.
    """
    torch.manual_seed(0)
    net = CheXbertNet(config, pooler=True)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=SPREAD / config.hidden_size**0.5)
    return CheXbert(net, embedded_labeler().tokenizer)


@torch.no_grad()
def one_by_one(chexbert: CheXbert, reports: list[str]) -> Tensor:
    """f1chexbert's `get_label` for each report (its steps; the fast tokenizer): class ids (B, 14)."""
    rows, tokenizer = [], chexbert.tokenizer
    for report in reports:
        text = " ".join(report.split())
        ids = tokenizer.convert_tokens_to_ids([tokenizer.cls_token, *tokenizer.tokenize(text), tokenizer.sep_token])
        if len(ids) > MAX_TOKENS:
            ids = [*ids[: MAX_TOKENS - 1], tokenizer.sep_token_id]
        batch = torch.tensor([ids])  # (1, T)
        logits = chexbert.net(batch, torch.ones_like(batch))
        rows.append([int(head.argmax(dim=1)[0]) for head in logits])
    return torch.tensor(rows)


def flop(lengths: list[int], config: BertConfig) -> float:
    """FLOP of BERT on sequences of these lengths, each by itself: what labelling needs, no padding. Heads left out."""
    d, inner = config.hidden_size, config.intermediate_size
    linear = 2 * (4 * d * d + 2 * d * inner)  # a token: query, key, value, output; the two of the MLP
    return config.num_hidden_layers * sum(n * linear + 4 * n * n * d for n in lengths)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def milliseconds_of_pairs(pairs: int, repeats: int = 50) -> float:
    """Label ids of so many pairs -> MCCS; the median."""
    generated, reference = torch.randint(0, 4, (2, pairs, 14), generator=torch.Generator().manual_seed(0))
    return 1e3 * statistics.median(seconds_of(lambda: mccs(generated, reference, MARGIN)) for _ in range(repeats))


def measure(texts: list[str], config: BertConfig, rounds: int, threads: int) -> dict:
    """texts: the generated reports and as many references, all distinct. Rounds of the three ways in turn."""
    half = len(texts) // 2
    generated, references = texts[:half], texts[half:]
    chexbert = labeler(config)
    settings = RewardConfig(weights={"mccs": 1.0})
    settings.mccs.margin = MARGIN
    completions = [f"<report>{text}</report>" for text in generated]
    studies = [Study(str(i), (), text, "train") for i, text in enumerate(references)]
    lengths = [len(ids) for ids in chexbert.tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]]

    def score(rewards: Rewards) -> Tensor:
        return rewards.score(completions, studies, [[]] * half).total

    slow = one_by_one(chexbert, texts)  # warms up
    fast = chexbert.label(texts)
    rows = []
    for _ in range(rounds):
        rewards = Rewards(settings, chexbert, think=False)
        alone = seconds_of(lambda: mccs(one_by_one(chexbert, generated), one_by_one(chexbert, references), MARGIN))
        cold = seconds_of(lambda r=rewards: score(r))
        warm = seconds_of(lambda r=rewards: score(r))
        peak = peak_gflops(threads)
        share = flop(lengths, config) / 1e9 / cold / peak
        rows.append({"one_by_one": alone, "cold": cold, "warm": warm, "peak_gflops": peak, "share_of_peak": share})
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {
        "reports": half, "tokens": sum(lengths), "longest": max(lengths), "rounds": rows, **middle,
        "cold_ratio": statistics.median(row["one_by_one"] / row["cold"] for row in rows),
        "warm_ratio": statistics.median(row["one_by_one"] / row["warm"] for row in rows),
        "labels_that_differ": int((slow != fast).sum()), "labels": slow.numel(),
        "distinct": len({tuple(row) for row in slow.tolist()}),
        "gflop": flop(lengths, config) / 1e9,
        "pairs": PAIRS, "pairs_ms": milliseconds_of_pairs(PAIRS),
        "threads": threads, "torch": torch.__version__,
    }  # fmt: skip


def real_texts(folder: Path, count: int) -> list[str]:
    """Distinct training reports, drawn with a fixed seed."""
    annotation = json.loads((folder / "annotation.json").read_text(encoding="utf-8"))
    texts = list(dict.fromkeys(" ".join(study["report"].split()) for study in annotation["train"]))
    return random.Random(0).sample(texts, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="IU X-Ray in R2Gen's form")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="eight reports, two layers, nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = BertConfig(num_hidden_layers=2) if options.quick else BertConfig()
    texts = real_texts(options.data, 2 * (8 if options.quick else REPORTS))
    result = measure(texts, config, 2 if options.quick else options.rounds, options.threads)
    print(performance_page.reward(result))
    if not options.quick:
        performance_page.keep(options.out, result)


if __name__ == "__main__":
    main()
