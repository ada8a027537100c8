"""What the processes of a tree use together, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")


class Use(NamedTuple):
    """Of a process and its descendants. Pages that several share are counted for each."""

    memory_bytes: int
    cpu_seconds: float  # of those that run, and of those that have been waited for
    processes: tuple[int, ...]


def use_of(pid: int) -> Use:
    """Of what ended meanwhile, nothing."""
    memory, cpu, found, queue = 0, 0.0, [], [pid]
    while queue:
        one = queue.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text()
            # What follows the name, which may hold anything: utime, stime, cutime, cstime are fields 14 to 17.
            numbers = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            queue += _children(one)
        except OSError:
            continue
        found.append(one)
        cpu += sum(map(int, numbers[11:15])) / TICKS
        for line in status.splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                memory += int(line.split()[1]) * 1024
    return Use(memory, cpu, tuple(found))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found
