"""Rows of problems from the hub, a file or a folder of split files, and the gold answer in a column's value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.problems.csv_file import CSVError, read_csv
from rewards.builtin.choice import gold_options
from rewards.nearest import did_you_mean
from rewards.verifier.characters import mended

READ = (".jsonl", ".parquet", ".csv")  # of a folder, the files of the first kind that it has
# What nobody would call a data set of the hub. Of the others, those of no reader are named in the error.
FILES = (*READ, ".json", ".tsv", ".txt", ".xlsx", ".xls", ".yaml", ".zip", ".gz", ".arrow")
BOXED = "boxed"  # the answer pattern that stands for the content of the last \boxed{}


class DataError(ValueError):
    """Problems cannot be loaded. The message says what was looked for, what is there, and what to do."""


class ColumnError(DataError):
    """The data has no column of that name."""


def open_splits(dataset: str, subset: str | None, name: str | None, instead: str) -> Mapping[str, Any]:
    """Split name -> `datasets.Dataset`, of a file, of a folder of files named after their splits, or of the hub.

    Args:
        name: the folder to look into first, where `dataset` is a folder of data sets.
        instead: what to do without a connection to the hub, such as "give a local folder: --data-dir DIR".

    Raises:
        DataError: there is no such file, folder or hub data set, or it cannot be read.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    place = Path(dataset).expanduser()
    if (place / str(name)).is_dir():  # a folder of data sets
        place = place / str(name)
    if files := _files(place):
        return {_split_of(file, place): _read_file(file) for file in files}
    if place.exists() or dataset.count("/") != 1 or dataset[0] in "./~" or place.suffix.lower() in FILES:
        raise DataError(
            f"{place} {'holds no such file' if place.exists() else 'does not exist'}{_beside(place)}; expected a "
            ".jsonl or .parquet file, a folder with files such as train.jsonl and test.jsonl, a .csv file, or a hub id"
        )
    try:
        return load_dataset(dataset, subset)
    except (OSError, ValueError, DatasetsError) as error:  # a hub out of reach; a subset that is not there
        raise DataError(
            f"{dataset} cannot be loaded: {_first_line(error)}. Without a connection to the hub, {instead}"
        ) from error


def _beside(place: Path) -> str:
    """The nearest name in the same folder, where the file is not there."""
    there = place.parent.is_dir() and not place.exists()
    return did_you_mean(place.name, [file.name for file in place.parent.iterdir()]) if there else ""


def _read_file(file: Path) -> Any:
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetsError

    if file.suffix == ".csv":
        try:
            return Dataset.from_list(read_csv(file))
        except CSVError as error:
            raise DataError(str(error)) from error
    reader, expected = (
        ("parquet", "a Parquet file") if file.suffix == ".parquet" else ("json", "one JSON object a line")
    )
    try:
        return load_dataset(reader, data_files=str(file), split="train")
    except (OSError, ValueError, StopIteration, DatasetsError) as error:
        # Without rows the JSON reader ends its own iteration, and both readers find that a split has "no data".
        empty = isinstance(error, StopIteration) or "no data" in str(error)
        reason = "it holds no rows" if empty else _first_line(error.__cause__ or error)
        raise DataError(f"{file} cannot be loaded: {reason}; expected {expected}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _files(place: Path) -> list[Path]:
    candidates = sorted(place.iterdir()) if place.is_dir() else [place] if place.is_file() else []
    for suffix in READ:
        if files := [file for file in candidates if file.suffix == suffix]:
            return files
    return []


def _split_of(file: Path, place: Path) -> str:
    return "train" if file == place else re.sub(r"\W", "_", file.stem)


def read_rows(
    splits: Mapping[str, Any], split: str, label: str, needed: Iterable[str], limit: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first `limit` rows of a split in its own order, each as ("LABEL/SPLIT/17", {column: value}).

    Raises:
        DataError: no such split; ColumnError: a column of `needed` is not there. Both name the nearest.
    """
    if split not in splits:
        raise DataError(f"{label} has no split {split!r}{did_you_mean(split, splits)}; it has {', '.join(splits)}")
    data = splits[split]
    for column in needed:
        if column not in data.column_names:
            raise ColumnError(
                f"{label} has no column {column!r}{did_you_mean(column, data.column_names)}; "
                f"it has {', '.join(data.column_names)}"
            )
    rows = data if limit is None else data.select(range(min(limit, len(data))))
    return ((f"{label}/{split}/{i}", row) for i, row in enumerate(rows))


def gold_answer(value: Any, pattern: str | None) -> str | None:
    r"""The gold answer in a column's value; None if there is none.

    pattern: "boxed", the last \boxed{}; or a regex, whose one group is the answer in its last match; None: all of it.

    >>> gold_answer("48/2 = 24\n#### 24", r"####\s*(.+)"), gold_answer(r"so \boxed{\frac{1}{2}}", "boxed")
    ('24', '\\frac{1}{2}')
    """
    if value is None:
        return None
    text = mended(str(value))
    if pattern == BOXED:
        return _last_boxed(text)
    if pattern:
        found = re.findall(pattern, text)
        return found[-1].strip() if found else None
    return text.strip() or None


def checked_pattern(pattern: str | None, what: str = "the answer") -> str | None:
    """The pattern itself. Raises ValueError if `gold_answer` cannot read with it."""
    if pattern in (None, BOXED):
        return pattern
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"got {pattern!r}, which is no regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"got {pattern!r} with {groups} groups, expected one group, around {what}")
    return pattern


def as_written(answer: str, columns: Mapping[str, Any], verifier: str) -> str:
    """A row's gold answer as a model would write it, to check that it passes its own verifier.

    The gold of a multiple-choice row may be an index or a choice's text: a model would write the letters.
    """
    if verifier == "code":
        return f"```\n{answer}\n```"
    if verifier != "multiple_choice":
        return answer
    options = gold_options(answer, columns.get("choices") or ())
    return ", ".join(chr(ord("A") + option) for option in sorted(options))


def _last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{}, its braces balanced (MATH also writes `\boxed 5`)."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :].lstrip()
    if not rest.startswith("{"):
        return rest.split("$")[0].strip() or None
    depth = 0
    for i, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:i].strip() or None
    return None
