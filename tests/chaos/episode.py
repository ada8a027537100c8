"""One episode: a run, the faults that strike it one after the other, and what must hold at the end.

    result = play(Episode(PLAIN, [Strike(KILL, sampling(2))], seed=0))
    assert result.all_findings == []

A run that a fault strikes goes on by itself and ends with 0. Or it ends with a code that the fault allows and one
message, and `--resume` goes on with it. At the end every prompt was trained exactly once and nothing is left behind.
"""

from __future__ import annotations

import functools
import random
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tests.chaos.enclosure import Attempt, Enclosure
from tests.chaos.faults import DISK_MIB, FILL, HUNG_UP, INTERRUPTED, TERMINATED, Fault, Scene
from tests.chaos.leftovers import half_written, leftovers
from tests.chaos.moments import Moment, Stored

MOST_ATTEMPTS, MOST_PLAYS = 8, 4
STOPPED = (TERMINATED, HUNG_UP, INTERRUPTED)


class Job(Protocol):
    """A command of `zero` that can be started, stopped and gone on with: training.py and evaluation.py have them."""

    name: str
    seconds: float  # that one attempt may take on a busy machine
    like: Job | None  # one whose undisturbed records must be these; None: its own

    def opened(self) -> AbstractContextManager[Job]:
        """With what it needs beside it, such as a server."""
        ...

    def line(self, folder: Path) -> list[str]:
        """The command; with --resume, it goes on."""
        ...

    def begun(self, folder: Path) -> bool:
        """Whether there is something to go on with."""
        ...

    def pasted(self, attempt: Attempt) -> list[str]:
        """The command that it said to go on with, if it said one."""
        ...

    def stopped(self, folder: Path) -> list[str]:
        """What is wrong with the folder that it left when it was asked to stop."""
        ...

    def ended(self, folder: Path) -> None:
        """Called when an attempt has ended, before the next one."""
        ...

    def records(self, folder: Path) -> Any: ...

    def log(self, folder: Path) -> str: ...

    def miscounted(self, found: Any, whole: Any, exact: bool) -> list[str]:
        """Differences to the records of an undisturbed run. `exact`: no fault may have changed a value."""
        ...


@dataclass(frozen=True)
class Strike:
    fault: Fault
    moment: Moment | Stored

    def __str__(self) -> str:
        return f"{self.fault.name}@{self.moment.text or 'importing'}"


@dataclass(frozen=True)
class Episode:
    job: Job
    strikes: Sequence[Strike] = ()
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.job.name}: {', '.join(map(str, self.strikes)) or 'nothing'}"


@dataclass
class Result:
    """`findings`: what did not hold; `codes`: of the attempts; `left`: of the findings, what was left behind."""

    episode: str
    codes: list[int | None] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    struck: int = 0

    def leave(self, found: Sequence[str]) -> None:
        """What an attempt left is there after the next ones, too."""
        self.left = list(dict.fromkeys([*self.left, *found]))

    @property
    def resumed(self) -> int:
        return max(0, len(self.codes) - 1)

    @property
    def all_findings(self) -> list[str]:
        return [*self.findings, *self.miscounted, *(f"left behind: {one}" for one in self.left)]


class Over(Exception):
    """The episode cannot go on; its findings say why."""


class Missed(Over):
    """The run came to its end before the moment of a strike, or before the strike, on a busy machine."""


class Play:
    """An episode while it is played."""

    def __init__(self, episode: Episode, enclosure: Enclosure) -> None:
        self.episode, self.job, self.enclosure = episode, episode.job, enclosure
        self.rng = random.Random(f"{episode.seed}/{episode}")
        self.result = Result(str(episode))
        self.struck: list[Fault] = []
        self.scenes: list[tuple[Fault, Scene]] = []  # of the present attempt
        self.may_refuse = self.refused = False
        self.pasted: Attempt | None = None  # what a stopped run said to go on with
        self.again = [*self.job.line(enclosure.run_dir), "--resume"]
        self.run_dir = enclosure.seen(enclosure.run_dir)

    def run(self) -> None:
        """Through all strikes to an end with code 0. Raises Over."""
        attempt = self.enclosure.start(self.again[:-1])
        for strike in self.episode.strikes:
            while not strike.moment.wait(attempt, self.rng, self.job.seconds):
                attempt = self._next(attempt, f"before {strike}")
            attempt = self._struck(strike.fault, attempt)
        while (ended := self._next(attempt, "at the end")) is not attempt:
            attempt = ended

    def _struck(self, fault: Fault, attempt: Attempt) -> Attempt:
        scene = Scene(self.enclosure, attempt, self.job, self.again, self.rng, self.result.findings)
        self.scenes.append((fault, scene))
        self.struck.append(fault)
        fault.strike(scene)
        self.result.struck += 1
        return self._next(attempt, f"after {fault.name}") if fault.ends else attempt

    def _next(self, attempt: Attempt, when: str) -> Attempt:
        """Wait for the end of an attempt, judge it, and go on with it; itself if it ended with 0 and all is done."""
        code = attempt.code(self.job.seconds)
        self.result.codes.append(code)
        if attempt is self.pasted and code == 2:
            self.result.findings.append(f"what it said to go on with is refused: {attempt.stderr().strip()[:200]}")
            return self.enclosure.start(self.again)
        allowed = {0, *(code for fault, _ in self.scenes for code in fault.codes)}
        refused = self.may_refuse and not self.scenes and code in (1, 2)
        judge(attempt, code, {*allowed, *((1, 2) if refused else ())}, when, self.result.findings)
        if refused or (code == 0 and when == "at the end"):
            self.refused = refused
            return attempt
        # A code that no fault explains would come again.
        if code in (0, None) or not self.scenes or len(self.result.codes) > MOST_ATTEMPTS:
            self.result.findings += [f"ended with 0 {when}"] if code == 0 else []
            raise Missed if code == 0 and when.startswith("before") else Over
        self._leave_and_repair(code)
        return self._resume(attempt, code)

    def _leave_and_repair(self, code: int | None) -> None:
        self.result.leave(leftovers(self.enclosure))
        if code in STOPPED:
            self.result.findings += self.job.stopped(self.run_dir)
        for fault, _ in self.scenes:
            self.may_refuse |= fault.may_refuse
            if fault.damage:
                fault.damage(self.run_dir, self.rng)
        self.repair()
        self.job.ended(self.run_dir)

    def repair(self) -> None:
        """Take away what the faults of the present attempt put there."""
        for fault, scene in self.scenes:
            if fault.repair:
                fault.repair(scene)
        self.scenes = []

    def _resume(self, attempt: Attempt, code: int | None) -> Attempt:
        if not self.job.begun(self.run_dir):  # it ended before there was anything to go on with
            return self.enclosure.start(self.again[:-1])
        if code in STOPPED and (line := self.job.pasted(attempt)):
            self.pasted = self.enclosure.start(line)
            return self.pasted
        return self.enclosure.start(self.again)


