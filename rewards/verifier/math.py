"""Grade mathematical answers.

    verify(completion, answer) = compare(read_answer(completion), answer)

judge.py settles nearly all in this process, in microseconds. What it cannot read goes to Math-Verify in worker
processes that are killed at their deadline (pool.py), so that no completion can hang a run. Safe in any thread; the
results are the same in all. Where the question is given, its own expressions are no answer to it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from rewards.types import Outcome, Score
from rewards.verifier.extract import MAX_ANSWER, STRICT, Place, read_answer
from rewards.verifier.judge import judge
from rewards.verifier.latex import depth
from rewards.verifier.numeric import within
from rewards.verifier.pool import Pool
from rewards.verifier.question import MAX_LENGTH, Question
from rewards.verifier.spelling import tidy
from rewards.verifier.verdict import MAX_REASON, Verdict, attempt, error, score

MAX_DEPTH = 50  # of brackets; bounds the recursion here and in the parsers behind
MAX_GOLD = 20_000  # characters

# Starts no process before it is asked.
_pool = Pool("rewards.verifier.symbolic", size=2, cpu_seconds=1.0, memory_gib=2.0)

Pair = tuple[Any, Any]  # (answer, gold), texts or numbers


class _NotSettled(Exception):
    """Only Math-Verify may know."""


def verify(
    completion: str,
    answer: Any,
    read: Sequence[Place] = STRICT,
    *,
    question: str | None = None,
    evaluated: bool = False,
    tolerance: Any = None,
) -> Score:
    """Grade a completion (prefill included) against the gold answer, a text or a number.

    read: where an answer may stand. question: what its expressions and words are for, see rewards/verifier/question.py.
    evaluated: whether the answer must be a number where the gold answer is one. tolerance: by how much a number may
    differ, or one such number for each element of a list, as in OlympiadBench's column `error`.

    Raises ValueError if `read` is empty or names an unknown source, and for nothing that the other arguments hold.
    """
    return verify_all([completion], [answer], read, [question], evaluated, [tolerance])[0]


def verify_all(
    completions: Sequence[str],
    answers: Sequence[Any],
    read: Sequence[Place] = STRICT,
    questions: Sequence[str | None] | None = None,
    evaluated: bool = False,
    tolerances: Sequence[Any] | None = None,
) -> list[Score]:
    """`verify` for many, in order; what needs the workers shares them. One gold answer for each completion."""
    readings = [read_answer(completion, read) for completion in completions]
    rows = list(zip(readings, answers, questions or [None] * len(readings), strict=True))
    allowed = tolerances or [None] * len(rows)
    found = [place for place, reading in enumerate(readings) if reading.answer is not None]
    graded = compare_all(
        [(rows[place][0].answer, rows[place][1]) for place in found],
        [rows[place][2] for place in found],
        evaluated,
        [allowed[place] for place in found],
    )
    scores = dict(zip(found, graded, strict=True))
    return [
        scores.get(place) or score(reading.failure or "no_answer", None, reading.reason)
        for place, reading in enumerate(readings)
    ]


def compare(answer: Any, gold: Any, question: str | None = None, *, evaluated: bool = False) -> Score:
    """Grade a bare answer against the gold answer, each a text or a number. Bounded in time and memory; raises nothing.

    question, evaluated: as for `verify`.
    """
    return compare_all([(answer, gold)], [question], evaluated)[0]


def compare_all(
    pairs: Sequence[Pair],
    questions: Sequence[str | None] | None = None,
    evaluated: bool = False,
    tolerances: Sequence[Any] | None = None,
) -> list[Score]:
    """`compare` for many (answer, gold), in order."""
    n = len(pairs)
    rows = [
        (as_text(answer), as_text(gold), as_text(question)[:MAX_LENGTH], evaluated, as_text(tolerance))
        for (answer, gold), question, tolerance in zip(
            pairs, questions or [None] * n, tolerances or [None] * n, strict=True
        )
    ]
    verdicts = [attempt(error, _settle, *row) for row in rows]
    unsettled = list(dict.fromkeys(row for row, verdict in zip(rows, verdicts, strict=True) if verdict is None))
    asked = dict(zip(unsettled, _pool.ask_all([_item(*row) for row in unsettled]), strict=True))
    placed = (_placed(verdict or asked[row], row[0]) for row, verdict in zip(rows, verdicts, strict=True))
    return [score(*one) for one in placed]


def as_text(value: Any) -> str:
    """A column's value as the text to compare: "" for None, 42 for 42 and 42.0, the elements of a list with commas."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    try:
        return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)
    except Exception:  # an object of the user's whose __str__ fails; an integer of too many digits
        return ""


def _item(answer: str, gold: str, question: str, evaluated: bool, tolerance: str) -> dict[str, str]:
    return {"answer": answer, "gold": gold, "question": question, "evaluated": "yes" if evaluated else ""}


def _placed(verdict: Verdict, answer: str) -> tuple[Outcome, str, str]:
    outcome, reason = verdict
    return outcome, answer if outcome != "malformed" else answer[:80], reason[:MAX_REASON]


@functools.lru_cache(maxsize=4096)  # a group's completions often give the same answer
def _settle(answer: str, gold: str, question: str, evaluated: bool, tolerance: str) -> Verdict | None:
    """The verdict, or None if Math-Verify has to be asked."""
    if not gold.strip():
        return "error", "the gold answer is empty, or no text and no number: fix or drop the row"
    if len(gold) > MAX_GOLD:
        return "error", f"a gold answer of more than {MAX_GOLD} characters: fix or drop the row"
    if len(answer) > MAX_ANSWER or depth(answer) > MAX_DEPTH:
        return "malformed", f"an answer of more than {MAX_ANSWER} characters or {MAX_DEPTH} nested brackets"
    mine, wanted = tidy(answer), tidy(gold)
    if tolerance and within(mine, wanted, tolerance):
        return "correct", f"{answer} is within {tolerance} of {gold}"
    try:
        return judge(mine, wanted, Question.of(question), _not_settled, evaluated)
    except _NotSettled:
        return None


def _not_settled(answer: str, gold: str) -> Verdict:
    raise _NotSettled
