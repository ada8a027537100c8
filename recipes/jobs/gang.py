"""One machine's share of the trainer's processes, as one of Ray's actors."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from grpo.rollout.fleet.host import Host, own_address
from grpo.rollout.fleet.ray import environment
from recipes.jobs.processes import OUTCOME, PR_SET_PDEATHSIG

PROGRAM = ("-P", "-c", "from recipes.command.main import main; main()")
STREAMS = ("stdout", "stderr")
Texts = tuple[bytes, ...]  # of STREAMS


@dataclass(frozen=True, slots=True)
class Rank:
    """A process to start. `variables`: beside the machine's own; `folder`: for what it prints."""

    number: int
    arguments: Sequence[str]
    variables: Mapping[str, str]
    folder: Path
    directory: str  # to work in


@dataclass(frozen=True, slots=True)
class Progress:
    """Exit codes of a machine's ranks (None: it runs), and of the leader, if it is here, what it printed and the exit
    code that it left for the command."""

    ended: Mapping[int, int | None]
    printed: Texts = (b"", b"")
    outcome: int | None = None


class TrainerHost(Host):
    """Starts ranks, which end with it.

    Its methods run in the actor's main thread, one after the other: a child's PR_SET_PDEATHSIG is about the thread.
    """

    def __init__(self) -> None:
        self._ranks: dict[int, subprocess.Popen[bytes]] = {}
        self._leader: Rank | None = None

    def free_port(self) -> int:
        with socket.create_server((own_address(), 0)) as server:
            return int(server.getsockname()[1])

    def start(self, ranks: Sequence[Rank], first: bool) -> list[int]:
        """Where what the leader prints begins, in its files. `first`: no run has been here before this one."""
        self._leader = next((rank for rank in ranks if rank.number == 0), None)
        if self._leader and first:
            Path(self._leader.variables[OUTCOME]).unlink(missing_ok=True)  # of a launcher that was killed
        begins = [file.stat().st_size if file.exists() else 0 for file in self._files()]
        own = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # it warns of addresses without a name
        if found := _interface(own_address()):
            own["GLOO_SOCKET_IFNAME"] = found  # else a machine's name decides which of its addresses gloo uses
        for rank in ranks:
            self._ranks[rank.number] = _started(rank, environment({**own, **rank.variables}))
        return begins

    def poll(self, since: Sequence[int]) -> Progress:
        """`since`: bytes of the leader's files that are known."""
        ended = {number: process.poll() for number, process in self._ranks.items()}
        if self._leader is None:
            return Progress(ended)
        printed = tuple(_read(file, start) for file, start in zip(self._files(), since, strict=True))
        outcome = Path(self._leader.variables[OUTCOME])
        return Progress(ended, printed, int(outcome.read_text()) if outcome.exists() else None)

    def signal(self, number: int) -> None:
        """To the leader."""
        if 0 in self._ranks and self._ranks[0].poll() is None:
            self._ranks[0].send_signal(number)

    def kill(self) -> None:
        """Returns when all are gone."""
        for process in self._ranks.values():
            process.kill()
        for process in self._ranks.values():
            process.wait()
        self._ranks.clear()

    def _files(self) -> list[Path]:
        return [self._leader.folder / f"{name}.log" for name in STREAMS] if self._leader else []


def _started(rank: Rank, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    owner = os.getpid()

    def die_with_actor() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != owner:
            os._exit(1)

    rank.folder.mkdir(parents=True, exist_ok=True)
    out, err = ((rank.folder / f"{name}.log").open("ab") for name in STREAMS)
    with out, err:
        return subprocess.Popen(
            [sys.executable, *PROGRAM, *rank.arguments],
            env=variables,
            cwd=rank.directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # a terminal's Ctrl-C on `ray start` is not the run's
            preexec_fn=die_with_actor,
        )


def _read(file: Path, start: int) -> bytes:
    with suppress(FileNotFoundError), file.open("rb") as stream:
        stream.seek(start)
        return stream.read()
    return b""


def _interface(address: str) -> str:
    """The network interface that has the address."""
    found = psutil.net_if_addrs().items()
    return next((name for name, its in found if any(one.address == address for one in its)), "")
