"""A task: problems to train on, held-out problems, and the verifier that grades both.

What is dropped, and why, is kept in `Task.rejected`: rows without an answer, rows whose gold answer does not
pass the verifier, training rows that are repeated or that the held-out split has too, and MATH rows of unknown level.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.problems.benchmarks import NEEDED
from eval.problems.data import as_written
from eval.problems.generated import Split, generate
from eval.problems.puzzles import puzzles
from recipes.gold import advice
from recipes.schema.recipe import GENERATED, TaskSettings
from recipes.task_data import TaskError, TaskRow, from_dataset, normal
from rewards import Score, grader
from rewards.code.formats import TestsError, read_tests
from rewards.sandbox import AT_ONCE, SandboxError, describe, together
from rewards.verifier.golds import normal_gold, summary

GENERATED_PROBLEMS = 4096  # training problems of a generated task whose recipe does not say
OWN_VERIFIERS = {"countdown": "countdown", "reasoning_gym": "reasoning_gym"}  # of tasks; all others': math
NO_VERIFIER = "none"  # its completions are worth what rewards say; nothing is right or wrong
SHOWN = 3  # rejected rows that an error quotes
SHOWN_TEXT = 200  # characters of a row that it quotes
Grade = Callable[[str, Mapping[str, Any]], Score]


@dataclass(frozen=True, slots=True)
class Task:
    """Problems ready to train on. No held-out problem is among `train`."""

    name: str
    train: list[TaskRow]
    held_out: list[TaskRow]
    rejected: list[tuple[str, str]]  # (row id, reason)
    grade: Grade
    notes: Sequence[str] = ()  # what was changed of the gold answers; what a generator had less of than asked for


def load_task(settings: TaskSettings, eval_problems: int, seed: int) -> Task:
    """Load, split, clean and check. `seed` chooses problems where `settings.seed` does not.

    Raises:
        TaskError: no such data or column, no row whose gold answer passes, or nothing left to train on.
    """
    seed = seed if settings.seed is None else settings.seed
    verifier, grade = verifier_of(settings), grade_of(settings)
    # Gold answers are handed over in <answer> tags, whatever the model is to write.
    check = grade if verifier in ("code", NO_VERIFIER) else grader(verifier)
    rejected: list[tuple[str, str]] = []
    notes: Sequence[str] = ()
    if verifier == "code":
        _sandbox_or_say(settings)
    if settings.name == "reasoning_gym":
        name = str(settings.name)
        train, held_out, notes = _puzzles(settings, eval_problems, seed)
    elif settings.name in GENERATED:
        name = str(settings.name)
        train, held_out = _generated(settings, eval_problems, seed)
        if verifier == "code":
            train, held_out = _printed(train), _printed(held_out)
    else:
        name = settings.name or str(settings.dataset)
        train, held_out = from_dataset(settings, rejected)
    if settings.question_pattern:
        train, held_out = (list(_cut(rows, settings.question_pattern, rejected)) for rows in (train, held_out))
    needed = NEEDED.get(verifier, ())
    if train and not set(needed) <= set(train[0].columns):
        has, columns = ", ".join(train[0].columns), " and ".join(needed)
        raise TaskError(f"task.verifier: {verifier} needs the columns {columns}; {Path(name).name} has {has}")
    answers = [row.answer for row in train]
    if verifier == "math" and settings.name not in GENERATED:
        notes = summary(normal_gold(row.answer) for row in train)
        train, held_out = (_with_normal_golds(rows, settings.text_golds, rejected) for rows in (train, held_out))
    train = _checked(_not_repeated(train, held_out, rejected), check, verifier, rejected)
    held_out = _checked(_sample(held_out, eval_problems, seed), check, verifier, rejected)
    if not train or not held_out:
        shown = "; ".join(f"{row}: {reason}" for row, reason in rejected[:SHOWN])
        mend = f". {found}" if (found := advice(answers)) else ""
        raise TaskError(
            f"task {name}: no {'held-out' if train else 'training'} problem is left. Rejected: {shown}{mend}"
        )
    return Task(name, _sample(train, settings.problems, seed), held_out, rejected, grade, notes)


def _cut(rows: Iterable[TaskRow], pattern: str, rejected: list[tuple[str, str]]) -> Iterator[TaskRow]:
    """The rows with the part of their questions that the model is to see."""
    for row in rows:
        if found := re.search(pattern, row.question):
            yield replace(row, question=found[1])
        else:
            rejected.append((row.id, f"no match of task.question_pattern in {row.question[:SHOWN_TEXT]!r}"))


def _sandbox_or_say(settings: TaskSettings) -> None:
    """Before any data: without a sandbox nothing could be graded."""
    try:
        describe(settings.code.get("sandbox", "auto"))
    except (SandboxError, ValueError) as error:
        raise TaskError(f"task.code.sandbox: {error}") from error


def grade_of(settings: TaskSettings) -> Grade:
    """What grades one completion against a row, as the recipe says."""
    verifier = verifier_of(settings)
    if verifier == NO_VERIFIER:
        return lambda *_: Score(None, None, "error", "the task has no verifier")
    args = dict(settings.code) if verifier == "code" else {"read": tuple(settings.read)} if settings.read else {}
    return grader(verifier, **args)


def verifier_of(settings: TaskSettings) -> str:
    return settings.verifier or OWN_VERIFIERS.get(str(settings.name), "math")


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
    programs = len(rows) if verifier == "code" else 0  # which take processes of their own
    with together(programs), ThreadPoolExecutor(AT_ONCE if programs else 1) as threads:
        faults = list(threads.map(lambda row: _fault(row, grade, verifier), rows))
    for row, fault in zip(rows, faults, strict=True):
        if fault is None:
            passed.append(row)
        else:
            rejected.append((row.id, fault))
    return passed


def _fault(row: TaskRow, grade: Grade, verifier: str) -> str | None:
    """Why no answer could be right; None where the gold answer passes, or of a program without one, tests are there."""
    if verifier == NO_VERIFIER:
        return None
    if verifier == "reasoning_gym" and not row.answer:  # an untrusted generator that gives none
        return None
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
    return f"gold answer {row.answer[:SHOWN_TEXT]!r} does not pass the verifier: {score.reason}"


def _not_repeated(train: list[TaskRow], held_out: list[TaskRow], rejected: list[tuple[str, str]]) -> list[TaskRow]:
    seen = {normal(row.question): row.id for row in held_out}
    fresh = []
    for row in train:
        first = seen.setdefault(normal(row.question), row.id)
        if first == row.id:
            fresh.append(row)
        else:
            rejected.append((row.id, f"same question as {first}"))
    return fresh


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
