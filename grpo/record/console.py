"""The console of a run."""

from __future__ import annotations

import os
import signal

from rich.console import Console


class RunConsole(Console):
    """A reader that goes away (`zero run ... | head`, a notebook that is killed) is a terminal that hangs up.

    The run keeps a checkpoint and ends with 129; where SIGHUP is ignored, as by nohup, or means nothing to the program,
    it goes on in silence. Either way its files have everything.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        broken = os.fstat(1).st_ino
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            if os.fstat(descriptor).st_ino == broken:
                os.dup2(null, descriptor)
        os.close(null)
        if callable(signal.getsignal(signal.SIGHUP)):
            signal.raise_signal(signal.SIGHUP)
