"""Ranks against ratings: scipy, loops, and cases by hand."""

import csv
import json
import math
import random

import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from mrg_grpo.cli import main
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.rated import read_ratings
from mrg_grpo.evaluation.ratings import pairs_of, pairs_right, pairs_tied, rankings, spearman, tau_b


def with_ties(seed, count=60):
    draw = random.Random(seed)
    return torch.tensor([draw.choice([0.0, 0.5, 1.0, 2.0, 3.5]) for _ in range(count)], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_tau_and_spearman_are_scipys(seed):
    a, b = with_ties(seed), with_ties(seed + 100) + 0.3 * with_ties(seed)
    assert tau_b(a, b) == pytest.approx(kendalltau(a, b).statistic)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_a_constant_ranks_nothing():
    assert math.isnan(tau_b(torch.ones(4), torch.arange(4.0))) and math.isnan(
        spearman(torch.arange(4.0), torch.ones(4))
    )
    assert math.isnan(pairs_right(torch.arange(3.0), []))


def test_pairs_are_of_one_case_and_ties_count_half():
    cases, ratings = ["a", "a", "b", "b", "b", "c"], torch.tensor([5.0, 2.0, 1.0, 3.0, 3.0, 4.0])
    pairs = pairs_of(ratings, cases)
    assert sorted(pairs) == [(0, 1), (3, 2), (4, 2)]
    scores = torch.tensor([0.9, 0.1, 0.5, 0.5, 0.2, 0.0])  # right, tied, wrong
    assert pairs_right(scores, pairs) == pytest.approx(0.5) and pairs_tied(scores, pairs) == pytest.approx(1 / 3)


def test_intervals_hold_the_value_and_differences_are_paired():
    cases = [f"{n // 2}" for n in range(80)]
    ratings = with_ties(1, 80) + torch.rand(80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    good = ratings + 0.8 * torch.randn(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = {"good": good, "same": 2 * good - 3, "noise": torch.randn(80, generator=torch.Generator().manual_seed(2))}
    found, resampled = rankings(scores, ratings, cases, draws=300)
    assert found["good"].tau_b == found["same"].tau_b and found["good"].pairs == found["same"].pairs
    for ranking in found.values():
        for number in (ranking.tau_b, ranking.spearman, ranking.pairs):
            assert number.low < number.value < number.high
    assert resampled.interval("good", 0, less="same") == (0.0, 0.0)
    low, high = resampled.interval("good", 0, less="noise")
    assert 0 < low < found["good"].tau_b.value - found["noise"].tau_b.value < high
    assert high - low < 1.2 * (found["noise"].tau_b.high - found["noise"].tau_b.low)


def written(path, head, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def test_score_ranks_a_users_own_reports(tmp_path, capsys):
    """Two reports of each of eight studies, of which a better one is rated higher; a report that is not rated."""
    right = "There is a large left pleural effusion. No pneumothorax."
    wrong = "No pleural effusion. There is a pneumothorax."
    rows = [(f"{n}-{system}", right, text) for n in range(8) for system, text in (("a", right), ("b", wrong))]
    predictions = written(tmp_path / "p.csv", ("id", "reference", "prediction"), [*rows, ("9-a", right, right)])
    rated = [(key, int(key[0]), 5 if key.endswith("a") else 1, 4 if key.endswith("a") else 2) for key, *_ in rows]
    ratings = written(tmp_path / "r.csv", ("id", "case", "rating_1", "rating 2"), rated)
    output = tmp_path / "o.json"
    given = ["score", str(predictions), "--ratings", str(ratings), "--language", "none", "-o", str(output)]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "ratings of 16 of 17 reports, 8 cases" in printed and "pairs of a case right" in printed
    found = json.loads(output.read_text())["ratings"]
    assert found["ccs"]["tau_b"]["value"] == pytest.approx(1.0) and found["ccs"]["pairs"]["value"] == 1.0
    assert found["clinical"]["pairs"]["value"] == 1.0
    assert found["unsigned_cosine"]["ties"] == 1.0 and found["unsigned_cosine"]["tau_b"]["value"] is None
    written(ratings, ("id", "rating"), [("other", 3)])
    assert main(given) == 2
    assert "--ratings: none of the 17 reports is rated; the ids there look like other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        (("name", "rating"), ("a", 3), "row 1 has no id"),
        (("id", "stars"), ("a", 3), "row 1 has no rating"),
        (("id", "rating"), ("a", "good"), "row 1 has the rating 'good'; write a number"),
        (("id", "rating"), ("a", "nan"), "row 1 has"),
        (("id", "rating"), ("a", ""), "row 1 has no rating"),
    ],
)
def test_a_row_that_is_no_rating_is_named(tmp_path, head, row, said):
    with pytest.raises(UserError, match=said):
        read_ratings(written(tmp_path / "r.csv", head, [row]))


def test_ratings_in_a_list_are_averaged(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a", "ratings": [5, 4, 3], "case": 1}\n{"id": "b", "ratings": [1], "case": 1}\n')
    found = read_ratings(path)
    assert found.ratings == {"a": 4.0, "b": 1.0} and found.cases == {"a": "1", "b": "1"}
    path.write_text(path.read_text() + '{"id": "a", "ratings": [5]}\n')
    with pytest.raises(UserError, match="row 3 rates 'a' again"):
        read_ratings(path)
