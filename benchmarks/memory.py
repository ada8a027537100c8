"""Memory that a process has to itself, and its highest while something runs.

RssAnon of /proc/PID/status: pages that no file is behind. Files that are mapped (libraries, weights as they lie on the
disk) and shared memory are not in it: the kernel can drop the ones, and the others are counted where they lie.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

GIB = 2**30
INTERVAL = 0.005  # seconds between two looks


def private(pid: int) -> int:
    """Bytes; 0 of a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


class Peak:
    """The highest that `measure` gave while the block ran.

    with Peak(lambda: private(pid)) as peak:
        ...
    peak.bytes
    """

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure, self._over = measure, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.bytes = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()
        self.bytes = max(self.bytes, self._measure())

    def _look(self) -> None:
        while not self._over.is_set():
            self.bytes = max(self.bytes, self._measure())
            self._over.wait(INTERVAL)


def of_all(pids: Iterable[int]) -> int:
    return sum(map(private, pids))
