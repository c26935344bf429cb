"""Properties: a strategy and a check of one drawn case, run as often as a test asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Property = tuple[st.SearchStrategy, Callable[[Any, Path], None]]


def draw(one: Property, cases: int, root: Path) -> None:
    """Run the check on `cases` drawn cases, with `root` as its folder."""
    strategy, check = one

    @settings(max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(strategy)
    def holds(case):
        check(case, root)

    holds()
