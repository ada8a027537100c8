"""Single keys of the terminal while a run goes on; the terminal is given back however this process ends.

A shell script of its own session sets the terminal, and waits for the end of a pipe whose other end this process alone
holds: closed in order, or by the kernel after a kill. Then it sets back what it found, unless somebody else has set the
terminal meanwhile, as a shell does that takes it over.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

# Its input is the terminal, its error the pipe, which is there to be read. The cursor is what a live display hides.
KEEPER = r"""
found=$(stty -g) && stty -icanon -echo && own=$(stty -g) && echo set || exit 1
read -r _ <&2
[ "$(stty -g)" = "$own" ] && stty "$found"
printf '\033[?25h' >&0
"""
POLL = 0.2  # seconds

_open: list[Keys] = []


def listen(press: Callable[[str], object]) -> Keys | None:
    """Call `press` with each key, in a thread. None where no terminal is ours to read: in the background, behind a
    pipe, under nohup, in a thread beside a main one that may read itself."""
    try:
        terminal = sys.stdin.fileno()
        if not _is_ours(terminal) or threading.current_thread() is not threading.main_thread():
            return None
        return Keys(terminal, press)
    except (AttributeError, ValueError, OSError):  # no stdin, one that is closed or no file; no sh, no stty
        return None


def give_back() -> None:
    """Whatever keys are read: the terminal is as it was when this returns. For a process that ends at once."""
    for keys in list(_open):
        keys.restore()


class Keys:
    """Use `listen`. Raises OSError where the terminal cannot be set."""

    def __init__(self, terminal: int, press: Callable[[str], object]) -> None:
        self._terminal, self._press, self._ended = terminal, press, threading.Event()
        theirs, self._pipe = os.pipe()  # which no other child inherits
        try:
            self._keeper = subprocess.Popen(
                ["sh", "-c", KEEPER], stdin=terminal, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True
            )
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(theirs)
        _open.append(self)
        assert self._keeper.stdout is not None
        with self._keeper.stdout as said:
            is_set = said.read(4) == b"set\n"
        if not is_set:
            self.restore()
            raise OSError("stty cannot set this terminal")
        self._thread = threading.Thread(target=self._listen, name="keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and give the terminal back. May be called twice."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(5)
        self.restore()

    def restore(self) -> None:
        if self not in _open:
            return
        _open.remove(self)
        os.close(self._pipe)
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(5)

    def _listen(self) -> None:
        # Signals are the main thread's; blocked, those of the job control become errors here.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while not self._ended.is_set():
                if not select.select([self._terminal], [], [], POLL)[0]:
                    continue
                if not _is_ours(self._terminal):  # what is typed is the shell's
                    time.sleep(POLL)
                    continue
                typed = os.read(self._terminal, 64)
                if not typed:
                    return
                for key in typed.decode(errors="ignore"):
                    self._press(key)
        except OSError:  # the terminal has hung up
            return


def _is_ours(terminal: int) -> bool:
    return os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp()


atexit.register(give_back)
