"""Who gets how many cores: all when server and trainer take turns, a part of them when they overlap."""

from __future__ import annotations

import pytest

from grpo.config import RolloutSettings, ServerSettings
from grpo.cores import Cores, share_cores
from grpo.rollout.server import Placement, environment


@pytest.mark.parametrize(
    ("staleness", "server", "trainer", "cores", "expected"),
    [
        (0, 0, 0, 2, Cores(2, 2)),  # in turns: each has the machine for itself
        (0, 1, 0, 8, Cores(1, 8)),
        (1, 0, 0, 2, Cores(1, 1)),
        (1, 0, 0, 7, Cores(3, 4)),
        (1, 6, 0, 8, Cores(6, 2)),  # what is named is taken, the other side gets the rest
        (1, 0, 6, 8, Cores(2, 6)),
        (1, 8, 0, 8, Cores(8, 1)),
        (4, 0, 0, 1, Cores(1, 1)),
    ],
)
def test_cores_are_shared_only_while_server_and_trainer_overlap(staleness, server, trainer, cores, expected):
    rollout = RolloutSettings(max_staleness=staleness, server=ServerSettings(threads=server))
    assert share_cores(rollout, trainer, cores) == expected


def test_a_trainer_whose_servers_are_elsewhere_has_the_machine_for_itself():
    rollout = RolloutSettings(max_staleness=1, server=ServerSettings(urls=["http://far:8000"]))
    assert share_cores(rollout, 0, 8).trainer == 8


def test_threads_of_a_server_that_overlaps_with_the_trainer_sleep_while_they_wait(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    cpu = Placement((), "zero_shm")
    in_turns, overlapping = (environment("hub/id", RolloutSettings(max_staleness=k), cpu) for k in (0, 1))
    assert (in_turns["OMP_NUM_THREADS"], overlapping["OMP_NUM_THREADS"]) == ("8", "4")
    assert (in_turns.get("OMP_WAIT_POLICY"), overlapping["OMP_WAIT_POLICY"]) == (None, "passive")
