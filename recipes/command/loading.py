"""What a command shows while it does what takes seconds, such as importing the heavy packages."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

TRAINING = "PyTorch, transformers and datasets"
LATE = 0.3  # seconds, after which what goes on is worth a line
# In the order in which they are imported, and what each is for.
HEAVY = {"numpy": "NumPy", "torch": "PyTorch", "transformers": "transformers", "datasets": "datasets", "vllm": "vLLM"}


@contextmanager
def loading(module: str, what: str = TRAINING) -> Iterator[None]:
    """Say what is going on while the block imports `module`; nothing where it is there already.

    A terminal gets a spinner that names the package being read; a file or a pipe gets one line, on stderr, that names
    `what` it is: at once before what takes seconds, else if it turns out to last.
    """
    if module in sys.modules:
        yield
        return
    with _shown(_Progress(), f"loading {what}", 0 if what is TRAINING else LATE):
        yield


@contextmanager
def working(sentence: str) -> Iterator[None]:
    """Say what the block does: a spinner on a terminal, a line on stderr elsewhere, if it lasts."""
    with _shown(sentence, sentence, LATE):
        yield


@contextmanager
def _shown(moving: str | _Progress, line: str, after: float) -> Iterator[None]:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(moving):
            yield
        return
    if not after:
        print(line, file=sys.stderr, flush=True)
        yield
        return
    say = threading.Timer(after, print, (line,), {"file": sys.stderr, "flush": True})
    say.start()
    try:
        yield
    finally:
        say.cancel()
        say.join()


class _Progress:
    """The package that is being imported, and for how long this has been going on. Drawn anew with each frame."""

    def __init__(self) -> None:
        self._before = set(sys.modules)
        self._started = time.monotonic()

    def __rich__(self) -> Text:
        from rich.text import Text

        came = [name for key, name in HEAVY.items() if key in sys.modules and key not in self._before]
        seconds = time.monotonic() - self._started
        return Text(f"loading {came[-1] if came else 'Python packages'} ... {seconds:.0f} s")
