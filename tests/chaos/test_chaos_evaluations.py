"""Evaluations are killed, stopped and damaged: each is gone on with, and every generation is there exactly once."""

from __future__ import annotations

import pytest

from tests.chaos.catalogue import EVALUATIONS, QUICK_EVALUATIONS
from tests.chaos.episode import Episode, play
from tests.chaos.everything import EVERYTHING, needs_root

pytestmark = pytest.mark.slow


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("episode", EVALUATIONS if EVERYTHING else QUICK_EVALUATIONS, ids=str)
def test_every_generation_is_there_exactly_once_and_nothing_is_left_behind(episode: Episode) -> None:
    needs_root(episode)
    assert play(episode).all_findings == []
