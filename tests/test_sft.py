"""The schedule of the warm start."""

import pytest

from mrg_grpo.sft import cosine


def test_the_rate_rises_falls_and_is_never_nothing_but_at_the_end():
    shares = [cosine(step, 100, 10) for step in range(1, 101)]
    assert shares[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert shares[9:] == sorted(shares[9:], reverse=True) and shares[54] == pytest.approx(0.5) and shares[-1] < 1e-12
    assert cosine(1, 1, 0) == cosine(11, 11, 10) == pytest.approx(0.5)  # a run of one step learns
