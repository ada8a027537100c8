"""Math-Verify, for what equality.py cannot read. Runs in a worker process (pool.py), which bounds it.

It compares some things loosely, so that its "equal" counts only where it tells the gold answer from near misses of it
(perturb.py). The texts differ already where it is asked: what it is not believed about is wrong.

Only its LaTeX reader is used: its reader of plain expressions is sympy's `parse_expr`, which is `eval`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic

from rewards.verifier.judge import judge
from rewards.verifier.perturb import near_misses
from rewards.verifier.pool import serve
from rewards.verifier.question import Question
from rewards.verifier.spelling import tidy
from rewards.verifier.verdict import Verdict

_READ = (LatexExtractionConfig(boxed_match_priority=0),)
# What sympy raises on answers that it cannot compare, say a matrix with a set.
_CANNOT = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def equivalent(item: Mapping[str, str]) -> Verdict:
    """The verdict on an answer and a gold answer, with Math-Verify for the parts that nothing else could read."""
    question, evaluated = Question.of(item.get("question")), bool(item.get("evaluated"))
    return judge(tidy(item["answer"]), tidy(item["gold"]), question, ask_math_verify, evaluated)


def ask_math_verify(answer: str, gold: str) -> Verdict:
    mine, wanted = _parse(answer), _parse(gold)
    if wanted is None:
        return "wrong", f"not the text of the gold answer, and {gold!r} is no mathematics that can be read"
    if mine is None:
        return "wrong", f"{answer!r} is no mathematics that can be read"
    try:
        if not _equal(wanted, mine):
            return "wrong", "Math-Verify finds them different"
        for near in near_misses(gold):
            missed = _parse(near)
            if missed is not None and _equal(wanted, missed):
                return "wrong", f"Math-Verify finds them equal, but {near} and {gold} as well"
    except _CANNOT as problem:
        return _cannot(wanted, problem)
    return "correct", "Math-Verify finds them equal"


def _equal(gold: Basic, answer: Basic) -> bool:
    # Its own timeouts need the main thread's SIGALRM; the pool's need nothing of the process.
    return bool(verify(gold, answer, float_rounding=15, timeout_seconds=None, raise_on_error=True))


def _cannot(gold: Basic, problem: Exception) -> Verdict:
    """A gold answer that it can compare with itself is not at fault: the answer is nothing that compares with it."""
    try:
        verify(gold, gold, timeout_seconds=None, raise_on_error=True)
    except _CANNOT:
        return "error", f"Math-Verify raised {type(problem).__name__}: {problem}"
    return "wrong", f"Math-Verify cannot compare them: {problem}"


def _parse(text: str) -> Basic | None:
    parsed = parse(f"\\boxed{{{text}}}", _READ, fallback_mode="no_fallback", parsing_timeout=None)
    return parsed[0] if parsed else None


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # Math-Verify warns that its timeouts are off; the pool has its own
    ask_math_verify(r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}")  # fill the parser's caches once
    serve(equivalent)
