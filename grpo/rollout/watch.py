"""Runs a command and makes sure that none of its processes outlives us, however we end.

    python -P watch.py PARENT_PID FOLDER[:FOLDER...] COMMAND...

A process that is killed with -9 cannot clean up after itself. So the server runs under this one, in a session
of its own (Ctrl-C in the terminal does not reach it), which notices that its parent is gone, stops
every descendant and removes the parent's folders in shared memory. It adopts orphans (PR_SET_CHILD_SUBREAPER),
so no descendant can escape. It polls rather than holds a pipe: forks of the parent would keep a pipe open.
vLLM leaves the sockets between its processes behind, so it gets a folder for them that goes when it is gone.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

import psutil

POLL = 0.2  # seconds
GRACE = 5.0  # seconds that the command has to stop by itself
PR_SET_CHILD_SUBREAPER = 36
SOCKETS = "VLLM_RPC_BASE_PATH"  # where vLLM puts them; the folder of temporary files otherwise


def main(arguments: list[str]) -> int:
    parent, folders, command = int(arguments[0]), arguments[1], arguments[2:]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # runs the `finally` below
    with tempfile.TemporaryDirectory(prefix="zero-", dir=os.environ.get(SOCKETS)) as sockets:
        child = subprocess.Popen(command, env={**os.environ, SOCKETS: sockets})
        try:
            while child.poll() is None and os.getppid() == parent:
                time.sleep(POLL)
            return child.returncode or 0
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            stop(child)
            if os.getppid() != parent:
                for folder in filter(None, folders.split(":")):
                    shutil.rmtree(folder, ignore_errors=True)


def stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the command to stop, then kill whatever is left of its tree."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(descendants, timeout=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
