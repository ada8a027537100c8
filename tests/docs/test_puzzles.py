"""docs/puzzles.md shows what was measured, and a sample of it measures the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.puzzles import measure, table
from rewards.puzzles.trust import trusted

PAGE = Path(__file__).parents[2] / "docs" / "puzzles.md"


def test_the_page_holds_the_table():
    assert table(trusted()) in PAGE.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chain_sum", "game_of_life_halting", "gcd", "kakurasu", "puzzle24", "tower_of_hanoi"])
def test_a_sample_is_graded_as_was_measured(name):
    pytest.importorskip("reasoning_gym")
    again, stored = measure(name, rows=2), trusted()[name]
    assert again.taken == []
    assert (again.trust.graded, again.trust.passed, again.trust.levels) == (stored.graded, 2, stored.levels)
    assert bool(again.trust.scorer_accepted) == bool(stored.scorer_accepted)
