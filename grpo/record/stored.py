"""Reading back what a run has written: lines and rollouts, of which any may be damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HELD_OUT = ("accuracy", "low", "high", "n")  # what every line of evaluations.jsonl has, beside its step
ROLLOUTS = f"step-{'[0-9]' * 6}.parquet"  # pattern of the files in rollouts/

# JSON, such as {"accuracy": 1.0, "format": null}, where keys differ between recipes and tasks: one schema for all lets
# `datasets` open any mixture of steps and runs.
JSON_COLUMNS = ("rewards", "messages", "columns", "extra", "episode", "unmasking")


class RecordError(ValueError):
    """A file that a run wrote cannot be read. The message names it, and says why."""


def read_lines(
    path: Path, numbers: Sequence[str] = (), say: Callable[[str], object] = lambda _: None
) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, each of a step. [] if there is no file.

    Args:
        numbers: keys that each must have, beside `step`, with a number.
        say: gets a sentence for each line that cannot be read, such as the last one when a kill has cut it short.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            rows += [parse_line(line, ("step", *numbers))] if line else []
        except (ValueError, RecursionError) as error:
            say(f"{path}:{number} cannot be read, and is left out: {error}")
    return rows


def parse_line(line: bytes, numbers: Sequence[str]) -> dict[str, Any]:
    """The object of a line; each of `numbers` is one of it. Raises ValueError, or RecursionError."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"got {type(row).__name__}, expected an object")
    for key in numbers:
        if not isinstance(row.get(key), int | float):
            raise ValueError(f"{key}: got {row.get(key)!r}, expected a number")
    return row


def missing_steps(path: Path, rows: Sequence[Mapping[str, Any]], last: int) -> list[str]:
    """A sentence about the steps up to `last` that `rows`, the lines of `path`, do not have; [] if they have all."""
    missing = sorted(set(range(1, last + 1)) - {row["step"] for row in rows})
    return [f"{path} has no line of step {', '.join(map(str, missing))}"] if missing else []


def read_rollouts(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a rollouts file; `columns`: these alone, of which [] only opens the file.

    Raises: RecordError, also for a flipped byte in what is read: the pages have checksums.
    """
    from pyarrow import parquet

    with reading(path):
        return parquet.read_table(path, columns=columns, page_checksum_verification=True).to_pylist()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises: RecordError that names the rollouts file, for whatever of it cannot be read in the block."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise RecordError(f"{path}: not a Parquet file, or damaged: {error}") from error
