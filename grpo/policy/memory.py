"""Memory that a step frees stays with the process, so that the next step does not pay for its pages again."""

from __future__ import annotations

import ctypes

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of giving them back to the kernel; elsewhere, nothing happens.

    By default every tensor of more than a few MiB is mapped afresh and its pages are zeroed one fault at a time:
    a training step on a CPU spends much of its time there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
