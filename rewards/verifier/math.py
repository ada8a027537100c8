"""Grade mathematical answers.

    verify(completion, answer) = compare(read_answer(completion), answer)

rewards/verifier/equality.py settles nearly all in this process, in microseconds. What it cannot read goes to Math-Verify in
worker processes that are killed at their deadline (rewards/verifier/pool.py), so that no completion can hang a run. Safe in
any thread; the results are the same in all. Whatever goes wrong for one answer is its outcome `error`, with the reason.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rewards.types import Outcome, Score
from rewards.verifier.equality import decide
from rewards.verifier.extract import MAX_ANSWER, STRICT, Source, read_answer
from rewards.verifier.latex import depth
from rewards.verifier.pool import Pool
from rewards.verifier.spelling import tidy
from rewards.verifier.verdict import MAX_REASON, Verdict, attempt, error, score

MAX_DEPTH = 50  # of brackets; bounds the recursion here and in the parsers behind

_pool = Pool(
    "rewards.verifier.symbolic", size=2, cpu_seconds=1.5, memory_gib=2.0
)  # starts no process before it is asked


class _NotSettled(Exception):
    """Only Math-Verify may know."""


def verify(completion: str, answer: str, read: Sequence[Source] = STRICT) -> Score:
    """Grade a completion (prefill included) against the gold answer. `read`: where an answer may stand.

    Raises ValueError if `read` is empty or names an unknown source, and for nothing that the texts hold.
    """
    return verify_all([completion], [answer], read)[0]


def verify_all(completions: Sequence[str], answers: Sequence[str], read: Sequence[Source] = STRICT) -> list[Score]:
    """`verify` for many, in order; what needs the workers shares them. One gold answer for each completion."""
    readings = [read_answer(completion, read) for completion in completions]
    pairs = zip(readings, answers, strict=True)
    graded = iter(compare_all([(reading.answer, gold) for reading, gold in pairs if reading.answer is not None]))
    return [
        next(graded) if reading.answer is not None else score(reading.failure or "no_answer", None, reading.reason)
        for reading in readings
    ]


def compare(answer: str, gold: str) -> Score:
    """Grade a bare answer against the gold answer. Bounded in time and memory; raises nothing."""
    return compare_all([(answer, gold)])[0]


def compare_all(pairs: Sequence[tuple[str, str]]) -> list[Score]:
    """`compare` for many (answer, gold), in order."""
    verdicts = [attempt(error, _settle, answer, gold) for answer, gold in pairs]
    open_pairs = list(dict.fromkeys(pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict is None))
    asked = dict(zip(open_pairs, _pool.ask_all([{"answer": a, "gold": g} for a, g in open_pairs]), strict=True))
    return [score(*_placed(verdict or asked[pair], pair[0])) for pair, verdict in zip(pairs, verdicts, strict=True)]


def _placed(verdict: Verdict, answer: str) -> tuple[Outcome, str, str]:
    outcome, reason = verdict
    return outcome, answer if outcome != "malformed" else answer[:80], reason[:MAX_REASON]


@functools.lru_cache(maxsize=4096)  # a group's completions often give the same answer
def _settle(answer: str, gold: str) -> Verdict | None:
    """The verdict, or None if Math-Verify has to be asked."""
    if not gold.strip():
        return "error", "the gold answer is empty: fix or drop the row"
    if len(answer) > MAX_ANSWER or depth(answer) > MAX_DEPTH:
        return "malformed", f"an answer of more than {MAX_ANSWER} characters or {MAX_DEPTH} nested brackets"
    try:
        return decide(tidy(answer), tidy(gold), _not_settled)
    except _NotSettled:
        return None


def _not_settled(answer: str, gold: str) -> Verdict:
    raise _NotSettled
