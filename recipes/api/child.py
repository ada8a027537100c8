"""Runs the `zero` command as a child of a program or a notebook.

There it has its own event loop, signals, threads and memory: a notebook's running loop does not matter, and nothing is
left in it afterwards. Ctrl-C, or a notebook's "interrupt", reaches the child once: it keeps a checkpoint, stops its
servers, and ends. A second one ends it at once. A child whose parent is killed gets SIGTERM, and does the same.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from recipes.errors import BAD_INPUT, InputError
from recipes.jobs.processes import PR_SET_PDEATHSIG
from rewards.user.loading import search_path

POLL = 0.2  # seconds between looks at whether the child has ended
KEPT = 20_000  # characters of the output, in which the error is looked for
# By these a notebook has programs write for its own cells: colours and a live display, which a pipe does not show.
OF_NOTEBOOKS = ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "MPLBACKEND")
REPEATED = 1.0  # seconds within which a second interrupt is the same key still held down


class RunFailedError(RuntimeError):
    """The command failed, though its input was good: exit code 1. The message is the command's own."""


def zero(arguments: Sequence[str], quiet: bool = False) -> None:
    """Run `zero` with the arguments; what it prints goes to sys.stdout as it comes, unless `quiet`.

    Raises InputError or RunFailedError with the command's message; KeyboardInterrupt when it was stopped and has ended.
    """
    program = [sys.executable, "-P", "-u", "-c", "from recipes.command.main import main; main()", *arguments]
    kept = {name: value for name, value in os.environ.items() if name not in OF_NOTEBOOKS}
    environment = {**kept, "PYTHONPATH": search_path(), "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # a notebook sends its interrupt to the whole group: the child would get it twice
        preexec_fn=_goes_with_us,
    ) as process:
        with _interrupts():
            said = _follow(process, (lambda text: None) if quiet else _show)
        _raise(process.wait(), said)


def _follow(process: subprocess.Popen[bytes], show: Callable[[str], None]) -> str:
    """Show what the child prints until it ends; returns the end of it."""
    assert process.stdout is not None
    decoder, said, stopped = codecs.getincrementaldecoder("utf-8")("replace"), "", 0.0
    while True:
        try:
            ended = process.poll() is not None  # first: what is there then is the last
            if select.select([process.stdout], [], [], 0 if ended else POLL)[0]:
                content = os.read(process.stdout.fileno(), 1 << 16)
                said = (said + (text := decoder.decode(content)))[-KEPT:]
                show(text)
                if content:
                    continue
            if ended:
                return said
        except KeyboardInterrupt:
            if time.monotonic() - stopped > REPEATED:
                stopped = time.monotonic()
                process.send_signal(signal.SIGINT)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt here; asyncio.run would keep it for a task that waits, and this one does not."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show(text: str) -> None:
    sys.stdout.write(text)
    with suppress(OSError):
        sys.stdout.flush()


def _raise(code: int, said: str) -> None:
    if code == 0:
        return
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGHUP, -signal.SIGINT):
        raise KeyboardInterrupt("stopped")
    label = "error: " if code == BAD_INPUT else "failed: "
    _, found, message = f"\n{said}".rpartition(f"\n{label}")
    text = message.strip() if found else said.strip()[-2000:]
    if code == BAD_INPUT and found:
        raise InputError(text)
    raise RunFailedError(text or f"the command ended with {code}, without a word")


def _goes_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
