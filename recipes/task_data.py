"""Rows of a task's data set: where they are, which columns hold question and answer, which are held out."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.problems.data import BOXED, ColumnError, DataError, gold_answer, open_splits, read_rows
from eval.problems.programs import question_of
from recipes.errors import InputError
from recipes.schema.recipe import TaskSettings

HELD_OUT_SHARE = 10  # of a dataset's only split, one row in ten is held out


class TaskError(InputError):
    """Problems cannot be loaded. The message says what was looked for, what is there, and what to do."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One problem. Example: TaskRow(id="gsm8k/train/17", question="A robe takes ...", answer="3", columns={...})"""

    id: str
    question: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict)  # every column of the dataset's row


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Where a task's rows are, and how to read them."""

    dataset: str
    question: str
    answer: str | None
    subset: str | None = None
    answer_pattern: str | None = None
    program: bool = False  # the answer is a program, if there is one, and the question shows what its tests call
    tests: str | None = None  # column of a program's tests, if not one of a published format
    known: tuple[str, str] | None = None  # (column, regex that it must match in a training row)


SOURCES = {
    "gsm8k": TaskSource("openai/gsm8k", "question", "answer", "main", r"####\s*(.+)"),
    "math": TaskSource(
        "DigitalLearningGmbH/MATH-lighteval", "problem", "solution", None, BOXED, known=("level", r"Level \d")
    ),
}


def from_dataset(settings: TaskSettings, rejected: list[tuple[str, str]]) -> tuple[list[TaskRow], list[TaskRow]]:
    source = source_of(settings)
    option = f"--set task.{'path' if settings.name else 'dataset'}=DIR"
    instead = f"give a local folder with train.jsonl and test.jsonl: {option}"
    with _task_errors():
        return _read_both(
            open_splits(source.dataset, source.subset, settings.name, instead), source, settings, rejected
        )


@contextlib.contextmanager
def _task_errors() -> Iterator[None]:
    """Say which part of the recipe the data's errors are about."""
    try:
        yield
    except ColumnError as error:
        raise TaskError(f"task.columns: {error}") from error
    except DataError as error:
        raise TaskError(f"task data: {error}") from error


def _read_both(
    splits: Mapping[str, Any], source: TaskSource, settings: TaskSettings, rejected: list[tuple[str, str]]
) -> tuple[list[TaskRow], list[TaskRow]]:
    split = settings.split or ("train" if "train" in splits else next(iter(splits)))
    held_out_split = settings.held_out_split or next(
        (s for s in ("test", "validation") if s in splits and s != split), ""
    )
    label = settings.name or Path(source.dataset).name
    train = _rows(splits, split, label, source, rejected)
    if held_out_split:
        held_out = _rows(splits, held_out_split, label, replace(source, known=None), rejected)
        return train, held_out
    return _split_by_hash(train)


def source_of(settings: TaskSettings) -> TaskSource:
    """The built-in source, or the user's dataset, with what the recipe says about it."""
    if settings.name:
        source = SOURCES[settings.name]
        changes: dict[str, Any] = {
            "dataset": settings.path,
            "subset": settings.subset,
            "answer_pattern": settings.answer_pattern,
        }
        if settings.columns:
            changes |= settings.columns.model_dump()
        return replace(source, **{key: value for key, value in changes.items() if value})
    assert settings.dataset
    assert settings.columns  # the schema requires both
    columns = settings.columns
    return TaskSource(
        settings.dataset,
        columns.question,
        columns.answer,
        settings.subset,
        settings.answer_pattern,
        program=settings.verifier == "code",
        tests=columns.tests,
    )


def _rows(
    splits: Mapping[str, Any], split: str, label: str, source: TaskSource, rejected: list[tuple[str, str]]
) -> list[TaskRow]:
    rows = []
    needed = [column for column in (source.question, source.answer, source.tests) if column]
    for row_id, columns in read_rows(splits, split, label, needed):
        if source.tests:
            columns["tests"] = columns[source.tests]
        answer = _answer(columns, source)
        if answer is None:
            rejected.append((row_id, f"no answer in column {source.answer!r}"))
        elif columns.get("kept") is False and "pass_rate" in columns:  # of `zero filter`, which says what it left out
            rejected.append((row_id, f"not kept by zero filter: pass rate {columns['pass_rate']}"))
        elif source.known and not re.fullmatch(source.known[1], str(columns.get(source.known[0]))):
            rejected.append((row_id, f"{source.known[0]} is {columns.get(source.known[0])!r}"))
        else:
            question = str(columns[source.question])
            # One of the asserts is enough to know the form; a model that sees all may write down their values.
            rows.append(
                TaskRow(row_id, question_of(columns, question, 1) if source.program else question, answer, columns)
            )
    return rows


def _answer(columns: Mapping[str, Any], source: TaskSource) -> str | None:
    if source.answer is None:
        return ""
    if source.program and not source.answer_pattern:
        return str(columns[source.answer] or "")
    return gold_answer(columns[source.answer], source.answer_pattern)


def _split_by_hash(rows: list[TaskRow]) -> tuple[list[TaskRow], list[TaskRow]]:
    """A tenth of the rows, at least one, held out; the choice depends on the questions alone."""
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(normal(row.question).encode()).digest())
    held_out = {row.id for row in by_hash[: -(-len(rows) // HELD_OUT_SHARE)]}
    return [row for row in rows if row.id not in held_out], [row for row in rows if row.id in held_out]


def normal(question: str) -> str:
    """Copies of MATH problems differ in nothing but white space, `x^2+bx` and `x^2 + bx`."""
    return "".join(question.lower().split())
