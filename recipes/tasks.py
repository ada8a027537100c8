"""A task: problems to train on, held-out problems, and the verifier that grades both.

What is dropped, and why, is kept in `Task.rejected`: rows without an answer, rows whose gold answer does not
pass the verifier, training rows that are repeated or that the held-out split has too, and MATH rows of unknown level.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.problems.benchmarks import NEEDED
from eval.problems.data import BOXED, ColumnError, DataError, as_written, gold_answer, open_splits, read_rows
from eval.problems.generated import Split, generate
from eval.problems.puzzles import puzzles
from recipes.errors import InputError
from recipes.schema.recipe import GENERATED, TaskSettings
from rewards import Score, grader

GENERATED_PROBLEMS = 4096  # training problems of a generated task whose recipe does not say
HELD_OUT_SHARE = 10  # of a dataset's only split, one row in ten is held out
OWN_VERIFIERS = {"countdown": "countdown", "reasoning_gym": "reasoning_gym"}  # of tasks; all others': math
SHOWN = 3  # rejected rows that an error quotes
SHOWN_TEXT = 200  # characters of a row that it quotes
Grade = Callable[[str, Mapping[str, Any]], Score]


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
class Task:
    """Problems ready to train on. No held-out problem is among `train`."""

    name: str
    train: list[TaskRow]
    held_out: list[TaskRow]
    rejected: list[tuple[str, str]]  # (row id, reason)
    grade: Grade
    short: Sequence[str] = ()  # what a generator had less of than asked for


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Where a task's rows are, and how to read them."""

    dataset: str
    question: str
    answer: str
    subset: str | None = None
    answer_pattern: str | None = None
    known: tuple[str, str] | None = None  # (column, regex that it must match in a training row)


SOURCES = {
    "gsm8k": TaskSource("openai/gsm8k", "question", "answer", "main", r"####\s*(.+)"),
    "math": TaskSource(
        "DigitalLearningGmbH/MATH-lighteval", "problem", "solution", None, BOXED, ("level", r"Level \d")
    ),
}


def load_task(settings: TaskSettings, eval_problems: int, seed: int) -> Task:
    """Load, split, clean and check. `seed` chooses problems where `settings.seed` does not.

    Raises:
        TaskError: no such data or column, no row whose gold answer passes, or nothing left to train on.
    """
    seed = seed if settings.seed is None else settings.seed
    verifier = settings.verifier or OWN_VERIFIERS.get(str(settings.name), "math")
    grade = grader(verifier, **({"read": tuple(settings.read)} if settings.read else {}))
    check = grader(verifier)  # gold answers are handed over in <answer> tags, whatever the model is to write
    rejected: list[tuple[str, str]] = []
    short: Sequence[str] = ()
    if settings.name == "reasoning_gym":
        name = str(settings.name)
        train, held_out, short = _puzzles(settings, eval_problems, seed)
    elif settings.name in GENERATED:
        name = str(settings.name)
        train, held_out = _generated(settings, eval_problems, seed)
    else:
        name = settings.name or str(settings.dataset)
        train, held_out = _from_dataset(settings, rejected)
    if settings.question_pattern:
        train, held_out = (list(_cut(rows, settings.question_pattern, rejected)) for rows in (train, held_out))
    needed = NEEDED.get(verifier, ())
    if train and not set(needed) <= set(train[0].columns):
        has, columns = ", ".join(train[0].columns), " and ".join(needed)
        raise TaskError(f"task.verifier: {verifier} needs the columns {columns}; {Path(name).name} has {has}")
    train = _checked(_not_repeated(train, held_out, rejected), check, verifier, rejected)
    held_out = _checked(_sample(held_out, eval_problems, seed), check, verifier, rejected)
    if not train or not held_out:
        shown = "; ".join(f"{row}: {reason}" for row, reason in rejected[:SHOWN])
        raise TaskError(f"task {name}: no {'held-out' if train else 'training'} problem is left. Rejected: {shown}")
    return Task(name, _sample(train, settings.problems, seed), held_out, rejected, grade, short)


def _cut(rows: Iterable[TaskRow], pattern: str, rejected: list[tuple[str, str]]) -> Iterator[TaskRow]:
    """The rows with the part of their questions that the model is to see."""
    for row in rows:
        if found := re.search(pattern, row.question):
            yield replace(row, question=found[1])
        else:
            rejected.append((row.id, f"no match of task.question_pattern in {row.question[:SHOWN_TEXT]!r}"))


def _sample(rows: list[TaskRow], n: int | None, seed: int) -> list[TaskRow]:
    """`n` of the rows, in their order: benchmarks are sorted by subject, so the first n would be one subject."""
    if n is None or n >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), n))]


