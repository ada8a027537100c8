"""From completions to graded Generations: of a benchmark's own sampling, of training, or of somebody else's program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from eval.problems.benchmarks import BENCHMARKS
from eval.problems.protocol import RULES, Grade, grader
from eval.types import Failure, Generation, Problem
from rewards import grader as verifier_named
from rewards.verifier.extract import STRICT

NEEDED = ("completion", "answer", "problem_id")
UNNAMED = "generations"  # the benchmark of rows that name none
THREADS = 2  # as many as the verifier has workers for what it cannot settle at once


class GenerationsError(ValueError):
    """Generations that cannot be graded. The message names the row."""


def graded(
    benchmark: str,
    problem: Problem,
    sample: int,
    completion: str,
    grade: Grade,
    tokens: int | None = None,
    finish_reason: str | None = None,
    max_tokens: int | None = None,
) -> Generation:
    """The completion (what the template opened included) with its grade."""
    score = grade(completion, problem)
    return Generation(
        benchmark=benchmark,
        problem_id=problem.id,
        sample=sample,
        question=problem.question,
        answer=problem.answer,
        completion=completion,
        value=score.value,
        outcome=score.outcome,
        extracted=score.extracted,
        reason=score.reason,
        tokens=tokens,
        finish_reason=finish_reason,
        subject=problem.subject,
        level=problem.level,
        max_tokens=max_tokens,
    )


def failed(benchmark: str, problem: Problem, sample: int, cause: Failure, reason: str) -> Generation:
    """A completion that never came."""
    return Generation(
        benchmark=benchmark,
        problem_id=problem.id,
        sample=sample,
        question=problem.question,
        answer=problem.answer,
        completion="",
        value=None,
        outcome=None,
        extracted=None,
        reason=reason,
        failure=cause,
        subject=problem.subject,
        level=problem.level,
    )


def grade_generations(rows: Sequence[Mapping[str, Any]]) -> list[Generation]:
    """Grade completions that somebody else's program sampled, in order.

    Each row has `completion` (None: it never came), `answer` and `problem_id`, and may have `benchmark`, `sample`,
    `question`, `subject`, `level`, `tokens`, `finish_reason`, and whatever else the verifier needs. Rows of a built-in
    benchmark are graded by its protocol's rules, others as mathematics.

    Raises GenerationsError if a row lacks a column, or two rows are the same sample of a problem.
    """
    numbers: Counter[tuple[str, str]] = Counter()
    read = [_read(row, place, numbers) for place, row in enumerate(rows, 1)]
    _refuse_repeated(read)
    grades = {name: grade_by_rules_of(name) for name in {row.benchmark for row in read}}
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda row: _grade(row, grades[row.benchmark]), read))


def grade_by_rules_of(benchmark: str) -> Grade:
    """How generations of a benchmark are graded; of one that is not built in, as mathematics."""
    if benchmark in BENCHMARKS:
        return grader(BENCHMARKS[benchmark].protocol)
    mathematics = verifier_named("math", read=STRICT)
    return lambda completion, problem: mathematics(
        completion, {**problem.columns, "question": problem.question, "answer": problem.answer}
    )


def graded_by(benchmark: str) -> dict[str, Any]:
    """The same in words, for results.json."""
    if benchmark in BENCHMARKS:
        protocol = BENCHMARKS[benchmark].protocol
        return {"verifier": protocol.verifier, "read": list(protocol.read), "rules": protocol.rules}
    return {"verifier": "math", "read": list(STRICT), "rules": RULES}


class _GivenRow(NamedTuple):
    benchmark: str
    problem: Problem
    sample: int
    completion: str | None
    tokens: int | None
    finish_reason: str | None


def _read(row: Mapping[str, Any], place: int, numbers: Counter[tuple[str, str]]) -> _GivenRow:
    """`numbers` counts a problem's rows: those without a `sample` take their number from it."""
    for column in NEEDED:
        if column not in row:
            has = ", ".join(row) or "nothing"
            raise GenerationsError(f"row {place}: no {column!r}; expected {', '.join(NEEDED)}; it has {has}")
    benchmark, problem_id = str(row.get("benchmark") or UNNAMED), str(row["problem_id"])
    sample, tokens = row.get("sample"), row.get("tokens")
    if not isinstance(sample, int):
        sample = numbers[benchmark, problem_id]
    numbers[benchmark, problem_id] += 1
    problem = Problem(
        id=problem_id,
        question=str(row.get("question") or ""),
        answer=str(row["answer"]),
        subject=_text(row.get("subject")),
        level=_text(row.get("level")),
        columns={key: value for key, value in row.items() if key not in NEEDED},
    )
    tokens = tokens if isinstance(tokens, int) else None
    return _GivenRow(benchmark, problem, sample, _text(row["completion"]), tokens, _text(row.get("finish_reason")))


def _refuse_repeated(rows: Sequence[_GivenRow]) -> None:
    seen: dict[tuple[str, str, int], int] = {}
    for place, row in enumerate(rows, 1):
        first = seen.setdefault((row.benchmark, row.problem.id, row.sample), place)
        if first != place:
            raise GenerationsError(f"row {place}: sample {row.sample} of {row.problem.id} is in row {first} already")


def _grade(row: _GivenRow, grade: Grade) -> Generation:
    if row.completion is None:
        return failed(row.benchmark, row.problem, row.sample, "missing", "no completion in the row")
    return graded(row.benchmark, row.problem, row.sample, row.completion, grade, row.tokens, row.finish_reason)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
