"""Where the seconds of a training step go, on a CPU and on a GPU alike."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Adds up the time of named parts.

        with watch("forward"): ...
        watch.seconds()     # {"seconds_forward": 0.31}

    On CUDA, events mark the stream and nothing waits for it before `seconds` does.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: defaultdict[str, list[tuple[Any, Any]]] = defaultdict(list)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = self._mark()
        yield
        self._marks[part].append((start, self._mark()))

    def seconds(self) -> dict[str, float]:
        if self._cuda:
            torch.cuda.synchronize()
        return {
            f"seconds_{part}": sum(a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in marks)
            for part, marks in self._marks.items()
        }

    def _mark(self) -> Any:
        if not self._cuda:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
