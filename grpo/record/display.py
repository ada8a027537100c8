"""What a person sees of a run: a live panel in a terminal, plain aligned lines elsewhere."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grpo.record.duration import duration
from grpo.record.keys import Keys, listen
from grpo.record.latest import Latest

BARS = "▁▂▃▄▅▆▇█"
TREND_WIDTH = 40

# Metric, its name in the panel, format.
ROWS = (
    ("reward", "reward", "{:.3f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("length", "length", "{:.1f} tokens"),
    ("entropy", "entropy", "{:.3f} nats"),
    ("truncated", "cut short", "{:.1%}"),
    ("tokens_per_second", "throughput", "{:,.0f} tokens/s"),
)
# Metric, its heading in the lines, width, format.
COLUMNS = (
    ("reward", "reward", 8, "{:.3f}"),
    ("accuracy", "accuracy", 10, "{:.1%}"),
    ("length", "length", 8, "{:.1f}"),
    ("entropy", "entropy", 9, "{:.3f}"),
    ("tokens_per_second", "tokens/s", 10, "{:,.0f}"),
    ("seconds", "seconds", 9, "{:.1f}"),
)
# The same of supervised fine-tuning, which samples nothing.
SUPERVISED_ROWS = (
    ("loss", "loss", "{:.4f} nats"),
    ("heldout_loss", "held-out loss", "{:.4f} nats"),
    ("entropy", "entropy", "{:.3f} nats"),
    ("tokens_per_second", "throughput", "{:,.0f} tokens/s"),
)
SUPERVISED_COLUMNS = (
    ("loss", "loss", 9, "{:.4f}"),
    ("heldout_loss", "held out", 10, "{:.4f}"),
    ("entropy", "entropy", 9, "{:.3f}"),
    ("tokens_per_second", "tokens/s", 10, "{:,.0f}"),
    ("seconds", "seconds", 9, "{:.1f}"),
)
HEADING_EVERY = 25  # lines
# The panel's keys; j and k as on the page.
MOVES = {"j": 1, "k": -1}
HINT, READING_HINT = "c: the latest completions", "c: the numbers · j, k: the next one, the one before"
FRAME = 10  # lines of the panel that are not of the completion: borders, progress, stage, hint; one below it


class Display(Protocol):
    def stage(self, message: str) -> None: ...
    def note(self, text: str) -> None: ...
    def step(self, step: int, metrics: Mapping[str, float | None]) -> None: ...
    def evaluation(self, step: int, result: Mapping[str, Any]) -> None: ...
    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def close(self) -> None: ...


def open_display(console: Console, title: str, total_steps: int) -> Display:
    """The panel where it can be redrawn, else lines. `isatty` because FORCE_COLOR makes rich see a terminal in CI."""
    if console.is_interactive and console.file.isatty():
        return LiveDisplay(console, title, total_steps)
    return LineDisplay(console, total_steps)


class LineDisplay:
    """One line a step. Stages are lines until the first step is done; afterwards they would drown the steps."""

    def __init__(self, console: Console, total_steps: int) -> None:
        self._console, self._pace = console, Pace(total_steps)
        self._started, self._steps = time.monotonic(), 0
        self._columns = list(COLUMNS)

    def stage(self, message: str) -> None:
        if not self._steps:
            self._print(f"[{time.monotonic() - self._started:5.0f} s] {message}")

    def note(self, text: str) -> None:
        self._print(text)

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        width = 2 * len(str(self._pace.total_steps)) + 6
        # No reward may be an accuracy.
        kind = COLUMNS if "reward" in metrics else SUPERVISED_COLUMNS
        columns = [one for one in kind if one[0] != "accuracy" or metrics.get("accuracy") is not None]
        if self._steps % HEADING_EVERY == 0 or columns != self._columns:
            heads = "".join(f"{heading:>{size}}" for _, heading, size, _ in columns)
            self._print(f"{'step':<{width}}{heads}{'left':>9}")
        self._steps, self._columns = self._steps + 1, columns
        self._pace.step(step, metrics)
        values = "".join(f"{show(metrics.get(key), form):>{size}}" for key, _, size, form in columns)
        self._print(f"{f'{step}/{self._pace.total_steps}':<{width}}{values}{self._pace.left():>9}")

    def evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        of = f" of {result['n']} problems" if result["n"] else ""
        self._print(f"held-out accuracy after step {step}: {interval(result)}{of}")
        for name, one in result.get("tasks", {}).items():
            self._print(f"  {name}: {interval(one)} of {one['n']} problems")

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def close(self) -> None:
        pass

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """A panel that is redrawn four times a second, also while a step computes; a key shows the latest completions."""

    def __init__(self, console: Console, title: str, total_steps: int) -> None:
        self._console, self._title, self._pace = console, title, Pace(total_steps)
        self._history: dict[str, list[float]] = {key: [] for key, _, _ in (*ROWS, *SUPERVISED_ROWS)}
        self._metrics: Mapping[str, float | None] = {}
        self._evaluations: dict[int, Mapping[str, Any]] = {}
        self._stage, self._stage_started = "starting", time.monotonic()
        self._latest, self._reading = Latest(), False
        self._keys: Keys | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)
        self._live.start()
        self._keys = listen(self._press)

    def stage(self, message: str) -> None:
        self._stage, self._stage_started = message, time.monotonic()

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)  # a command must paste as one line

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        self._metrics = metrics
        self._pace.step(step, metrics)
        for key, values in self._history.items():
            value = metrics.get(key)
            if value is not None and math.isfinite(value):
                values.append(value)

    def evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        self._evaluations[step] = result

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self._latest.put(step, rows)

    def close(self) -> None:
        self._stage, self._reading = "ended", False
        if self._keys:
            self._keys.close()
        self._live.stop()

    def _press(self, key: str) -> None:
        if key == "c":
            self._reading = not self._reading
        elif key in MOVES and self._reading:
            self._latest.move(MOVES[key])
        else:
            return
        self._live.refresh()

    def _render(self) -> RenderableType:
        elapsed = time.monotonic() - self._stage_started
        now = Text("ended" if self._stage == "ended" else f"{self._stage} · {duration(elapsed)}", style="dim")
        if self._reading:
            width, height = self._console.size
            shown: list[RenderableType] = [self._latest.lines(max(width - 6, 20), max(height - FRAME, 5))]
        else:
            shown = [self._numbers(), self._held_out()]
        lines: list[RenderableType] = [self._progress(), Text(), *shown, Text(), now]
        if self._keys and self._latest and self._stage != "ended":
            lines.append(Text(READING_HINT if self._reading else HINT, style="dim"))
        return Panel(Group(*lines), title=self._title, padding=(1, 2))

    def _progress(self) -> Table:
        bar = ProgressBar(total=self._pace.total_steps, completed=self._pace.done)
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column()
        row.add_column(ratio=1)
        row.add_column(justify="right")
        row.add_row(f"step {self._pace.done}/{self._pace.total_steps}", bar, f"{self._pace.left()} left")
        return row

    def _numbers(self) -> Table:
        table = Table.grid(padding=(0, 2))
        supervised = self._metrics and "reward" not in self._metrics
        for key, name, form in SUPERVISED_ROWS if supervised else ROWS:
            if key == "accuracy" and self._metrics and not self._history[key]:
                continue  # no reward is one
            trend = Text(sparkline(self._history[key]), style="cyan")
            table.add_row(name, Text(show(self._metrics.get(key), form), style="bold", justify="right"), trend)
        return table

    def _held_out(self) -> Text:
        steps = sorted(self._evaluations)
        ends = dict.fromkeys([*steps[:1], *steps[-1:]])
        shown = "  →  ".join(f"{interval(self._evaluations[step])} at step {step}" for step in ends)
        text = Text.assemble("held-out    ", (shown or "-", "bold green"))
        for name in self._evaluations[steps[-1]].get("tasks", {}) if steps else ():
            of_task = "  →  ".join(interval(self._evaluations[step]["tasks"][name]) for step in ends)
            text.append(f"\n  {name}: {of_task}")
        return text


class Pace:
    """How far a run is and how long the rest will take, from the median of its last ten steps."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps, self.done = total_steps, 0
        self._seconds: list[float] = []

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        self.done = step
        self._seconds = [*self._seconds, metrics.get("seconds") or 0.0][-10:]

    def left(self) -> str:
        if not self._seconds:
            return "-"
        return duration((self.total_steps - self.done) * statistics.median(self._seconds))


def sparkline(values: Sequence[float], width: int = TREND_WIDTH) -> str:
    """The whole history in at most `width` bars, each the mean of its share of the values."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else [0]
    means = [statistics.fmean(values[low:high]) for low, high in pairwise(edges)]
    low, span = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    return "".join(BARS[int((mean - low) / span * (len(BARS) - 1)) if span else 0] for mean in means)


def show(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else form.format(value)


def interval(result: Mapping[str, Any]) -> str:
    """`38.0% [32.1, 44.2]`: accuracy and its 95% interval; without a graded problem there is neither."""
    if result.get("n") == 0:
        return "none, no answer could be graded"
    return f"{result['accuracy']:.1%} [{100 * result['low']:.1f}, {100 * result['high']:.1f}]"
