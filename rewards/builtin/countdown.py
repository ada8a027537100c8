"""Countdown: reach the target from the given numbers with + - * / and parentheses.

Each number is used exactly once, as in TinyZero's countdown (github.com/Jiayi-Pan/TinyZero); arithmetic is exact,
so 1/3*3 is 1. Powers, floor division and digits joined into new numbers are refused. `= target` may follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rewards.graded import Completion, Graded, text_of
from rewards.types import Score
from rewards.verifier.extract import STRICT, Place, graded
from rewards.verifier.verdict import Verdict

MAX_TOKENS = 100  # far above what six numbers need; bounds the parser's recursion

_TOKEN = re.compile(r"\s*(\d{1,18}|[-+*/()])")
_SPELLINGS = {
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{DIVISION SIGN}": "/",
    "\N{MINUS SIGN}": "-",
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\left": "",
    r"\right": "",
}


class NotAnExpression(ValueError):
    """The text is no arithmetic expression over whole numbers."""


@Graded
def countdown(
    completions: Sequence[Completion],
    numbers: Sequence[Sequence[int]],
    target: Sequence[int],
    read: Sequence[Place] = STRICT,
    **columns: Any,
) -> list[Score]:
    """1.0 if the answer is an expression that uses each of `numbers` exactly once and equals `target`, else 0.0."""
    rows = zip(completions, numbers, target, strict=True)
    return [verify_countdown(text_of(text), given, goal, read) for text, given, goal in rows]


def verify_countdown(
    completion: str, numbers: Sequence[int], target: int | str, read: Sequence[Place] = STRICT
) -> Score:
    """Grade one countdown answer. Bounded work; nothing of the completion is ever executed."""
    return graded(completion, read, lambda answer: countdown_verdict(answer, numbers, target))


def countdown_verdict(answer: str, numbers: Sequence[int], target: int | str) -> Verdict:
    """On the answer alone, once it was read."""
    expression, equals, claimed = answer.strip("$ ").partition("=")
    try:
        used, value = evaluate(expression)
        if equals and evaluate(claimed)[1] != Fraction(target):
            return "wrong", f"claims to be {claimed.strip()}, not {target}"
    except NotAnExpression as problem:
        return "malformed", str(problem)
    except ZeroDivisionError:
        return "wrong", "divides by zero"
    if sorted(used) != sorted(map(int, numbers)):
        return "wrong", f"uses {sorted(used)}, expected each of {sorted(numbers)} exactly once"
    correct = value == Fraction(target)
    return "correct" if correct else "wrong", f"{expression.strip()} is {value}, target {target}"


def evaluate(expression: str) -> tuple[list[int], Fraction]:
    """The numbers an expression uses, and its value. Raises NotAnExpression or ZeroDivisionError."""
    for spelling, sign in _SPELLINGS.items():
        expression = expression.replace(spelling, sign)
    tokens = _TOKEN.findall(expression)
    if len(tokens) > MAX_TOKENS:
        raise NotAnExpression(f"{len(tokens)} tokens, expected at most {MAX_TOKENS}")
    if _TOKEN.sub("", expression).strip() or re.search(r"\d\s+\d", expression):
        raise NotAnExpression(f"{expression.strip()[:60]!r} is not made of whole numbers, + - * / and parentheses")
    value = _Parser(tokens).parse()
    return [int(token) for token in tokens if token.isdecimal()], value


class _Parser:
    """Recursive descent. sum: product {+- product}; product: signed {*/ signed}; signed: -signed | number | (sum)"""

    def __init__(self, tokens: list[str]):
        self._tokens = [*tokens, "end"]
        self._position = 0

    def parse(self) -> Fraction:
        value = self._sum()
        self._expect("end")
        return value

    def _next(self) -> str:
        self._position += 1
        return self._tokens[self._position - 1]

    def _expect(self, token: str) -> None:
        if (got := self._next()) != token:
            raise NotAnExpression(f"got {got!r}, expected {token!r}")

    def _sum(self) -> Fraction:
        value = self._product()
        while self._tokens[self._position] in "+-":
            value = value + self._product() if self._next() == "+" else value - self._product()
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while self._tokens[self._position] in "*/":
            value = value * self._signed() if self._next() == "*" else value / self._signed()
        return value

    def _signed(self) -> Fraction:
        token = self._next()
        if token == "-":
            return -self._signed()
        if token == "(":
            value = self._sum()
            self._expect(")")
            return value
        if not token.isdecimal():
            raise NotAnExpression(f"got {token!r}, expected a number")
        return Fraction(int(token))
