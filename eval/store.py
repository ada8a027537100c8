"""An evaluation's generations on disk: each is there as soon as it came, and a kill at any moment loses none of them.

    generations.jsonl      while it runs: one line a Generation, in the order in which they came
    generations.parquet    at the end: the same rows, in the order of their problems

A generation is known by (benchmark, problem_id, sample). One that failed may be followed by one that came, when a
resumed evaluation asks again; whoever reads sees the latter alone. What cannot be read (the beginning of a line, a line
that is no generation, a damaged Parquet file) a Store passes over, says so, and asks for again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from eval.types import Generation
from grpo.atomic import append_whole, readable, write_atomic, writing

LINES, PARQUET = "generations.jsonl", "generations.parquet"
Key = tuple[str, str, int]

_INTEGERS = ("sample", "tokens", "max_tokens")
_TYPES = {"value": pa.float64(), **dict.fromkeys(_INTEGERS, pa.int64())}  # every other column is text
_RECORD = TypeAdapter(Generation)
SCHEMA = pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in dataclasses.fields(Generation)])


class StoreError(ValueError):
    """There are no generations where they were looked for, or they are not what was expected."""


def key(generation: Generation) -> Key:
    return generation.benchmark, generation.problem_id, generation.sample


class Store:
    """The generations of one evaluation, in `folder`, which no other process may be writing.

        with Store(folder) as store:
            print(store.passed_over)            # what of it cannot be read, in words; it did not come
            if not store.came(("gsm8k", "gsm8k/test/17", 0)):
                store.append(generation)    # on disk when it returns
            store.finish()                  # the Parquet file stands in for the lines

    Raises StoreError if another process writes there; OSError that names the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lines = folder, folder / LINES
        with writing(self._lines):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(self._lines)
        self.passed_over = _set_aside(folder / PARQUET) + _drop_damaged(self._lines)
        if self.passed_over:  # then the lines may be a new file
            self._file.close()
            self._file = _open_locked(self._lines)
        self._came = {key(generation) for generation in self.read() if generation.failure is None}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def came(self, generation: Key) -> bool:
        """Whether it is stored and did not fail."""
        return generation in self._came

    def append(self, generation: Generation) -> None:
        """Store it. Raises ValueError if it came before; OSError that names the file: what is stored stays valid."""
        if self.came(key(generation)):
            raise ValueError(f"{key(generation)} is stored already")
        line = json.dumps(readable(dataclasses.asdict(generation))).encode() + b"\n"
        with writing(self._lines):
            append_whole(self._file, line)
        if generation.failure is None:
            self._came.add(key(generation))

    def read(self) -> list[Generation]:
        """Every generation, once, in the order of their problems."""
        return _merged([self._folder / PARQUET, self._lines])

    def finish(self) -> Path:
        """Put the Parquet file in the lines' place. The store may still be read, and opened again, but not appended."""
        path = self._folder / PARQUET
        write_parquet(self.read(), path)
        with writing(self._lines):
            self._lines.unlink()
        return path


def read_generations(place: Path) -> list[Generation]:
    """The generations of an evaluation's folder, finished or not, or of one of its files; each once, in order.

    Raises StoreError if there are none, or a line is not a generation. A torn last line is no line.
    """
    files = [place / PARQUET, place / LINES] if place.is_dir() else [place]
    if not any(file.is_file() for file in files):
        raise StoreError(f"{place} holds no generations; expected an evaluation's folder, with {PARQUET} or {LINES}")
    return _merged(files)


def write_parquet(generations: Iterable[Generation], path: Path) -> None:
    """Raises OSError that names the file; it is on the disk when this returns."""
    table = pa.Table.from_pylist([readable(dataclasses.asdict(one)) for one in generations], schema=SCHEMA)
    write_atomic(path, lambda partial: pq.write_table(table, partial, compression="zstd", write_page_checksum=True))


def _open_locked(path: Path) -> io.FileIO:
    """Open to append. The lock goes with the process, however that ends."""
    file = path.open("ab", buffering=0)
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        message = f"another process is writing to {path.parent}; wait for it, or choose another --output"
        raise StoreError(message) from error
    return file


def _set_aside(parquet: Path) -> list[str]:
    """Rename a Parquet file that cannot be read; returns what is wrong with it."""
    try:
        _merged([parquet])
    except StoreError as error:
        parquet.rename(aside := parquet.with_name(f"{parquet.name}.damaged"))
        return [f"{error}; it is kept as {aside.name}"]
    return []


def _drop_damaged(path: Path) -> list[str]:
    """Take out the lines that are no generations; returns what is wrong with each."""
    if not path.is_file():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    wrong = [f"{path}:{len(lines) + 1}: the beginning of a line"] if torn else []
    whole = []
    for number, line in enumerate(lines, 1):
        try:
            _generation(line, f"{path}:{number}")
            whole.append(line + b"\n")
        except StoreError as error:
            wrong.append(str(error))
    if wrong:
        write_atomic(path, lambda partial: partial.write_bytes(b"".join(whole)))
    return wrong


def _merged(files: Iterable[Path]) -> list[Generation]:
    rows: dict[Key, Generation] = {}
    for generation in (generation for file in files if file.is_file() for generation in _read(file)):
        if key(generation) not in rows or rows[key(generation)].failure:
            rows[key(generation)] = generation
    return sorted(rows.values(), key=_in_order)


def _read(file: Path) -> Iterator[Generation]:
    if file.suffix == ".parquet":
        try:
            rows = pq.read_table(file, page_checksum_verification=True).to_pylist()
            yield from [Generation(**row) for row in rows]
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise StoreError(f"{file}: not the generations of an evaluation, or damaged: {error}") from error
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith(b"\n"):
                yield _generation(line, f"{file}:{number}")


def _generation(line: bytes, where: str) -> Generation:
    try:
        return _RECORD.validate_json(line, strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        reason = " ".join(map(str, [*wrong["loc"], wrong["msg"]]))
        raise StoreError(f"{where}: not a generation of an evaluation ({reason})") from error


def _in_order(generation: Generation) -> tuple[Any, ...]:
    """test/9 before test/10."""
    parts = re.split(r"(\d+)", generation.problem_id)
    return generation.benchmark, [int(part) if i % 2 else part for i, part in enumerate(parts)], generation.sample
