"""Whose a run's directory is: one process's at a time, and no new run's where another one trained."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo.record.atomic import writing
from recipes.errors import InputError


def check_unused(folder: Path) -> None:
    """Raises InputError if a new run would overwrite something. A start that trained nothing may be repeated."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; name a directory")
    used = any(path.name != "logs" for path in folder.glob("[!.]*"))  # logs alone are of a start that came to nothing
    if used and not trained_nothing(folder):
        raise InputError(f"--output {folder} is not empty; add --resume to go on with that run, or name another")


def trained_nothing(folder: Path) -> bool:
    """Whether it is the directory of a run that ended before its first step."""
    metrics = folder / "metrics.jsonl"
    begun = (folder / "recipe.yaml").is_file() and (folder / "logs").is_dir()
    trained = (metrics.is_file() and metrics.stat().st_size) or any(folder.glob("checkpoints/*"))
    return begun and not trained


@contextmanager
def locked(lock: Path, what: str) -> Iterator[None]:
    """Hold the file `lock`. Raises InputError, which calls the place `what`, while another process does.

    The lock goes with this process, however that ends, and no child inherits it: that is why it is not flock's.
    """
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise InputError(
                    f"{what} is in use by process {file.read().strip() or '?'}; wait for it, or choose another --output"
                ) from error
            # Else the file system has no locks, and the run goes on without.
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield
