"""What a person sees of an evaluation: bars with the time left in a terminal, a line at each tenth elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich import progress as bars
from rich.console import Console

from eval.types import Generation
from grpo.duration import duration

TENTHS = 10


class Progress(Protocol):
    def start(self, benchmark: str, done: int, total: int) -> None: ...
    def step(self, generation: Generation) -> None: ...
    def close(self) -> None: ...


class Silent:
    def start(self, benchmark: str, done: int, total: int) -> None: ...
    def step(self, generation: Generation) -> None: ...
    def close(self) -> None: ...


def open_progress(console: Console) -> Progress:
    """`isatty` because FORCE_COLOR makes rich see a terminal in CI."""
    return Bars(console) if console.is_interactive and console.file.isatty() else Lines(console)


class Tally:
    """A benchmark's completions: those that came, those that failed, and the share of the graded that is right."""

    def __init__(self, done: int, total: int) -> None:
        self.stored, self.total = done, total
        self.new = self.failed = self.graded = 0
        self.right = 0.0

    @property
    def done(self) -> int:
        return self.stored + self.new

    def add(self, generation: Generation) -> None:
        self.new += 1
        self.failed += generation.failure is not None
        if generation.value is not None:
            self.graded += 1
            self.right += generation.value

    def in_words(self) -> str:
        """Of this session alone: what was stored before is in the results."""
        so_far = [f"{self.right / self.graded:.1%} right so far"] if self.graded else []
        return ", ".join([*so_far, *([f"{self.failed} failed"] if self.failed else [])])


class Lines:
    """`gsm8k 20/200, 3m 05s left, 31.2% right so far`, at each tenth of a benchmark."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tallies: dict[str, Tally] = {}
        self._started = time.monotonic()

    def start(self, benchmark: str, done: int, total: int) -> None:
        self._tallies[benchmark] = Tally(done, total)
        self._started = time.monotonic()
        self._print(f"{benchmark}: {total} completions" + (f", {done} of them stored already" if done else ""))

    def step(self, generation: Generation) -> None:
        tally = self._tallies[generation.benchmark]
        before = tally.done * TENTHS // tally.total
        tally.add(generation)
        if tally.done * TENTHS // tally.total > before:
            facts = [f"{generation.benchmark} {tally.done}/{tally.total}", f"{self._left()} left", tally.in_words()]
            self._print(", ".join(filter(None, facts)))

    def close(self) -> None: ...

    def _left(self) -> str:
        """Of all benchmarks, at the mean pace of this session."""
        new = sum(tally.new for tally in self._tallies.values())
        left = sum(tally.total - tally.done for tally in self._tallies.values())
        return duration((time.monotonic() - self._started) / new * left)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """A bar for each benchmark, redrawn as completions come."""

    def __init__(self, console: Console) -> None:
        self._tallies: dict[str, Tally] = {}
        self._tasks: dict[str, bars.TaskID] = {}
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[facts]}"),
            console=console,
        )
        self._bars.start()

    def start(self, benchmark: str, done: int, total: int) -> None:
        self._tallies[benchmark] = Tally(done, total)
        self._tasks[benchmark] = self._bars.add_task(benchmark, completed=done, total=total, facts="")

    def step(self, generation: Generation) -> None:
        tally = self._tallies[generation.benchmark]
        tally.add(generation)
        self._bars.update(self._tasks[generation.benchmark], completed=tally.done, facts=tally.in_words())

    def close(self) -> None:
        self._bars.stop()
