"""Rows of a CSV file, every value as the text that stands in the file: 007 stays 007, and 3.10 stays 3.10."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

DELIMITERS = (",", ";", "\t")  # the one that the first line has most of


class CSVError(ValueError):
    """The file is no table. The message names file and line, and says what was expected."""


def read_csv(file: Path) -> list[dict[str, str]]:
    """One row a line after the first, which names the columns; quoted values may hold line breaks.

    Raises CSVError: no text in UTF-8, no rows, two columns of one name, a line with another number of values.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise CSVError(f"{file} is no text file in UTF-8: {error}") from error
    csv.field_size_limit(sys.maxsize)
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise CSVError(f"{file}:1: the column {repeated[0]!r} is there twice; expected a name for each, once")
        rows = []
        for values in reader:
            if not values:
                continue  # an empty line
            if len(values) != len(columns):
                raise CSVError(
                    f"{file}:{reader.line_num}: got {len(values)} values, expected {len(columns)} "
                    f"({', '.join(columns)}); a value that holds a {delimiter!r} stands in double quotes"
                )
            rows.append(dict(zip(columns, values, strict=True)))
    except csv.Error as error:
        raise CSVError(f"{file}:{reader.line_num}: not valid CSV: {error}") from error
    if not rows:
        raise CSVError(f"{file} holds no rows; expected a first line with the columns' names, and a line for each row")
    return rows
