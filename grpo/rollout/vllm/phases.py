"""What a vLLM server that starts is doing, read from its log: a minute in which nothing else is to be seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

POLL_SECONDS = 0.5
TAIL_BYTES = 100_000  # of the log, read at each look
# What vLLM logs, in the order in which it does, and what is going on from then on.
PHASES = (
    ("non-default args", "reading the model's configuration"),
    ("Enabled custom fusions", "starting the engine's process"),
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "preparing the weights"),
    ("Dynamo bytecode transform", "compiling the model"),
    ("Compiling a graph", "compiling the model"),
    ("KV cache size", "warming up"),
    ("Capturing CUDA graph", "capturing CUDA graphs"),
    ("init engine (profile", "opening the API"),
    ("Application startup complete", "ready"),
)


def phase(log: str) -> str:
    """What it is doing by the last sign in its log. Example: phase("... Loading weights took 0.07 s") is
    "preparing the weights"."""
    at = {log.rfind(sign): doing for sign, doing in PHASES if sign in log}
    return at[max(at)] if at else "importing vLLM"


@asynccontextmanager
async def said_phases(logs: Path, say: Callable[[str], None], pattern: str = "server*.log") -> AsyncIterator[None]:
    """While the block runs, `say` each new phase of the server whose log in the folder `logs` was written last.

    What stood in a log before the block is not looked at.
    """
    before = _sizes(logs, pattern)
    follower = asyncio.create_task(_follow(logs, pattern, before, say))
    try:
        yield
    finally:
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower


async def _follow(logs: Path, pattern: str, before: dict[Path, int], say: Callable[[str], None]) -> None:
    last = ""
    while True:
        with suppress(OSError):  # a log may be taken away
            sizes = await asyncio.to_thread(_sizes, logs, pattern)
            if grown := [path for path, size in sizes.items() if size > before.get(path, 0)]:
                newest = max(grown, key=lambda path: path.stat().st_mtime)
                now = phase(_tail(newest, before.get(newest, 0)))
                if now != last:
                    say(now)
                    last = now
        await asyncio.sleep(POLL_SECONDS)


def _sizes(logs: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_size for path in logs.glob(pattern)}


def _tail(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(max(begin, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")
