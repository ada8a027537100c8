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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.problems.data import BOXED, ColumnError, DataError, as_written, gold_answer, open_splits, read_rows
from eval.problems.generated import generate
from eval.problems.programs import question_of
from recipes.errors import InputError
from recipes.gold import advice
from recipes.schema.recipe import GENERATED, TaskSettings
from rewards import Score, grader
from rewards.code.formats import TestsError, read_tests
from rewards.sandbox import AT_ONCE, SandboxError, describe
from rewards.verifier.golds import normal_gold, summary

GENERATED_PROBLEMS = 4096  # training problems of a generated task whose recipe does not say
HELD_OUT_SHARE = 10  # of a dataset's only split, one row in ten is held out
SHOWN = 3  # rejected rows that an error quotes
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
    golds: Sequence[str] = ()  # what was changed of the gold answers and what can grade them, in words


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


def load_task(settings: TaskSettings, eval_problems: int, seed: int) -> Task:
    """Load, split, clean and check. `seed` chooses problems where `settings.seed` does not.

    Raises:
        TaskError: no such data or column, no row whose gold answer passes, or nothing left to train on.
    """
    seed = seed if settings.seed is None else settings.seed
    verifier = verifier_of(settings)
    args = dict(settings.code) if verifier == "code" else {"read": tuple(settings.read)} if settings.read else {}
    grade = grader(verifier, **args)
    # Gold answers are handed over in <answer> tags, whatever the model is to write.
    check = grade if verifier == "code" else grader(verifier)
    rejected: list[tuple[str, str]] = []
    if verifier == "code":
        _sandbox_or_say(settings)
    if settings.name in GENERATED:
        name = str(settings.name)
        train, held_out = _generated(settings, eval_problems, seed)
        if verifier == "code":
            train, held_out = _printed(train), _printed(held_out)
    else:
        name = settings.name or str(settings.dataset)
        train, held_out = _from_dataset(settings, rejected)
    if verifier == "countdown" and train and not {"numbers", "target"} <= set(train[0].columns):
        has = ", ".join(train[0].columns)
        raise TaskError(f"task.verifier: countdown needs the columns numbers and target; {Path(name).name} has {has}")
    answers = [row.answer for row in train]
    told: Sequence[str] = ()
    if verifier == "math" and settings.name not in GENERATED:
        told = summary(normal_gold(row.answer) for row in train)
        train, held_out = (_with_normal_golds(rows, settings.text_golds, rejected) for rows in (train, held_out))
    train = _checked(_not_repeated(train, held_out, rejected), check, verifier, rejected)
    held_out = _checked(_sample(held_out, eval_problems, seed), check, verifier, rejected)
    if not train or not held_out:
        shown = "; ".join(f"{row}: {reason}" for row, reason in rejected[:SHOWN])
        mend = f". {found}" if (found := advice(answers)) else ""
        raise TaskError(
            f"task {name}: no {'held-out' if train else 'training'} problem is left. Rejected: {shown}{mend}"
        )
    return Task(name, _sample(train, settings.problems, seed), held_out, rejected, grade, told)


def _sandbox_or_say(settings: TaskSettings) -> None:
    """Before any data: without a sandbox nothing could be graded."""
    try:
        describe(settings.code.get("sandbox", "auto"))
    except (SandboxError, ValueError) as error:
        raise TaskError(f"task.code.sandbox: {error}") from error


def verifier_of(settings: TaskSettings) -> str:
    return settings.verifier or ("countdown" if settings.name == "countdown" else "math")


def _sample(rows: list[TaskRow], n: int | None, seed: int) -> list[TaskRow]:
    """`n` of the rows, in their order: benchmarks are sorted by subject, so the first n would be one subject."""
    if n is None or n >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), n))]


def _with_normal_golds(rows: list[TaskRow], keep_text: bool, rejected: list[tuple[str, str]]) -> list[TaskRow]:
    """Without labels, sentences and broken characters; and without what only text can grade, unless that is kept."""
    kept = []
    for row in rows:
        gold = normal_gold(row.answer)
        if gold.kind == "text" and not keep_text:
            rejected.append((row.id, f"gold answer {row.answer!r} can be compared only as text"))
        else:
            kept.append(replace(row, answer=gold.text))
    return kept


def _checked(rows: Iterable[TaskRow], grade: Grade, verifier: str, rejected: list[tuple[str, str]]) -> list[TaskRow]:
    """The rows whose gold answer passes as a model would write it. A problem that no answer solves teaches noise."""
    rows, passed = list(rows), []
    with ThreadPoolExecutor(AT_ONCE if verifier == "code" else 1) as threads:  # programs take processes of their own
        faults = list(threads.map(lambda row: _fault(row, grade, verifier), rows))
    for row, fault in zip(rows, faults, strict=True):
        if fault is None:
            passed.append(row)
        else:
            rejected.append((row.id, fault))
    return passed


def _fault(row: TaskRow, grade: Grade, verifier: str) -> str | None:
    """Why no answer could be right; None where the gold answer passes, or of a program without one, tests are there."""
    if verifier == "code" and not row.answer:
        try:
            read_tests(row.columns)
        except TestsError as error:
            return str(error)
        return None
    written = as_written(row.answer, row.columns, verifier)
    score = grade(f"<answer>{written}</answer>", {**row.columns, "answer": row.answer})
    if score.outcome == "correct":
        return None
    return f"gold answer {row.answer!r} does not pass the verifier: {score.reason}"


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


def _printed(rows: list[TaskRow]) -> list[TaskRow]:
    """With one test: the program prints the answer."""
    return [replace(row, columns={**row.columns, "tests": [{"input": "", "output": row.answer}]}) for row in rows]


def _as_rows(problems: list[dict[str, Any]]) -> list[TaskRow]:
    return [TaskRow(problem["id"], problem["question"], problem["answer"], problem) for problem in problems]


# -- Datasets -----------------------------------------------------------------------------------------------------


def _from_dataset(settings: TaskSettings, rejected: list[tuple[str, str]]) -> tuple[list[TaskRow], list[TaskRow]]:
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
    if source.program and not source.answer_pattern:
        return str(columns[source.answer] or "") if source.answer else ""
    return gold_answer(columns[str(source.answer)], source.answer_pattern)


def _split_by_hash(rows: list[TaskRow]) -> tuple[list[TaskRow], list[TaskRow]]:
    """A tenth of the rows, at least one, held out; the choice depends on the questions alone."""
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(_normal(row.question).encode()).digest())
    held_out = {row.id for row in by_hash[: -(-len(rows) // HELD_OUT_SHARE)]}
    return [row for row in rows if row.id not in held_out], [row for row in rows if row.id in held_out]