def play(episode: Episode, keep: Path | None = None) -> Result:
    """Play an episode, again if it missed a moment, and judge it. `keep`: gets a copy of what is there at the end."""
    for _ in range(MOST_PLAYS - 1):
        with suppress(Missed):
            return _play(episode, keep)
    try:
        return _play(episode, keep)
    except Missed:
        return Result(str(episode), miscounted=[f"missed its moments {MOST_PLAYS} times"])


def _play(episode: Episode, keep: Path | None) -> Result:
    filled = any(strike.fault.name == FILL.name for strike in episode.strikes)
    with Enclosure(DISK_MIB if filled else None) as enclosure, episode.job.opened() as job:
        player = Play(replace(episode, job=job), enclosure)
        result = player.result
        try:
            player.run()
        except Missed:
            raise
        except Over:
            result.miscounted += ["it did not come to its end"]
        else:
            if not player.refused:
                result.miscounted += _miscounted(player, undisturbed(episode.job.like or episode.job))
            player.repair()
            result.leave([*leftovers(enclosure), *half_written(player.run_dir)])
        if keep is not None:
            shutil.copytree(enclosure.base, keep, ignore=shutil.ignore_patterns("tmp"))
            if player.run_dir.is_dir():  # on a disk of its own
                shutil.copytree(player.run_dir, keep / enclosure.run_dir.name, dirs_exist_ok=True)
    return result


def _miscounted(player: Play, whole: Any) -> list[str]:
    """Differences to the undisturbed run, but for what the run itself said to be damaged."""
    job, folder = player.job, player.run_dir
    found = job.miscounted(job.records(folder), whole, exact=all(fault.exact for fault in player.struck))
    words = [fault.damaged for fault in player.struck if fault.damaged]
    return [line for line in found if not any(word in line and word in job.log(folder) for word in words)]


@functools.cache
def undisturbed(job: Job) -> Any:
    """The records of a run in which nothing happens. Raises RuntimeError if it fails all the same."""
    with Enclosure() as enclosure, job.opened() as opened:
        player = Play(Episode(opened), enclosure)
        player.run()
        if player.result.codes != [0] or player.result.findings:
            raise RuntimeError(f"{job.name}, undisturbed: {player.result}")
        return opened.records(player.run_dir)


# -- how a command may end ----------------------------------------------------------------------------------------


def judge(attempt: Attempt, code: int | None, allowed: set[int], when: str, findings: list[str]) -> None:
    """Adds what is wrong with this end."""
    if code is None:
        findings.append(f"still running {when}; its log ends: {attempt.log().strip().splitlines()[-1:]}")
        return
    if code not in allowed:
        findings.append(f"ended with {code} {when}, expected {' or '.join(map(str, sorted(allowed)))}")
    findings += [f"{complaint} ({when}, code {code})" for complaint in complaints(attempt, code)]


def complaints(attempt: Attempt, code: int) -> list[str]:
    said, stderr = attempt.said(), attempt.stderr()
    found = []
    if "Traceback (most recent call last)" in said or "Exception ignored in" in said:
        found.append(f"a traceback: {stderr.strip().splitlines()[-1:]}")
    messages = re.findall(r"^(?:error|failed): .*", said, re.MULTILINE)
    if code in (1, 2) and len(messages) != 1:
        found.append(f"expected one message, got {messages or 'none'}")
    done = any((attempt.folder / name).is_file() for name in ("summary.json", "results.json"))
    if code in STOPPED and "--resume" not in said and not done:  # a signal may come when all is done
        found.append("not a word about how to go on")
    return found
