"""Numeric answers, exactly or within a tolerance:

    |answer - gold| <= max(rel_tol * |gold|, abs_tol)

in exact fractions, so that the bound itself is within: 1.01 is within abs_tol 0.01 of 1. Unlike math.isclose, the
relative tolerance is of the gold answer alone: a wild answer does not widen its own margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Any

from rewards.graded import Completion, Graded, text_of
from rewards.types import Score
from rewards.verifier.extract import STRICT, Place, graded
from rewards.verifier.numeric import is_close, quantity
from rewards.verifier.spelling import plain, tidy
from rewards.verifier.verdict import Verdict

Tolerance = int | float | str | Fraction  # a float is taken as it is written: 0.1 is 1/10


@Graded
def number(
    completions: Sequence[Completion],
    answer: Sequence[Any],
    rel_tol: Tolerance = 0,
    abs_tol: Tolerance = 0,
    read: Sequence[Place] = STRICT,
    **columns: Any,
) -> list[Score]:
    """1.0 if the final answer is a number within the tolerance of the column `answer`, else 0.0; None if that is none.

    A number is what rewards/verifier/numeric.py reads: 1,200, 3/4, 2.5e-3, 40%, $5, 3 cm; anything else is `malformed`.
    Units, percent and currency count as they do for `accuracy`. `read`: where the answer may stand.
    Raises ValueError if a tolerance is negative or no number.
    """
    bounds = _tolerance("rel_tol", rel_tol), _tolerance("abs_tol", abs_tol)
    rows = zip(completions, answer, strict=True)
    return [graded(text_of(text), read, partial(_verdict, gold, *bounds)) for text, gold in rows]


def _tolerance(name: str, value: Tolerance) -> Fraction:
    try:
        tolerance = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        tolerance = Fraction(-1)
    if tolerance < 0:
        raise ValueError(f"{name}: got {value!r}, expected a number that is not negative, such as 0.01")
    return tolerance


def _verdict(gold: Any, rel_tol: Fraction, abs_tol: Fraction, answer: str) -> Verdict:
    gold = str(gold)
    wanted, got = quantity(plain(tidy(gold))), quantity(plain(tidy(answer)), letters=True)
    if wanted is None:
        return "error", f"the gold answer {gold[:60]!r} is no number: fix or drop the row"
    if got is None:
        return "malformed", f"{answer[:60]!r} is no number"
    close = is_close(got, wanted, rel_tol, abs_tol)
    return "correct" if close else "wrong", f"{answer} is {'' if close else 'not '}within the tolerance of {gold}"
