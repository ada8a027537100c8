"""A process whose descendants end with it, however it ends: user code may start servers, fork and leave its session.

    caller ──starts──▶ guard, which adopts orphans ──forks──▶ worker ──starts──▶ anything

The guard does nothing but wait. It kills every descendant when the worker has ended, when it is asked to (SIGTERM),
and when the caller is gone, killed with -9 included. Orphans become its children (PR_SET_CHILD_SUBREAPER), so that
none escapes; if the guard itself is killed, the kernel ends the worker (PR_SET_PDEATHSIG). Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from contextlib import suppress

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL = 0.2  # seconds between two looks at whether the caller is still there
END_SECONDS = 10.0  # that killing a tree may take; what is not gone then (a process of another user) is left


def guard(caller: int, connection: int) -> None:
    """Fork. Returns in the child, the worker; this process stays as its guard, and ends with the worker's exit code.

    connection: a descriptor that the worker alone keeps, so that the caller sees when it is closed.
    Call it in a process without threads. A worker that a signal n ended has the code 128 + n, as in a shell.
    """
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signals = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    parent, worker = os.getpid(), os.fork()
    if worker:
        os.close(connection)
        code = _ended(worker, caller)
        kill_descendants()
        os._exit(code if code >= 0 else 128 - code)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()  # signals to its own process group do not reach the guard
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _ended(worker: int, caller: int) -> int:
    """Wait, and reap adopted orphans. The worker's exit code; that of SIGTERM if it has to be killed."""
    while os.getppid() == caller:
        got = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, POLL)
        if got and got.si_signo == signal.SIGTERM:
            break
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                return os.waitstatus_to_exitcode(ended[1])
    return -signal.SIGTERM


def kill_descendants() -> None:
    """Kill this process's descendants, those that are started meanwhile too, and wait for their ends."""
    end = time.monotonic() + END_SECONDS
    while (descendants := psutil.Process().children(recursive=True)) and time.monotonic() < end:
        for process in descendants:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(descendants, timeout=1)


def end(guarded: subprocess.Popen[bytes]) -> None:
    """The caller's side: end the guard with all that it guards, and wait for it."""
    guarded.terminate()
    try:
        guarded.wait(2 * END_SECONDS)
    except subprocess.TimeoutExpired:  # it was stopped
        guarded.kill()
        guarded.wait()
