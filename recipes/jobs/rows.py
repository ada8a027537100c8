"""The rows of a file of completions, for `zero score` and `zero rewards check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.problems.csv_file import CSVError, read_csv
from recipes.errors import InputError


class ScoreError(InputError):
    """Completions cannot be scored. The message names the file, the line and the column."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl or the rows of a .csv file, each with a `completion`. ScoreError names file and line."""
    if not path.is_file():
        raise ScoreError(f"{path}: there is no such file or directory; expected FILE.jsonl or a run's directory")
    if path.suffix == ".csv":
        return _csv_rows(path)
    try:
        with path.open(encoding="utf-8") as file:
            rows = [_row(line, f"{path}:{number}") for number, line in enumerate(file, start=1)]
    except UnicodeDecodeError as error:
        raise ScoreError(f"{path}: not a text file in UTF-8: {error}") from error
    if not rows:
        raise ScoreError(
            f'{path} is empty; expected one object a line, such as {{"completion": "...", "answer": "42"}}'
        )
    return rows


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    """Every value is text, but for the label of `zero rewards check`."""
    try:
        rows: list[dict[str, Any]] = [dict(row) for row in read_csv(path)]
    except CSVError as error:
        raise ScoreError(str(error)) from error
    if "completion" not in rows[0]:
        raise ScoreError(f"{path}: no column `completion`; it has {', '.join(rows[0])}")
    labels = {"true": True, "false": False, "1": True, "0": False, "": None}
    for row in rows:
        if "label" in row:
            row["label"] = labels.get(row["label"].strip().lower(), row["label"])
    return rows


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise ScoreError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ScoreError(f"{where}: got {type(row).__name__}, expected an object with `completion`")
    if "completion" not in row:
        raise ScoreError(f"{where}: no `completion`; the line has {', '.join(row) or 'nothing'}")
    text = row["completion"]
    if not isinstance(text, str) and not (isinstance(text, list) and all(isinstance(one, dict) for one in text)):
        raise ScoreError(f"{where}: completion: got {str(text)[:60]!r}, expected a string or a list of messages")
    return row
