"""Whether processes have ended."""

from __future__ import annotations

import os
import time

import psutil


def gone(group: int, within: float) -> bool:
    """Whether no process of the group is left; waits `within` seconds for it."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def ended(pid: int, within: float) -> bool:
    """Whether one process has ended, a zombie included; waits `within` seconds for it."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False
