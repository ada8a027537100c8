"""Who gets how many cores: all when server and trainer take turns, a part of them when they overlap."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from grpo.config import RolloutSettings, ServerSettings
from grpo.rollout.cores import Cores, share_cores
from grpo.rollout.vllm.server import Placement, environment


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


@pytest.mark.parametrize(
    ("staleness", "cores", "expected"),
    [(0, 8, Cores(4, 8)), (0, 1, Cores(1, 1)), (1, 8, Cores(2, 4)), (1, 2, Cores(1, 1)), (1, 7, Cores(1, 5))],
)
def test_two_servers_divide_what_one_would_get(staleness, cores, expected):
    rollout = RolloutSettings(max_staleness=staleness, server=ServerSettings(replicas=2))
    assert share_cores(rollout, 0, cores) == expected


def test_a_trainer_whose_servers_are_elsewhere_has_the_machine_for_itself():
    rollout = RolloutSettings(max_staleness=1, server=ServerSettings(urls=["http://far:8000"]))
    assert share_cores(rollout, 0, 8).trainer == 8


def test_a_server_on_the_cpu_gets_its_cores_and_its_threads_rest_early_unless_the_user_says_how_they_wait(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    cpu = Placement((), "shm")
    in_turns, overlapping = (environment("hub/id", RolloutSettings(max_staleness=k), cpu) for k in (0, 1))
    assert (in_turns["OMP_NUM_THREADS"], overlapping["OMP_NUM_THREADS"]) == ("8", "4")
    assert in_turns["GOMP_SPINCOUNT"] == overlapping["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in environment("hub/id", RolloutSettings(), cpu)


@pytest.mark.slow
def test_the_command_sets_how_threads_wait_before_torch_is_loaded():
    script = "import sys; from recipes.command.main import main; sys.argv = ['zero', 'recipes']; import os\n"
    script += "try: main()\nexcept SystemExit: print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    said = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False 1000"
