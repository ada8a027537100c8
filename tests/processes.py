"""Whether processes have ended."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil

PATIENCE = 120.0  # seconds, of a machine that has much else to do


def gone(group: int) -> bool:
    """Whether no process of the group is left; waits for it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def ended(pid: int) -> bool:
    """Whether one process has ended, a zombie included; waits for it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def killed_with(code: str, n: int) -> list[int]:
    """Run a program in Python until it has `n` descendants, kill it, and return them."""
    caller = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parents[1])
    inside: list[int] = []
    while len(inside) < n:
        assert caller.poll() is None
        inside = [one.pid for one in psutil.Process(caller.pid).children(recursive=True)]
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    return inside
