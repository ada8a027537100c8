"""Whether processes have ended."""

from __future__ import annotations

import os
import time

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
