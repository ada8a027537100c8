"""Which episodes pytest plays: a few by default, every one with ZERO_CHAOS=all (about an hour on 2 cores)."""

from __future__ import annotations

import os

import pytest

from tests.chaos.enclosure import can_mount
from tests.chaos.episode import Episode
from tests.chaos.faults import FILL, FILL_SHM

EVERYTHING = os.environ.get("ZERO_CHAOS") == "all"


def needs_root(episode: Episode) -> None:
    """Skip an episode that needs a disk of its own where there can be none."""
    if not can_mount() and {FILL.name, FILL_SHM.name} & {strike.fault.name for strike in episode.strikes}:
        pytest.skip("a disk of a chosen size takes root")
