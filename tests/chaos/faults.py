"""What may happen to a run: to its processes, to its files, to the disk under them.

A fault strikes while the command runs. If the command then ends, damage may be done to what it left. `codes` are the
exit codes that it may end with; 0 alone means that the run must go on by itself.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.enclosure import SHM, Attempt, Enclosure, wait_until
from tests.chaos.ledger import checkpoints
from tests.checkpoints import STATE_FILE

Victim = Callable[[Attempt], psutil.Process]
Damage = Callable[[Path, random.Random], None]  # of a run's directory
Harm = Callable[[Path, random.Random], None]  # to one file


@dataclass(frozen=True)
class Scene:
    """What a fault may touch. `complaints`: what it found wrong while it struck."""

    enclosure: Enclosure
    attempt: Attempt
    job: Any  # training.py's or evaluation.py's
    again: Sequence[str]  # the command that would go on with this run
    rng: random.Random
    complaints: list[str]

    @property
    def run_dir(self) -> Path:
        return self.enclosure.seen(self.enclosure.run_dir)


@dataclass(frozen=True)
class Fault:
    """Example: Fault("kill -9", ..., codes=(137,))"""

    name: str
    strike: Callable[[Scene], None]
    codes: tuple[int, ...] = (0,)
    exact: bool = True  # afterwards the run computes what the undisturbed one does
    damage: Damage | None = None  # done after the end
    damaged: str = ""  # a word that the resumed run must say about it, if what it then has is not whole
    may_refuse: bool = False  # what is left cannot be gone on with; one message must say so
    repair: Callable[[Scene], None] | None = None  # done before the run is resumed

    @property
    def ends(self) -> bool:
        """Whether the command certainly ends."""
        return 0 not in self.codes


# -- whom ---------------------------------------------------------------------------------------------------------


def trainer(attempt: Attempt) -> psutil.Process:
    return psutil.Process(attempt.process.pid)


def leader(attempt: Attempt) -> psutil.Process:
    """Of several trainer processes, the first."""
    return _rank(attempt, 0)


def follower(attempt: Attempt) -> psutil.Process:
    """Another one."""
    return _rank(attempt, 1)


def _rank(attempt: Attempt, number: int) -> psutil.Process:
    below = trainer(attempt).children(recursive=True)  # a parent before its children
    return next(one for one in below if one.environ().get("RANK") == str(number))


def api(attempt: Attempt) -> psutil.Process:
    """The process that answers HTTP."""
    return next(process for process in trainer(attempt).children(recursive=True) if _is_api(process))


def outer_watcher(attempt: Attempt) -> psutil.Process:
    """The trainer's child under which the server runs."""
    return _watchers(attempt)[-1]


def inner_watcher(attempt: Attempt) -> psutil.Process:
    """The server's parent."""
    return _watchers(attempt)[0]


def _watchers(attempt: Attempt) -> list[psutil.Process]:
    """What stands between the server and the trainer, the server's parent first."""
    above = api(attempt).parents()
    return above[: above.index(trainer(attempt))]


def engine(attempt: Attempt) -> psutil.Process:
    """The process that holds the model."""
    below = api(attempt).children(recursive=True)
    named = [process for process in below if "EngineCore" in process.name() + _line(process)]
    return named[0] if named else max(below, key=lambda process: process.memory_info().rss)


def reward_worker(attempt: Attempt) -> psutil.Process:
    """The process that a user's reward is called in."""
    below = trainer(attempt).children(recursive=True)  # a parent before its children
    return [process for process in below if re.search(r"import serve; serve\(", _line(process))][-1]


def _is_api(process: psutil.Process) -> bool:
    """A watcher has the same on its command line, but after its own arguments."""
    return _line(process).split()[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]


