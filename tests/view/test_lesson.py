"""What a group taught: counts that can be checked by hand, and correlations against numpy's."""

import numpy as np
import pytest

from mrg_grpo.labels import CONDITIONS
from mrg_grpo.view.lesson import correlation, disagreement, lesson, pushes

NOTHING = [0] * 14


def says(**labels):
    row = list(NOTHING)
    for name, label in labels.items():
        row[CONDITIONS.index(name)] = label
    return row


def test_the_lesson_names_what_the_better_reports_have():
    edema, none, denied = says(Edema=1), says(), says(Edema=2, Fracture=1)
    words = lesson([edema, says(Edema=3), none, denied], [True] * 4, [1.0, 0.9, -0.9, -1.0], says(Edema=1))
    assert words.startswith("Pushed towards: edema (2 of 2 above the mean, 0 of 2 below; the reference says so too).")
    assert "Pushed away from: " in words
    assert "no edema (0 of 2 above the mean, 1 of 2 below; the reference says the opposite)" in words
    assert "fracture (0 of 2 above the mean, 1 of 2 below; the reference is silent)" in words


def test_the_form_can_be_the_lesson():
    words = lesson([says()] * 4, [True, True, False, False], [1, 1, -1, -1], says())
    assert words == "Pushed towards: the asked form (2 of 2 above the mean, 0 of 2 below)."
    assert "single finding" in lesson([says()] * 4, [True] * 4, [1, 1, -1, -1], says())
    assert "single finding" in lesson([says()] * 2, [None, None], [1, -1], says())


def test_equal_rewards_teach_nothing():
    assert lesson([says(Edema=1), says()], [True, False], [0.0, 0.0], says()).startswith("All 2 rewards are equal")


def test_correlation_is_numpys_and_orders_the_pushes():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, (8, 14)).tolist()
    advantages = generator.normal(size=8).tolist()
    found = pushes(labels, [None] * 8, advantages, NOTHING)
    strength = [abs(push.correlation) for push in found]
    assert strength == sorted(strength, reverse=True) and len(found) > 20
    has = [float(row[0] in (1, 3)) for row in labels]
    (push,) = (push for push in found if push.what == "enlarged cardiomediastinum")
    assert push.correlation == pytest.approx(np.corrcoef(has, advantages)[0, 1])
    assert correlation([1.0, 1.0], [0.0, 1.0]) == 0.0


def test_disagreement_is_the_mean_distance_of_pairs():
    assert disagreement([says(Edema=1), says(Edema=3)]) == 0  # uncertain counts as positive
    assert disagreement([says(Edema=1), says(Edema=2), says(Edema=1, Fracture=1)]) == pytest.approx((1 + 1 + 2) / 3)
    assert disagreement([says()]) == 0
