"""Files that are either whole or absent, and errors that name the file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path`, and what to do, in an OSError that the block raises."""
    try:
        yield
    except OSError as error:
        hint = "; free some space there, or choose another --output" if error.errno in _FULL else ""
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}{hint}") from error


def write_atomic(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write `content`, or let it write the file that it is given, under a temporary name; then rename.

    A reader, and a run killed at any moment, finds the old file or the new one.

    Raises: OSError that names `path`; nothing of the new file is left then.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if callable(content):
                content(partial)
            else:
                partial.write_bytes(content.encode() if isinstance(content, str) else content)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)


def append_line(path: Path, line: str, sync: bool = True) -> None:
    """Add one line to a file; with `sync` it is on the disk when this returns. Raises OSError that names `path`."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        # A pipe or a device has no disk behind it to wait for.
        if sync and path.is_file():
            os.fsync(file.fileno())