def _line(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


# -- signals ------------------------------------------------------------------------------------------------------

KILLED, TERMINATED, HUNG_UP, INTERRUPTED = 137, 143, 129, 130
PATIENCE = 120.0  # seconds in which a victim that is being replaced must be there again


def _send(victim: Victim, number: int) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        found = wait_until(lambda: _found(victim, scene.attempt), PATIENCE)
        if process := _found(victim, scene.attempt):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        elif not found:
            scene.complaints.append(f"there was no {victim.__name__} to strike")

    return strike


def _found(victim: Victim, attempt: Attempt) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess, StopIteration, IndexError, ValueError):
        return victim(attempt)
    return None


KILL = Fault("kill -9", _send(trainer, signal.SIGKILL), (KILLED,))
TERM = Fault("SIGTERM", _send(trainer, signal.SIGTERM), (TERMINATED,))
HUP = Fault("SIGHUP", _send(trainer, signal.SIGHUP), (HUNG_UP,))
INT = Fault("Ctrl-C", _send(trainer, signal.SIGINT), (INTERRUPTED,))
KILL_LEADER = Fault("kill -9 the leader", _send(leader, signal.SIGKILL))
KILL_FOLLOWER = Fault("kill -9 a follower", _send(follower, signal.SIGKILL))
KILL_REWARD = Fault("kill -9 the reward's process", _send(reward_worker, signal.SIGKILL), exact=False)
STOP_REWARD = Fault("SIGSTOP the reward's process", _send(reward_worker, signal.SIGSTOP), exact=False)
KILL_ENGINE = Fault("kill -9 the engine", _send(engine, signal.SIGKILL))
KILL_API = Fault("kill -9 the API server", _send(api, signal.SIGKILL))
KILL_WATCHER = Fault("kill -9 the outer watcher", _send(outer_watcher, signal.SIGKILL))
KILL_INNER_WATCHER = Fault("kill -9 the inner watcher", _send(inner_watcher, signal.SIGKILL))
STOP_ENGINE = Fault("SIGSTOP the engine", _send(engine, signal.SIGSTOP))
STOP_API = Fault("SIGSTOP the API server", _send(api, signal.SIGSTOP))
STOP_WATCHER = Fault("SIGSTOP the outer watcher", _send(outer_watcher, signal.SIGSTOP))
STOP_INNER_WATCHER = Fault("SIGSTOP the inner watcher", _send(inner_watcher, signal.SIGSTOP))


def _kill_watchers(scene: Scene) -> None:
    wait_until(lambda: _found(api, scene.attempt), PATIENCE)
    for process in _watchers(scene.attempt):
        process.kill()


def _kill_run_and_watcher(scene: Scene) -> None:
    """As `pkill -9 -f` does that meets half of what it was meant for."""
    wait_until(lambda: _found(api, scene.attempt), PATIENCE)
    watcher = outer_watcher(scene.attempt)
    trainer(scene.attempt).kill()
    watcher.kill()


def _term_twice(scene: Scene) -> None:
    """As a cluster's scheduler does that is in a hurry."""
    for _ in range(2):
        with suppress(psutil.NoSuchProcess):
            trainer(scene.attempt).terminate()
        time.sleep(scene.rng.uniform(0, 0.3))


def _pause(scene: Scene) -> None:
    """As a laptop does that is closed for a moment."""
    trainer(scene.attempt).suspend()
    time.sleep(scene.rng.uniform(1, 3))
    trainer(scene.attempt).resume()


def _second_run(scene: Scene) -> None:
    """Start the same run again while the first stands still, so that it cannot end meanwhile."""
    trainer(scene.attempt).suspend()
    try:
        second = scene.enclosure.start(scene.again)
        code = second.code(180)
        if code is None:
            second.process.kill()
        if code != 2 or second.stderr().count("error: ") != 1:
            last = second.stderr().strip().splitlines()[-1:]
            scene.complaints.append(f"a second run in the folder ended with {code}, expected 2 and a message: {last}")
    finally:
        with suppress(psutil.NoSuchProcess):
            trainer(scene.attempt).resume()


KILL_WATCHERS = Fault("kill -9 both watchers", _kill_watchers)
KILL_RUN_AND_WATCHER = Fault("kill -9 with the outer watcher", _kill_run_and_watcher, (KILLED,))
TERM_TWICE = Fault("SIGTERM twice", _term_twice, (TERMINATED,))
PAUSE = Fault("SIGSTOP and SIGCONT the trainer", _pause)
SECOND_RUN = Fault("a second run in the folder", _second_run)


# -- a server that is somebody else's ----------------------------------------------------------------------------


def _lose_server(scene: Scene) -> None:
    scene.job.beside.down, scene.job.beside.fake.healthy = True, False


def _find_server(scene: Scene) -> None:
    scene.job.beside.down, scene.job.beside.fake.healthy = False, True


LOSE_SERVER = Fault("the server goes away", _lose_server, (1,), repair=_find_server)


# -- the disk -----------------------------------------------------------------------------------------------------

DISK_MIB = 256  # of an episode that fills its disk


def _fill(scene: Scene) -> None:
    """Leave at most a random few KiB of the run's disk, so that something small may still fit."""
    _fill_up(scene.run_dir / "ballast", spare=scene.rng.choice([0, 4096, 65536, 2**20]))


def _fill_up(path: Path, spare: int) -> None:
    with path.open("wb", buffering=0) as file:
        with suppress(OSError):  # the disk is full
            while True:
                file.write(bytes(2**20))
        file.truncate(max(0, file.tell() - spare))


def _fill_shm(scene: Scene) -> None:
    _fill_up(scene.enclosure.seen(SHM) / "ballast", spare=2**20)


FILL = Fault("disk full", _fill, (0, 1), repair=lambda scene: (scene.run_dir / "ballast").unlink(missing_ok=True))
FILL_SHM = Fault(
    "/dev/shm full",
    _fill_shm,
    (0, 1),
    repair=lambda scene: (scene.enclosure.seen(SHM) / "ballast").unlink(missing_ok=True),
)


# -- damage to what a killed run left -----------------------------------------------------------------------------


def killed_then(name: str, damage: Damage, damaged: str = "", may_refuse: bool = False) -> Fault:
    """kill -9 and, before the run is resumed, damage. `damaged`: a word that has to be said about it."""
    return replace(KILL, name=f"kill -9 and {name}", damage=damage, damaged=damaged, may_refuse=may_refuse)


def of_newest(file: str, harm: Harm) -> Damage:
    return lambda run_dir, rng: harm(checkpoints(run_dir)[-1] / file, rng)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(1, path.stat().st_size))


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def delete(path: Path, _: random.Random) -> None:
    path.unlink()


def clear(folder: Path, _: random.Random) -> None:
    for file in folder.iterdir():
        file.unlink()


def damage_all(run_dir: Path, rng: random.Random) -> None:
    for folder in checkpoints(run_dir):
        truncate(folder / STATE_FILE, rng)


def half_a_line(name: str) -> Damage:
    """As a kill in the middle of a write leaves it."""
    return lambda run_dir, rng: _append(run_dir / name, b'{"step": 9'[: rng.randrange(1, 10)])


def cut_last_line(name: str) -> Damage:
    return lambda run_dir, rng: os.truncate(run_dir / name, (run_dir / name).stat().st_size - rng.randrange(2, 9))


def no_line(name: str) -> Damage:
    """Bytes that are no text in the middle of the file, as a disk leaves them that lost power."""

    def harm(run_dir: Path, rng: random.Random) -> None:
        lines = (run_dir / name).read_bytes().splitlines(keepends=True)
        lines[rng.randrange(len(lines))] = b"\0" * 40 + b"\xff\n"
        (run_dir / name).write_bytes(b"".join(lines))

    return harm


def rollouts(harm: Harm) -> Damage:
    return lambda run_dir, rng: harm(rng.choice(sorted((run_dir / "rollouts").glob("*.parquet"))), rng)


def other_json(path: Path, _: random.Random) -> None:
    path.write_text(json.dumps(["not", "what", "was", "expected"]))


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
