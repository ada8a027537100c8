"""Training runs are killed, stopped, damaged and starved: each goes on, or says one thing and is resumed."""

from __future__ import annotations

import pytest

from tests.chaos.catalogue import IN_PROCESS, QUICK, RANKS, WITH_SERVER
from tests.chaos.episode import Episode, play
from tests.chaos.everything import EVERYTHING, needs_root

pytestmark = pytest.mark.slow


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("episode", [*IN_PROCESS, *RANKS, *WITH_SERVER] if EVERYTHING else QUICK, ids=str)
def test_every_prompt_is_trained_exactly_once_and_nothing_is_left_behind(episode: Episode) -> None:
    needs_root(episode)
    assert play(episode).all_findings == []
