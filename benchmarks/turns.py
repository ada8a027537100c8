"""Programs that take turns on one machine, so that the machine's mood meets all of them.

    with Turns({"ours": (train, settings), "trl": (train_trl, settings)}, folder) as turns:
        turns.warm_up(2)
        for _ in range(5):
            turns.round()             # each side one step, the other stopped meanwhile

Each side is a function in a process of its own: `function(baton, settings)`, which calls `baton.pass_on(report)` after
each step. Until its next turn the process, its other threads included, and whatever it has started (a server) are
stopped (SIGSTOP). Its output goes to FOLDER/NAME.log. Seconds are of this process's clock, from go to report.

Peak memory is the kernel's high-water mark of resident memory (VmHWM), set back after the warm-up; on a GPU, that of
torch's allocator.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30
# Nothing here talks to a hub, and a benchmark needs no telemetry of the library that it measures.
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "TRANSFORMERS_VERBOSITY": "error", "TRL_EXPERIMENTAL_SILENCE": "1"}

Report = Mapping[str, Any]
Program = tuple[Callable[["Baton", Any], None], Any]


class Stopped(Exception):
    """Raised in a side's process when no further turn will come."""


class Baton:
    """What a side's process holds of the game."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def pass_on(self, report: Report) -> None:
        """Hand in what the step was like, and wait for the next turn. Raises Stopped where there is none."""
        self._connection.send({**report, **_gpu_peak()})
        while (word := self._connection.recv()) == "forget the peak":
            _forget_gpu_peak()
        if word == "stop":
            raise Stopped


class Side:
    """One program in its process."""

    def __init__(self, name: str, program: Program, folder: Path) -> None:
        self._log = folder / f"{name}.log"
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_play, args=(program, theirs, self._log), name=name)
        os.environ.update(QUIET)
        self._process.start()
        theirs.close()
        self.first: Report = {}  # of the step that it took to get here
        self.seconds: list[float] = []
        self.reports: list[Report] = []

    def wait(self) -> Report:
        """The next report; then everything that the side runs is stopped."""
        try:
            report = self._connection.recv()
        except EOFError:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"{self._process.name} ended early; the end of its log:\n{tail}") from None
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        return report

    def turn(self) -> None:
        started = time.monotonic()
        self._go("go")
        report = self.wait()
        self.seconds.append(time.monotonic() - started)
        self.reports.append(report)

    def forget(self) -> None:
        """Forget what was measured, and the peak of memory."""
        self.seconds.clear()
        self.reports.clear()
        for process in self._tree():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # sets VmHWM back, see man 5 proc
        self._connection.send("forget the peak")

    def peak_gib(self) -> dict[str, float]:
        """`gpu` of torch's allocator where there is one; `process` of the side's own; `all` with what it started."""
        peaks = [_high_water(process.pid) for process in self._tree()]
        gpu = {"gpu": self.reports[-1]["gpu_peak_gib"]} if "gpu_peak_gib" in self.reports[-1] else {}
        return {"process": peaks[0], "all": sum(peaks), **gpu}

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self._go("stop")
        self._process.join(60)
        for process in self._tree() if self._process.is_alive() else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.join()

    def _go(self, word: str) -> None:
        self._connection.send(word)
        for process in reversed(self._tree()):  # a server before the one that asks it
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _tree(self) -> list[psutil.Process]:
        """The side's own process, and all that it started."""
        try:
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Turns:
    """Sides that play one after the other. Each starts only when the one before has reached its first report."""

    def __init__(self, programs: Mapping[str, Program], folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self.sides: dict[str, Side] = {}

    def __enter__(self) -> Turns:
        try:
            for name, program in self._programs.items():
                self.sides[name] = Side(name, program, self._folder)
                self.sides[name].first = self.sides[name].wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for side in self.sides.values():
            side.close()

    def warm_up(self, rounds: int) -> None:
        for _ in range(rounds):
            self.round()
        for side in self.sides.values():
            side.forget()

    def round(self, steps: int = 1) -> None:
        for side in self.sides.values():
            for _ in range(steps):
                side.turn()


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Spread of their time over ours, turn by turn."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def _play(program: Program, connection: Connection, log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(descriptor, stream)
    function, settings = program
    try:
        function(Baton(connection), settings)
    except Stopped:
        pass
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        connection.close()


def _high_water(pid: int) -> float:
    """GiB"""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / GIB
    return 0.0  # a process that is ending has no memory any more


def _gpu_peak() -> dict[str, float]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"gpu_peak_gib": torch.cuda.max_memory_allocated() / GIB}


def _forget_gpu_peak() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