def _checked(rows: Iterable[TaskRow], grade: Grade, verifier: str, rejected: list[tuple[str, str]]) -> list[TaskRow]:
    """The rows whose gold answer passes as a model would write it. A problem that no answer solves teaches noise."""
    passed = []
    for row in rows:
        if not row.answer and verifier == "reasoning_gym":  # an untrusted generator that gives none
            passed.append(row)
            continue
        written = as_written(row.answer, row.columns, verifier)
        score = grade(f"<answer>{written}</answer>", {**row.columns, "answer": row.answer})
        if score.outcome == "correct":
            passed.append(row)
        else:
            rejected.append(
                (row.id, f"gold answer {row.answer[:SHOWN_TEXT]!r} does not pass the verifier: {score.reason}")
            )
    return passed


def _not_repeated(train: list[TaskRow], held_out: list[TaskRow], rejected: list[tuple[str, str]]) -> list[TaskRow]:
    seen = {_normal(row.question): row.id for row in held_out}
    fresh = []
    for row in train:
        first = seen.setdefault(_normal(row.question), row.id)
        if first == row.id:
            fresh.append(row)
        else:
            rejected.append((row.id, f"same question as {first}"))
    return fresh


def _normal(question: str) -> str:
    """Copies of MATH problems differ in nothing but white space, `x^2+bx` and `x^2 + bx`."""
    return "".join(question.lower().split())


# -- Generated problems -------------------------------------------------------------------------------------------


def _generated(settings: TaskSettings, eval_problems: int, seed: int) -> tuple[list[TaskRow], list[TaskRow]]:
    name, n = str(settings.name), settings.problems or GENERATED_PROBLEMS
    try:
        train = generate(name, "train", n, seed, **settings.config)
        held_out = generate(name, "held_out", eval_problems, seed, **settings.config)
    except ValueError as error:
        raise TaskError(f"task.config: {error}") from error
    return _as_rows(train), _as_rows(held_out)


def _puzzles(
    settings: TaskSettings, eval_problems: int, seed: int
) -> tuple[list[TaskRow], list[TaskRow], Sequence[str]]:
    """Where fewer are there than the recipe names itself, it is refused; than the default, these are taken."""
    numbers: dict[Split, int] = {"train": settings.problems or GENERATED_PROBLEMS, "held_out": eval_problems}
    try:
        made = puzzles(settings.config, numbers, seed)
    except ValueError as error:
        raise TaskError("\n".join(f"task.config: {line}" for line in str(error).split("\n"))) from error
    if settings.problems and len(made.rows["train"]) < settings.problems:
        few = "; ".join(line for line in made.short if " train " in line)
        raise TaskError(
            f"task.problems: got {settings.problems}, expected at most {len(made.rows['train'])}, which is what there "
            f"is: {few}. Lower it, or change task.config"
        )
    return _as_rows(made.rows["train"]), _as_rows(made.rows["held_out"]), made.short


def _as_rows(problems: list[dict[str, Any]]) -> list[TaskRow]:
    return [TaskRow(problem["id"], problem["question"], problem["answer"], problem) for problem in problems]


# -- Datasets -----------------------------------------------------------------------------------------------------


def _from_dataset(settings: TaskSettings, rejected: list[tuple[str, str]]) -> tuple[list[TaskRow], list[TaskRow]]:
    source = _source(settings)
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


def _source(settings: TaskSettings) -> TaskSource:
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
    return TaskSource(settings.dataset, columns.question, columns.answer, settings.subset, settings.answer_pattern)


def _rows(
    splits: Mapping[str, Any], split: str, label: str, source: TaskSource, rejected: list[tuple[str, str]]
) -> list[TaskRow]:
    rows = []
    for row_id, columns in read_rows(splits, split, label, (source.question, source.answer)):
        answer = gold_answer(columns[source.answer], source.answer_pattern)
        if answer is None:
            rejected.append((row_id, f"no answer in column {source.answer!r}"))
        elif columns.get("kept") is False and "pass_rate" in columns:  # of `zero filter`, which says what it left out
            rejected.append((row_id, f"not kept by zero filter: pass rate {columns['pass_rate']}"))
        elif source.known and not re.fullmatch(source.known[1], str(columns.get(source.known[0]))):
            rejected.append((row_id, f"{source.known[0]} is {columns.get(source.known[0])!r}"))
        else:
            rows.append(TaskRow(row_id, str(columns[source.question]), answer, columns))
    return rows


def _split_by_hash(rows: list[TaskRow]) -> tuple[list[TaskRow], list[TaskRow]]:
    """A tenth of the rows, at least one, held out; the choice depends on the questions alone."""
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(_normal(row.question).encode()).digest())
    held_out = {row.id for row in by_hash[: -(-len(rows) // HELD_OUT_SHARE)]}
    return [row for row in rows if row.id not in held_out], [row for row in rows if row.id in held_out]
