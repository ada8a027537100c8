"""reasoning-gym's scorers, in the worker process of a pool (rewards/verifier/pool.py).

Started as `python -m rewards.puzzles.worker CPU_SECONDS MEMORY_GIB`. The pool ends what takes too long or too much
memory. Some scorers evaluate text with sympy's parse_expr, which is `eval`: while one runs, an audit hook refuses
whatever leaves the process (programs, connections, files but for reading Python's own). That is the second fence;
the first is grading.LOOKS, and no answer that passes it is a program.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Mapping
from typing import Any

from rewards.verifier.pool import serve
from rewards.verifier.verdict import Verdict

FULL = 1.0 - 1e-9  # the mark, but for rounding
_LEAVES = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "signal.", "tempfile.", "urllib.", "ftplib.")
_HARMLESS = frozenset({"os.listdir", "os.scandir", "os.walk", "os.fwalk"})  # the import system's own
_READABLE = tuple(
    os.path.realpath(path) + os.sep for path in {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
)
_scoring = False


class Forbidden(PermissionError):
    """What an answer tried to do."""


def _fence(event: str, arguments: tuple[Any, ...]) -> None:
    if not _scoring:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        own = isinstance(path, str) and os.path.realpath(path).startswith(_READABLE)
        if writes or not own:
            raise Forbidden(f"open {path!r}")
    elif event.startswith(_LEAVES) and event not in _HARMLESS:
        raise Forbidden(event)


@functools.cache
def _generator(name: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, size=1, seed=0)


def score(item: Mapping[str, str]) -> Verdict:
    """Whether the generator's scorer gives the answer its full mark. `item`: answer, gold, metadata (JSON)."""
    global _scoring
    metadata = json.loads(item["metadata"])
    name = metadata["source_dataset"]
    generator = _generator(name)
    _scoring = True
    try:
        mark = generator.score_answer(item["answer"], {"question": "", "answer": item["gold"], "metadata": metadata})
    except MemoryError:
        raise
    except Exception as problem:  # of the scorer, on what it cannot read: the gold answer was read
        return "malformed", f"{name}'s scorer cannot read it: {type(problem).__name__}: {problem}"
    finally:
        _scoring = False
    right = isinstance(mark, int | float) and mark >= FULL
    return "correct" if right else "wrong", f"{name}'s scorer gives {mark:.2f}, {'' if right else 'not '}its full mark"


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    import reasoning_gym  # noqa: F401 - once, before the children are forked

    sys.addaudithook(_fence)
    serve(score)
