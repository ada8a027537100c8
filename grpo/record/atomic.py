"""Files and folders that are either whole or absent, errors that name them, and text that UTF-8 can hold."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_ROOM = (*_FULL, errno.EFBIG)
_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path`, and what to do, in an OSError that the block raises, or that is behind a library's own error."""
    try:
        yield
    except OSError as error:
        raise _named(path, error.errno, error.strerror or error) from error
    except Exception as error:  # for want of room torch, safetensors and tokenizers raise what is no OSError
        if code := no_room(error):
            raise _named(path, code, os.strerror(code)) from error
        raise


def write_atomic(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write `content`, or let it write the file that it is given, under a temporary name; then rename.

    A reader, and a run killed at any moment, finds the old file or the new one, which is on the disk when this
    returns. Text is written as `readable` has it.

    Raises: OSError that names `path`; nothing of the new file is left then.
    """
    partial = _partial(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if callable(content):
                content(partial)
            else:
                partial.write_bytes(readable(content).encode() if isinstance(content, str) else content)
            _fsync(partial)
            partial.rename(path)
            _fsync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder that becomes `path`, see `whole_folder`."""
    with whole_folder(path) as partial:
        write(partial)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder under a temporary name, to be filled; at the end it is put in the place of `path`.

    Raises: OSError that names `path`; nothing of the new folder is left then.
    """
    partial = _partial(path)
    with writing(path):
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        try:
            partial.mkdir(parents=True)
            yield partial
            for file in (*partial.rglob("*"), partial):
                _fsync(file)
            if path.exists():  # left by the run that this one resumes
                shutil.rmtree(path)
            partial.rename(path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def append_line(path: Path, line: str, sync: bool = True) -> None:
    """Add one line to a file; with `sync` it is on the disk when this returns. Raises OSError that names `path`."""
    with writing(path), path.open("ab", buffering=0) as file:
        append_whole(file, readable(line).encode() + b"\n")
        # A pipe or a device has no disk behind it to wait for.
        if sync and path.is_file():
            os.fsync(file.fileno())


def append_whole(file: FileIO, content: bytes) -> None:
    """Add all of `content` to a file without a buffer, or nothing of it where that raises an OSError."""
    size = os.fstat(file.fileno()).st_size
    try:
        written = file.write(content)
        while written < len(content):  # a disk that is nearly full takes a part, then says so
            written += file.write(content[written:])
    except OSError:
        if Path(file.name).is_file():
            file.truncate(size)
        raise


def readable(value: Any) -> Any:
    r"""`value` with every text in it, however deep, as UTF-8 can hold it: a lone surrogate becomes `\ud800`."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {readable(key): readable(one) for key, one in value.items()}
    return [readable(one) for one in value] if isinstance(value, list | tuple) else value


def no_room(error: BaseException | None) -> int | None:
    """The errno of the want of room that a library's error was raised for: while it was handled, or in its text."""
    while error is not None:
        said = _RUST.search(str(error))
        code = error.errno if isinstance(error, OSError) else int(said[1]) if said else None
        if code in _NO_ROOM:
            return code
        error = error.__cause__ or error.__context__
    return None


def _named(path: Path, code: int | None, reason: object) -> OSError:
    hint = "; free some space there, or choose another --output" if code in _FULL else ""
    return OSError(code, f"cannot write {path}: {reason}{hint}")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
