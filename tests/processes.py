"""Whether processes have ended."""

from __future__ import annotations

import os
import time


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
