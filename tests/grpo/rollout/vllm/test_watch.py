"""Whoever is killed or stopped, nothing of a server lives on: with a stubborn program in vLLM's place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from grpo.config import ServerSettings
from grpo.rollout.vllm import watch
from grpo.rollout.vllm.server import VLLMServer

pytestmark = pytest.mark.slow

SHM = Path("/dev/shm")

# Ignores every polite signal, leaves its session, is adopted by whoever adopts, and leaves things in three places.
STUBBORN = """
import multiprocessing, os, signal, sys, tempfile, time
from multiprocessing.shared_memory import SharedMemory

def stubborn():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

if __name__ == "__main__":
    stubborn()
    if os.fork() == 0:
        os.setsid()
        semaphore = multiprocessing.get_context("spawn").Semaphore()
        memory = SharedMemory(create=True, size=64)
        file = tempfile.NamedTemporaryFile(prefix="vllm_dist_", delete=False)
        if os.fork() != 0:
            os._exit(0)
        print("made", memory.name, semaphore._semlock.name.lstrip("/"), flush=True)
    time.sleep(600)
"""
OWNER = """
import asyncio, os, sys
from pathlib import Path
from grpo.config import ServerSettings
from grpo.rollout.vllm.server import VLLMServer
log, weights, program = sys.argv[1:]
command = [sys.executable, "-c", program]
asyncio.run(VLLMServer(command, os.environ, ServerSettings(), Path(log), [Path(weights)]).start())
"""


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (there := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return there


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def shared_memory(log: Path) -> list[Path]:
    """What the program says that it made in /dev/shm."""
    found = [line.split()[1:] for line in log.read_text().splitlines() if line.startswith("made")]
    return [SHM / memory for memory, _ in found] + [SHM / f"sem.{semaphore}" for _, semaphore in found]


class Run:
    """The owner, the watchers, and what they watch."""

    def __init__(self, owner: psutil.Process, log: Path, temporary: Path, weights: Path) -> None:
        assert wait_for(lambda: log.exists() and "made" in log.read_text())
        (own,) = temporary.glob("zero-rl-*")
        listed = own / watch.SHARED
        assert wait_for(lambda: listed.exists() and len(listed.read_text().split()) == 2)
        self.places = [own, weights, *shared_memory(log)]
        tree = alive(owner.children(recursive=True))  # the tests' process may have other children
        self.outer = next(one for one in tree if one.ppid() == owner.pid and "watch.py" in " ".join(one.cmdline()))
        self.inner = next(one for one in tree if one.ppid() == self.outer.pid)
        self.command = next(one for one in tree if one.ppid() == self.inner.pid and STUBBORN in one.cmdline())
        self.owner, self.tree = owner, tree
        assert any(path.name.startswith("vllm_dist_") for path in own.iterdir())
        assert all(place.exists() for place in self.places)
        assert len(tree) >= 4

    def left(self) -> list[object]:
        return [*alive(self.tree), *(place for place in self.places if place.exists())]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run of its own, in a process of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    for folder in ("tmp", "weights"):
        (tmp_path / folder).mkdir()
    (tmp_path / "weights" / "1.safetensors").write_bytes(b"...")
    line = [sys.executable, "-c", OWNER, str(tmp_path / "log"), str(tmp_path / "weights"), STUBBORN]
    with subprocess.Popen(line) as process:
        started = Run(psutil.Process(process.pid), tmp_path / "log", tmp_path / "tmp", tmp_path / "weights")
        yield started
        for one in alive([started.owner, *started.tree]):
            one.kill()
    for place in started.places[2:]:
        place.unlink(missing_ok=True)


@pytest.mark.parametrize("killed", ["owner", "owner outer", "owner inner"])
def test_nothing_outlives_an_owner_that_is_killed_alone_or_with_a_watcher(run: Run, killed: str) -> None:
    for name in killed.split():
        getattr(run, name).kill()
    assert wait_for(lambda: not run.left()), run.left()


@pytest.mark.parametrize("killed", ["outer", "inner"])
def test_a_killed_watcher_takes_the_server_with_it_and_leaves_the_owner_its_weights(run: Run, killed: str) -> None:
    weights = run.places.pop(1)
    run.owner.suspend()  # it would start to clean up, too
    getattr(run, killed).kill()
    assert wait_for(lambda: not run.left()), run.left()
    assert list(weights.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_watcher_that_is_asked_to_stop_stops_the_server(run: Run, number: signal.Signals) -> None:
    run.places.pop(1)
    run.owner.suspend()
    run.outer.send_signal(number)
    assert wait_for(lambda: not run.left()), run.left()


def test_what_is_left_when_owner_and_both_watchers_are_killed_is_swept_by_the_next_start(run: Run) -> None:
    weights = run.places.pop(1)  # in a run, its name says whose it is
    for process in (run.outer, run.inner, run.owner):
        process.suspend()
    for process in (run.outer, run.inner, run.owner):
        process.kill()
    run.owner.wait()
    assert wait_for(lambda: not alive([run.command]))  # by its parent-death signal
    assert run.left()
    mine = run.places[0].with_name(watch.own_name())
    mine.mkdir()
    watch.sweep(run.places[0].parent)
    assert run.left() == []
    assert mine.exists()  # its owner lives
    assert weights.exists()


# -- stop() ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[VLLMServer, Run]]:
    """A server of this process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(watch, "OWNER_GRACE", 1.0)
    server = VLLMServer([sys.executable, "-c", STUBBORN], os.environ, ServerSettings(), tmp_path / "log")
    server._spawn([])
    assert server._process is not None
    run = Run(psutil.Process(), tmp_path / "log", tmp_path, tmp_path)
    run.tree = [run.outer, *run.outer.children(recursive=True)]
    run.places.pop(1)
    yield server, run
    for one in alive(run.tree):
        one.kill()


@pytest.mark.parametrize("name", ["command", "inner", "outer", "whole tree"])
def test_stop_ends_what_stands_still(server: tuple[VLLMServer, Run], name: str) -> None:
    vllm, run = server
    for process in run.tree if name == "whole tree" else [getattr(run, name)]:
        process.suspend()
    asyncio.run(vllm.stop())
    assert run.left() == []
    assert not vllm.alive()


def test_stop_ends_what_both_watchers_left_when_they_were_killed(server: tuple[VLLMServer, Run]) -> None:
    vllm, run = server
    for process in (run.outer, run.inner):
        process.suspend()
    for process in (run.inner, run.outer):
        process.kill()
    assert wait_for(lambda: not vllm.alive())
    assert run.left()
    asyncio.run(vllm.stop())
    assert run.left() == []


def test_shared_memory_that_a_living_process_uses_stays(tmp_path: Path) -> None:
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=64)
    try:
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / watch.SHARED).write_text(f"{memory.name}\n")
        watch._remove(tmp_path / "own")
        assert (SHM / memory.name).exists()
        assert not (tmp_path / "own").exists()
    finally:
        memory.close()
        memory.unlink()
