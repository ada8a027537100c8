"""A task: problems to train on, held-out problems, and the verifier that grades both.

What is dropped, and why, is kept in `Task.rejected`: rows without an answer, rows whose gold answer does not
pass the verifier, training rows that are repeated or that the held-out split has too, and MATH rows of unknown level.
"""

from __future__ import annotations

import difflib
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipes.generated import generate
from recipes.schema import BOXED, GENERATED, TaskSettings
from rewards import Score, grader
from rewards.choice import gold_options

GENERATED_PROBLEMS = 4096  # training problems of a generated task whose recipe does not say
HELD_OUT_SHARE = 10  # of a dataset's only split, one row in ten is held out
SHOWN = 3  # rejected rows that an error quotes
Grade = Callable[[str, Mapping[str, Any]], Score]


class TaskError(ValueError):
    """Problems cannot be loaded. The message says what was looked for, what is there, and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One problem. Example: Row(id="gsm8k/train/17", question="A robe takes ...", answer="3", columns={...})"""

    id: str
    question: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict)  # every column of the dataset's row


@dataclass(frozen=True, slots=True)
class Task:
    """Problems ready to train on. No held-out problem is among `train`."""

    name: str
    train: list[Row]
    held_out: list[Row]
    rejected: list[tuple[str, str]]  # (row id, reason)
    grade: Grade


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's rows are, and how to read them."""

    dataset: str
    question: str
    answer: str
    subset: str | None = None
    answer_pattern: str | None = None
    known: tuple[str, str] | None = None  # (column, regex that it must match in a training row)


SOURCES = {
    "gsm8k": Source("openai/gsm8k", "question", "answer", "main", r"####\s*(.+)"),
    "math": Source("DigitalLearningGmbH/MATH-lighteval", "problem", "solution", None, BOXED, ("level", r"Level \d")),
}


def load_task(settings: TaskSettings, eval_problems: int, seed: int) -> Task:
    """Load, split, clean and check. `seed` chooses problems where `settings.seed` does not.

    Raises:
        TaskError: no such data or column, no row whose gold answer passes, or nothing left to train on.
    """
    seed = seed if settings.seed is None else settings.seed
    verifier = settings.verifier or ("countdown" if settings.name == "countdown" else "math")
    grade = grader(verifier, **({"read": tuple(settings.read)} if settings.read else {}))
    check = grader(verifier)  # gold answers are handed over in <answer> tags, whatever the model is to write
    rejected: list[tuple[str, str]] = []
    if settings.name in GENERATED:
        name = str(settings.name)
        train, held_out = _generated(settings, eval_problems, seed)
    else:
        name = settings.name or str(settings.dataset)
        train, held_out = _from_dataset(settings, rejected)
    if verifier == "countdown" and train and not {"numbers", "target"} <= set(train[0].columns):
        has = ", ".join(train[0].columns)
        raise TaskError(f"task.verifier: countdown needs the columns numbers and target; {Path(name).name} has {has}")
    write = _letters if verifier == "multiple_choice" else _as_it_stands
    train = _checked(_not_repeated(train, held_out, rejected), check, write, rejected)
    held_out = _checked(_sample(held_out, eval_problems, seed), check, write, rejected)
    if not train or not held_out:
        shown = "; ".join(f"{row}: {reason}" for row, reason in rejected[:SHOWN])
        raise TaskError(f"task {name}: no {'held-out' if train else 'training'} problem is left. Rejected: {shown}")
    return Task(name, _sample(train, settings.problems, seed), held_out, rejected, grade)


def _sample(rows: list[Row], n: int | None, seed: int) -> list[Row]:
    """`n` of the rows, in their order: benchmarks are sorted by subject, so the first n would be one subject."""
    if n is None or n >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), n))]


def _checked(
    rows: Iterable[Row], grade: Grade, write: Callable[[Row], str], rejected: list[tuple[str, str]]
) -> list[Row]:
    """The rows whose gold answer passes as a model would `write` it. A problem that no answer solves teaches noise."""
    passed = []
    for row in rows:
        score = grade(f"<answer>{write(row)}</answer>", {**row.columns, "answer": row.answer})
        if score.outcome == "correct":
            passed.append(row)
        else:
            rejected.append((row.id, f"gold answer {row.answer!r} does not pass the verifier: {score.reason}"))
    return passed


def _as_it_stands(row: Row) -> str:
    return row.answer


def _letters(row: Row) -> str:
    """The right options of a multiple-choice row, whose gold answer may be an index or a choice's text."""
    options = gold_options(row.answer, row.columns.get("choices") or ())
    return ", ".join(chr(ord("A") + option) for option in sorted(options))


def _not_repeated(train: list[Row], held_out: list[Row], rejected: list[tuple[str, str]]) -> list[Row]:
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


