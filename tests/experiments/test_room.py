"""The bench with room: what the oracle pays, and how its ceiling is found."""

import pytest
import torch

from experiments.ablations import ablate_room
from experiments.ablations.ablation import Bench
from experiments.ablations.oracle import CEILING, oracle
from experiments.checks import ceiling
from mrg_grpo.config import load_config
from mrg_grpo.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN


def ids(**named: int) -> list[int]:
    return [named.get(f"c{i}", BLANK) for i in range(14)]


def test_the_oracle_pays_each_finding_alike():
    reference = ids(c0=POSITIVE, c3=UNCERTAIN, c5=NEGATIVE, c13=POSITIVE)
    reports = [
        ids(c0=POSITIVE, c3=POSITIVE),  # both right
        ids(c0=UNCERTAIN, c5=POSITIVE),  # one right, one invented
        ids(c5=NEGATIVE, c13=POSITIVE),  # nothing that counts
    ]
    paid = oracle(["", "", ""], labels=reports, reference_labels=[reference] * 3, images=None)
    assert paid == pytest.approx([2 - CEILING, 1 - CEILING, 0.0])


def test_the_oracle_ranks_as_micro_f1_does():
    """A report added to a corpus at the ceiling lifts its micro F1 exactly where the oracle pays more than half its
    F1's share of the reference's findings."""
    torch.manual_seed(0)
    tp, size = 767_000.0, 2_000_000.0  # 2 TP / size is the ceiling
    for _ in range(200):
        report, reference = ((torch.rand(14) < 0.3).long().tolist() for _ in range(2))
        right = sum(a and b for a, b in zip(report[:13], reference[:13]))
        after = 2 * (tp + right) / (size + sum(report[:13]) + sum(reference[:13]))
        (paid,) = oracle([""], labels=[report], reference_labels=[reference])
        gain = paid - 0.5 * CEILING * sum(reference[:13])
        assert (after > 2 * tp / size) == (gain > 0) or abs(gain) < 1e-5


def test_thresholds_are_those_of_the_best_f1():
    torch.manual_seed(0)
    stated = torch.rand(400, 13) < 0.3
    scores = stated.float() + 0.1 * torch.randn(400, 13)
    scores[:, 4] = torch.randn(400)  # nothing to see
    thresholds = ceiling.best_thresholds(scores, stated)
    reached = ceiling.f1(scores > thresholds, stated)
    assert reached > 0.93
    for i in range(13):
        for shift in (-0.3, 0.3):
            moved = thresholds.clone()
            moved[i] += shift
            assert ceiling.f1(scores > moved, stated) <= reached + 0.003  # the grid is of 101 quantiles


def test_the_probe_learns_what_single_tokens_and_their_mean_show():
    torch.manual_seed(0)
    tokens = torch.randn(6000, 9, 8)
    stated = torch.zeros(6000, 13, dtype=torch.bool)
    stated[:, 0] = tokens.mean(dim=1)[:, 0] > 0
    stated[:, 1] = (tokens[:, :, 1] > 2.2).any(dim=1)
    probe = ceiling.fit(tokens[:5000], stated[:5000])
    with torch.no_grad():
        scores = probe(tokens[5000:])
    for i in (0, 1):
        there, not_there = scores[stated[5000:, i], i], scores[~stated[5000:, i], i]
        assert (there[:, None] > not_there).float().mean() > 0.7


def test_the_ceiling_of_a_few_studies_is_a_share():
    found = ceiling.ceiling("phantom_room", {"train": 60, "val": 20, "test": 20})
    assert 0 <= found["f1"] <= 1 and len(found["by_condition"]) == 13


def test_make_room_is_the_bench_of_the_ablation():
    bench = Bench(ablate_room.EXPERIMENT)
    for file, arm in (("experiments/phantom_hasty.toml", "start"), ("experiments/phantom_room.toml", "mccs")):
        own, theirs = load_config(file), load_config(bench.config, bench.settings(bench.experiment.arm(arm), 0))
        assert (own.run.steps, own.run.test_studies) == (theirs.run.steps, theirs.run.test_studies)
        own.run, own.model = theirs.run, theirs.model  # folders, and the adapter that the first leaves
        assert own == theirs
