"""What a command shows while the heavy packages are being imported, which takes seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

# In the order in which they are imported, and what each is for.
HEAVY = {"numpy": "NumPy", "torch": "PyTorch", "transformers": "transformers", "datasets": "datasets", "vllm": "vLLM"}


@contextmanager
def loading(module: str, on_terminal_only: bool = False) -> Iterator[None]:
    """Say what is going on while the block imports `module`; nothing where it is there already.

    A terminal gets a spinner that names the package being read; a file or a pipe gets one line, on stderr, unless
    `on_terminal_only`.
    """
    if module in sys.modules:
        yield
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        if not on_terminal_only:
            print("loading PyTorch, transformers and datasets", file=sys.stderr, flush=True)
        yield
        return
    with console.status(_Progress()):
        yield


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