def _generated(settings: TaskSettings, eval_problems: int, seed: int) -> tuple[list[Row], list[Row]]:
    name, n = str(settings.name), settings.problems or GENERATED_PROBLEMS
    try:
        train = generate(name, "train", n, seed, **settings.config)
        held_out = generate(name, "held_out", eval_problems, seed, **settings.config)
    except ValueError as error:
        raise TaskError(f"task.config: {error}") from error
    return _as_rows(train), _as_rows(held_out)


def _as_rows(problems: list[dict[str, Any]]) -> list[Row]:
    return [Row(problem["id"], problem["question"], problem["answer"], problem) for problem in problems]


# -- Datasets -----------------------------------------------------------------------------------------------------


def _from_dataset(settings: TaskSettings, rejected: list[tuple[str, str]]) -> tuple[list[Row], list[Row]]:
    source = _source(settings)
    splits = _open(source, settings.name)
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


def _source(settings: TaskSettings) -> Source:
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
    return Source(settings.dataset, columns.question, columns.answer, settings.subset, settings.answer_pattern)


def _open(source: Source, name: str | None) -> Mapping[str, Any]:
    """Split name -> `datasets.Dataset`, of a file, of a folder of files named after their splits, or of the hub."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    place = Path(source.dataset).expanduser()
    if (place / str(name)).is_dir():  # a folder of data sets
        place = place / str(name)
    try:
        if files := _files(place):
            reader = "parquet" if files[0].suffix == ".parquet" else "json"
            return {_split_of(f, place): load_dataset(reader, data_files=str(f), split="train") for f in files}
        if place.exists() or source.dataset.count("/") != 1 or source.dataset[0] in "./~":
            raise TaskError(
                f"task data: {place} {'holds no such file' if place.exists() else 'does not exist'}; expected a .jsonl "
                "or .parquet file, a folder with files such as train.jsonl and test.jsonl, or a hub id"
            )
        return load_dataset(source.dataset, source.subset)
    except (OSError, DatasetsError) as error:  # a hub that cannot be reached is an OSError
        reason = str(error).strip().partition("\n")[0]
        raise TaskError(
            f"task data: {source.dataset} cannot be loaded: {reason}. Without a connection to the hub, give a local "
            f"folder with train.jsonl and test.jsonl: --set task.{'path' if name else 'dataset'}=DIR"
        ) from error


def _files(place: Path) -> list[Path]:
    candidates = sorted(place.iterdir()) if place.is_dir() else [place] if place.is_file() else []
    for suffix in (".jsonl", ".parquet"):
        if files := [file for file in candidates if file.suffix == suffix]:
            return files
    return []


def _split_of(file: Path, place: Path) -> str:
    return "train" if file == place else re.sub(r"\W", "_", file.stem)


def _rows(
    splits: Mapping[str, Any], split: str, label: str, source: Source, rejected: list[tuple[str, str]]
) -> list[Row]:
    if split not in splits:
        raise TaskError(
            f"task data: {label} has no split {split!r}{_nearest(split, splits)}; it has {', '.join(splits)}"
        )
    data = splits[split]
    for column in (source.question, source.answer):
        if column not in data.column_names:
            raise TaskError(
                f"task.columns: {label} has no column {column!r}{_nearest(column, data.column_names)}; "
                f"it has {', '.join(data.column_names)}"
            )
    rows = []
    for i, columns in enumerate(data):
        row_id = f"{label}/{split}/{i}"
        answer = gold_answer(columns[source.answer], source.answer_pattern)
        if answer is None:
            rejected.append((row_id, f"no answer in column {source.answer!r}"))
        elif source.known and not re.fullmatch(source.known[1], str(columns.get(source.known[0]))):
            rejected.append((row_id, f"{source.known[0]} is {columns.get(source.known[0])!r}"))
        else:
            rows.append(Row(row_id, str(columns[source.question]), answer, columns))
    return rows


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _split_by_hash(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """A tenth of the rows, at least one, held out; the choice depends on the questions alone."""
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(_normal(row.question).encode()).digest())
    held_out = {row.id for row in by_hash[: -(-len(rows) // HELD_OUT_SHARE)]}
    return [row for row in rows if row.id not in held_out], [row for row in rows if row.id in held_out]


def gold_answer(value: Any, pattern: str | None) -> str | None:
    r"""The gold answer in a column's value; None if there is none.

    >>> gold_answer("48/2 = 24\n#### 24", r"####\s*(.+)"), gold_answer(r"so \boxed{\frac{1}{2}}", "boxed")
    ('24', '\\frac{1}{2}')
    """
    if value is None:
        return None
    text = str(value)
    if pattern == BOXED:
        return _last_boxed(text)
    if pattern:
        found = re.findall(pattern, text)
        return found[-1].strip() if found else None
    return text.strip() or None


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
