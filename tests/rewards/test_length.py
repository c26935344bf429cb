"""Repetition and length, by hand."""

import pytest
import torch

from mrg_grpo.rewards.length import overlong, repetition


@pytest.mark.parametrize(
    ("report", "share"),
    [
        ("", 1.0),
        ("No effusion.", 1.0),
        ("the lungs are clear the heart is normal", 1.0),
        ("No effusion. No effusion. No effusion.", 2 / 3),  # 3 runs of 4: a b a b, b a b a, a b a b
        ("Clear. " * 10, 1 / 7),
        ("the heart is normal, THE HEART IS NORMAL!", 4 / 5),
    ],
)
def test_repetition_is_the_share_of_runs_of_four_words_that_are_new(report, share):
    assert repetition([report]).item() == pytest.approx(share)


def test_overlong_falls_in_a_line_before_the_limit():
    lengths = torch.tensor([0, 70, 80, 85, 90, 100, 120])
    assert overlong(lengths, 100, 20).tolist() == [0.0, 0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
