r"""A restricted reader of LaTeX expressions, independent of the verifier's: what it is not sure of it refuses.

sum     = [+-] product {(+|-) product}
product = power {[\cdot | \times | *] power} {/ power}
power   = atom [^ (digit | letter | {sum})]
atom    = number | letter | \pi | Greek letter | \frac{sum}{sum} | \sqrt[n]{sum} | ( sum )

Letters are variables; `i` is the imaginary unit where it is the only letter. Refused: functions (also `f(x)`),
capital letters (names of points), words, derivatives, mixed numbers, several values (\pm), everything else.
"""

from __future__ import annotations

import re
from functools import lru_cache

import sympy as sp

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.\d+|\d+)|(?P<command>\\[a-zA-Z]+)|(?P<letter>[a-z])|(?P<sign>[-+*/^(){}\[\]]))"
)
_SPACING = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\displaystyle(?![a-z])|\\[!,;: ]|~")
_GREEK = {"\\" + name for name in ("alpha", "beta", "gamma", "theta", "lambda", "omega", "rho", "phi", "mu")}
_FRACTIONS = {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac"}
_CALL = re.compile(r"(?<![a-zA-Z\\])[fghpqu]\s*\(")
_WORD = re.compile(r"(?<![\\a-z])[a-z]{4,}|frac ?\{ ?d ?[\^a-z\\}]")  # and derivatives
_POINTS = [  # variables are given these values, and shifted ones, to tell two expressions apart
    (sp.Rational(7, 5), sp.Rational(11, 13)),
    (sp.Rational(19, 7), sp.Rational(3, 17)),
    (sp.Rational(23, 11), sp.Rational(29, 31)),
]


class Unreadable(ValueError):
    """The text is outside the grammar above."""


@lru_cache(maxsize=4096)
def read(text: str) -> sp.Expr | None:
    r"""The expression, unevaluated where sympy lets it be; None if it is outside the grammar.

    >>> read(r"\frac{x^2-1}{2}"), read(r"\sin x")
    (x**2/2 - 1/2, None)
    """
    if len(text) > 200 or _CALL.search(text) or _WORD.search(text):
        return None
    try:
        return _Reader(text).read()
    except (Unreadable, ZeroDivisionError):
        return None


def equal(left: sp.Expr, right: sp.Expr) -> bool | None:
    """Whether they have the same value at every test point, to 40 digits; None if one is undefined there."""
    letters = sorted((left.free_symbols | right.free_symbols), key=str)
    for start, step in _POINTS[: 1 if not letters else None]:
        at = {letter: start + n * step for n, letter in enumerate(letters)}
        a, b = (sp.N(side.subs(at), 60) for side in (left, right))
        if not (a.is_number and b.is_number) or not (sp.Abs(a).is_finite and sp.Abs(b).is_finite):
            return None
        if abs(a - b) > sp.Float("1e-40") * (1 + abs(a)):
            return False
    return True


def reads_equal(left: str, right: str) -> bool:
    """Whether both are read, and have the same value."""
    first, second = read(left), read(right)
    return first is not None and second is not None and equal(first, second) is True


class _Reader:
    def __init__(self, text: str):
        text = _SPACING.sub(" ", text).strip()
        self._tokens, end = [], 0
        while end < len(text):
            token = _TOKEN.match(text, end)
            if not token:
                raise Unreadable(text)
            self._tokens.append((str(token.lastgroup), token[token.lastgroup or 0]))
            end = token.end()
        letters = {value for kind, value in self._tokens if kind == "letter"}
        self._imaginary = letters == {"i"} and not _GREEK & {value for _, value in self._tokens}
        self._tokens.append(("end", ""))
        self._at = 0

    def read(self) -> sp.Expr:
        value = self._sum()
        self._expect("")
        return value

    def _next(self) -> tuple[str, str]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self) -> str:
        return self._tokens[self._at][1]

    def _expect(self, sign: str) -> None:
        if self._next()[1] != sign:
            raise Unreadable(sign)

    def _sum(self) -> sp.Expr:
        sign = self._next()[1] if self._peek() in ("+", "-") else "+"
        value = self._product() if sign == "+" else -self._product()
        while self._peek() in ("+", "-"):
            sign = self._next()[1]
            term = self._product()
            value = value + term if sign == "+" else value - term
        return value

    def _product(self) -> sp.Expr:
        value, before = self._power(), self._tokens[self._at - 1][0]
        while True:
            kind, token = self._tokens[self._at]
            if token in ("\\cdot", "\\times", "*"):
                self._next()
                value *= self._power()
            elif token == "/":
                self._next()
                divisor = self._power()
                if divisor == 0 or self._tokens[self._at][0] in ("number", "letter", "command") or self._peek() == "(":
                    raise Unreadable("what follows a slash is ambiguous")
                value /= divisor
            elif kind in ("letter", "command") or token == "(":
                if before == "number" and token in _FRACTIONS and value.is_Integer:
                    raise Unreadable("a mixed number")
                value *= self._power()
            else:
                return value
            before = self._tokens[self._at - 1][0]

    def _power(self) -> sp.Expr:
        base = self._atom()
        if self._peek() != "^":
            return base
        self._next()
        exponent = self._argument()
        if exponent.is_number and abs(exponent) > 50:
            raise Unreadable("a large power")
        return base**exponent

    def _argument(self) -> sp.Expr:
        """{sum}, or one digit or letter."""
        kind, token = self._next()
        if token == "{":
            value = self._sum()
            self._expect("}")
            return value
        if kind == "number" and len(token) == 1:
            return sp.Integer(token)
        if kind == "number" and token.isdecimal():  # \frac12 is \frac{1}{2}
            self._at -= 1
            self._tokens[self._at : self._at + 1] = [("number", token[0]), ("number", token[1:])]
            return self._argument()
        if kind == "letter":
            return self._letter(token)
        if token == "\\pi":
            return sp.pi
        raise Unreadable(token)

    def _letter(self, name: str) -> sp.Expr:
        return sp.I if self._imaginary else sp.Symbol(name)

    def _atom(self) -> sp.Expr:
        kind, token = self._next()
        if kind == "number":
            return sp.Rational(token)
        if kind == "letter":
            return self._letter(token)
        if token == "(":
            value = self._sum()
            self._expect(")")
            return value
        if token == "\\pi":
            return sp.pi
        if token in _GREEK:
            return sp.Symbol(token[1:])
        if token in _FRACTIONS:
            numerator, denominator = self._argument(), self._argument()
            if denominator == 0:
                raise Unreadable("a zero denominator")
            return numerator / denominator
        if token == "\\sqrt":
            return self._root()
        raise Unreadable(token)

    def _root(self) -> sp.Expr:
        degree = sp.Integer(2)
        if self._peek() == "[":
            self._next()
            _, token = self._next()
            if not token.isdecimal():
                raise Unreadable(token)
            degree = sp.Integer(token)
            self._expect("]")
        return sp.root(self._argument(), degree)
