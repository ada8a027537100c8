r"""Read an expression, in LaTeX or plain text, and decide whether two of them have the same value.

Two expressions are the same if they agree at POINTS fixed points (at one, if they have no variables): expressions
that differ agree by chance almost nowhere (Schwartz 1980, Zippel 1979). Rationals are computed exactly, as
Fractions; roots, pi and functions to DIGITS digits. No float is ever involved.

Nothing is guessed: what is not understood to its last character is Unreadable. Everything is bounded: the nesting,
the digits of a rational, the size of a power, so that reading and computing take milliseconds at worst.

    sum      {+|-} product {(+|-) product}          postfix   atom {! | ^\circ}
    product  power {[* / \cdot \times \div] power}  atom      number | name | constant | (sum) | |sum| | \sqrt[n]{x}
    power    postfix [^ exponent]                             | \frac{a}{b} | \binom{a}{b} | \sin x | \log_2 x
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import mpmath

DIGITS = 80  # of what is not rational
VANISHING = Fraction(1, 10**30)  # what is smaller than this beside another term would be lost
AGREE = Fraction(1, 10**50)  # the relative difference up to which those count as equal
FLOOR = Fraction(1, 10**70)  # the absolute one: what an exact zero may come out as
MAX_BITS = 40_000  # of a rational's numerator and denominator
MAX_EXACT_BITS = 120  # of a rational that may be the value of roots and powers
MAX_FACTORIAL = 3000
MAX_DEPTH = 60  # of nesting
POINTS = 6

Value = Any  # Fraction, or mpmath's mpf or mpc
Node = Callable[[Mapping[str, Value]], Value]  # the values of the variables -> the value

# What the variables are set to: rationals of both signs, none of them special.
_SAMPLES = [Fraction(n, 97) for n in (131, -173, 257, 61, -41, 349, 223, -307, 19, 283, -89, 151, 379, -233, 113)]
_WHOLE = [Fraction(n) for n in (5, 11, 4, 9, 13, 6, 17, 8, 12, 19, 7, 15, 10, 14, 16)]

_TOKEN = re.compile(r"\s*(?:(\d+\.\d+|\d+|\.\d+)|(\\(?:[a-zA-Z]+|[{}|]))|([a-zA-Z]+)|([-+*/^_!|()\[\]{}]))")
_DERIVATIVE = re.compile(r"\\frac\{d(?:\^|[a-zA-Z])?[^{}]*\}\{d[a-zA-Z]")
_MIXED = re.compile(r"\\frac(?:\{\d+\}(?:\{\d+\}|\d)|\d(?:\d(?!\d)|\{\d+\}))")
_FUNCTIONS = {
    **{f"\\{name}": name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")},
    **{f"\\{name}": name for name in ("asin", "acos", "atan", "ln", "log")},
    **{f"\\arc{name}": f"a{name}" for name in ("sin", "cos", "tan")},
}
_CONSTANTS = {"\\pi": "pi", "e": "e", "i": "j"}
_LETTERS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi"
    " varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar odot"
)
_GREEK = {f"\\{name}" for name in _LETTERS.split()}
_ACCENTS = "mathbf mathcal vec hat overline bar boldsymbol tilde overrightarrow"
_FONTS = {f"\\{name}" for name in _ACCENTS.split()}
_CLOSING = dict(
    zip(
        ("(", "[", "{", "\\{", "|", "\\lvert", "\\lfloor", "\\lceil"),
        (")", "]", "}", "\\}", "|", "\\rvert", "\\rfloor", "\\rceil"),
        strict=True,
    )
)
_TWO = {"\\frac", "\\binom", "\\dbinom", "\\tbinom"}  # commands of two arguments
_TIMES, _OVER = {"*", "\\cdot", "\\times"}, {"/", "\\div"}
_PREFIXED = {*_FUNCTIONS, *_TWO, *_FONTS, *_GREEK, "\\sqrt", "\\pi"}
_KNOWN = {*_PREFIXED, *_CLOSING, *_CLOSING.values(), *_TIMES, *_OVER, "\\circ", *"+-^_!"}
_PLAIN = {"sqrt", "pi", "arcsin", "arccos", "arctan", *_FUNCTIONS.values()}  # words that need no backslash


class Unreadable(ValueError):
    """The text is not an expression of this grammar."""


class Undefined(ArithmeticError):
    """There is no value here: a division by zero, a logarithm of zero."""


class TooLarge(ArithmeticError):
    """A value beyond the limits, such as 9^{9^9}."""


class Vanishing(TooLarge):
    """A term too small to be seen beside another, such as 10^{-50} beside \\pi."""


class Expression:
    r"""A text that was read. Raises Unreadable.

    Example: Expression(r"2x^2+\pi") has the names {"x"} and, at x=1, the value 5.14...
    """

    def __init__(self, text: str):
        parser = _Parser(_tokens(text))
        self._node = parser.parse()
        self.names = frozenset(parser.names)
        self.in_degrees = parser.in_degrees
        self.has_steps = "floor" in text or "ceil" in text

    def at(self, values: Mapping[str, Value]) -> Value:
        """Its value, given those of its variables. Raises Undefined or TooLarge."""
        try:
            return self._node(values)
        except ZeroDivisionError as error:
            raise Undefined("division by zero") from error


def same_value(one: Expression, other: Expression) -> bool | None:
    """Whether they agree wherever both are defined, and real if they ever are; None if they can't be computed."""
    if one.in_degrees != other.in_degrees:
        return False
    try:
        pairs = _at_points([one, other])
    except TooLarge:
        return None if _too_large(one) and _too_large(other) else False
    if len(pairs) < (3 if one.names | other.names else 1):
        return None
    real = [pair for pair in pairs if not any(isinstance(value, _context().mpc) for value in pair)]
    return all(_agree(*pair) for pair in (real if len(real) > 1 else pairs))


def same_relation(one: Sequence[Expression], other: Sequence[Expression]) -> int | None:
    """How the relations one[0] ? one[1] and other[0] ? other[1] are related.

    1 or -1, the sign of k, if one[0] - one[1] = k (other[0] - other[1]) for a constant k: with k > 0 they are the
    same relation, with k < 0 they are with `<` and `>` exchanged. 0 if there is no such k, None if they can't be
    computed.
    """
    ratios: list[Value] = []
    try:
        for a, b, c, d in _at_points([*one, *other]):
            left, right = _difference(a, b), _difference(c, d)
            if _agree(right, Fraction(0)) or _agree(left, Fraction(0)):
                return 0
            ratios.append(_quotient(left, right))
    except (TooLarge, Undefined):
        return None
    if len(ratios) < 3 or any(isinstance(ratio, _context().mpc) for ratio in ratios):
        return None
    if not all(_agree(ratio, ratios[0]) for ratio in ratios):
        return 0
    return 1 if ratios[0] > 0 else -1


def _too_large(expression: Expression) -> bool:
    try:
        _at_points([expression])
    except TooLarge:
        return True
    return False


def rounds_to(exact: Expression, rounded: Expression, decimals: int) -> bool:
    """Whether a constant rounds to another of so many decimals (a half may go up or down)."""
    try:
        values = [_real(expression.at({})) for expression in (exact, rounded)]
    except (KeyError, Undefined, TooLarge):
        return False
    return bool(abs(values[0] - values[1]) <= _real(Fraction(51, 100 * 10**decimals)))


def _at_points(expressions: Sequence[Expression]) -> list[list[Value]]:
    """The values of all, at each point where all are defined. Raises TooLarge."""
    names = sorted(frozenset().union(*(expression.names for expression in expressions)))
    found: list[list[Value]] = []
    for samples in (_SAMPLES, _WHOLE):
        # A factorial has values at whole numbers only; the floors of different things may differ there only.
        if found and not any(expression.has_steps for expression in expressions):
            break
        for point in range(POINTS if names else 1):
            values = {name: samples[(7 * i + (i + 1) * point) % 15] + i // 15 for i, name in enumerate(names)}
            try:
                found.append([expression.at(values) for expression in expressions])
            except Undefined:
                continue
    return found


# -- Arithmetic ----------------------------------------------------------------------------------------------------

_local = threading.local()


def _context() -> Any:
    """mpmath's context changes its own precision while it works: one for each thread."""
    if not hasattr(_local, "context"):
        _local.context = mpmath.MPContext()
        _local.context.dps = DIGITS
    return _local.context


def _real(value: Value) -> Any:
    """A Fraction as mpmath's number; what is one already stays."""
    if not isinstance(value, Fraction):
        return value
    return _context().mpf(value.numerator) / value.denominator


def _both(one: Value, other: Value) -> tuple[Value, Value]:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one, other
    return _real(one), _real(other)


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise TooLarge
        return value
    if not _context().isfinite(value):
        raise Undefined("infinite")
    return value.real if value.imag == 0 else value


def _agree(one: Value, other: Value) -> bool:
    if isinstance(one, Fraction) != isinstance(other, Fraction):
        rational = one if isinstance(one, Fraction) else other
        if rational.numerator.bit_length() + rational.denominator.bit_length() > MAX_EXACT_BITS:
            return False  # the first digits of an irrational number
    one, other = _both(one, other)
    if isinstance(one, Fraction):
        return bool(one == other)
    return bool(abs(one - other) <= max(abs(one), abs(other)) * _real(AGREE))


def _sum(one: Value, other: Value) -> Value:
    """Raises Vanishing where a term is lost beside the other: 160 + e^{-1000} is not 160."""
    one, other = _both(one, other)
    total = one + other
    if not isinstance(total, Fraction):
        small, large = sorted((abs(one), abs(other)))
        if 0 < small < large * _real(VANISHING):
            raise Vanishing
        if abs(total) < large * _real(AGREE):
            return Fraction(0)  # \\sqrt{2}^2 - 2
    return _bounded(total)


def _difference(one: Value, other: Value) -> Value:
    return _sum(one, -other)


def _product(one: Value, other: Value) -> Value:
    one, other = _both(one, other)
    return _bounded(one * other)


def _quotient(one: Value, other: Value) -> Value:
    one, other = _both(one, other)
    return _bounded(one / other)


def _power(base: Value, exponent: Value) -> Value:
    if base == 0:
        if isinstance(exponent, Fraction) and exponent > 0:
            return Fraction(0)
        raise Undefined("zero to a power that is not positive")
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if whole and isinstance(base, Fraction):
        size = max(abs(base.numerator), base.denominator).bit_length() - 1  # 0 for 1 and -1
        if size * abs(exponent) > MAX_BITS:
            raise TooLarge
        return base ** int(exponent)
    if isinstance(exponent, Fraction) and exponent.denominator.bit_length() > MAX_EXACT_BITS:
        raise Vanishing
    base, exponent = _real(base), _real(exponent)
    if abs(exponent * _context().log(base)) > MAX_BITS:
        raise TooLarge
    return _bounded(_context().power(base, exponent))


def _root(value: Value, degree: Value) -> Value:
    """A root, the real one of a negative number if the degree is odd. Roots of squares stay exact: sqrt(4/9) = 2/3."""
    if not (isinstance(degree, Fraction) and degree.denominator == 1 and 0 < degree <= MAX_FACTORIAL):
        return _power(value, _quotient(Fraction(1), degree))
    if isinstance(value, Fraction):
        if degree % 2 and value < 0:
            return -_root(-value, degree)
        if degree == 2 and value >= 0:
            exact = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
            if exact * exact == value:
                return exact
    return _bounded(_context().root(_real(value), int(degree)))


def _whole(value: Value) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Undefined("a factorial of what is no whole number")
    if value > MAX_FACTORIAL:
        raise TooLarge
    return int(value)


def _factorial(value: Value) -> Value:
    return Fraction(math.factorial(_whole(value)))


def _binomial(n: Value, k: Value) -> Value:
    return Fraction(math.comb(_whole(n), _whole(k)))


def _logarithm(value: Value, base: Value) -> Value:
    value, base = _real(value), _real(base)
    if value == 0 or base in (0, 1):
        raise Undefined("a logarithm of zero, or to base 0 or 1")
    return _bounded(_context().ln(value) / _context().ln(base))


def _function(name: str, value: Value) -> Value:
    if name == "exp":
        return _power(_context().e, value)
    if name in ("ln", "log"):
        return _logarithm(value, +_context().e if name == "ln" else Fraction(10))
    try:
        if abs(value) > 10**30:  # its sine is beyond the digits
            raise TooLarge
        result = getattr(_context(), name)(_real(value))
        return Fraction(0) if abs(result) < _real(FLOOR) else _bounded(result)  # \\sin\\pi
    except ValueError as error:  # a pole
        raise Undefined(str(error)) from error


def _absolute(value: Value) -> Value:
    return abs(value)


def _floor(value: Value) -> Value:
    if isinstance(value, _context().mpc):
        raise Undefined("the floor of a complex number")
    if isinstance(value, Fraction):
        return Fraction(math.floor(value))
    nearest = _context().nint(value)  # \\log_2 8 may come out as a little less than 3
    return Fraction(int(nearest if abs(value - nearest) < _real(FLOOR) else _context().floor(value)))


def _ceiling(value: Value) -> Value:
    return -_floor(-value)


_BRACKETS: Mapping[str, Callable[[Value], Value]] = {
    "|": _absolute,
    "\\lvert": _absolute,
    "\\lfloor": _floor,
    "\\lceil": _ceiling,
}


# -- Reading -------------------------------------------------------------------------------------------------------


def _tokens(text: str) -> list[str]:
    if _DERIVATIVE.search(text):
        raise Unreadable("a derivative")
    tokens: list[str] = []
    position, text = 0, text.strip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            raise Unreadable(f"no part of an expression: {text[position : position + 20]!r}")
        number, command, word, sign = found.groups()
        if command and command not in _KNOWN:
            raise Unreadable(f"{command} is not known")
        tokens += [f"\\{word}"] if word in _PLAIN else word or [number or command or sign]
        position = found.end()
    return tokens


def _constant(value: Value) -> Node:
    return lambda _: value


def _apply(function: Callable[..., Value], *arguments: Node) -> Node:
    return lambda values: function(*(argument(values) for argument in arguments))


def _fold(first: Node, rest: Sequence[tuple[Callable[[Value, Value], Value], Node]]) -> Node:
    """first, then each operation with its right side, from left to right."""

    def node(values: Mapping[str, Value]) -> Value:
        value = first(values)
        for operation, right in rest:
            value = operation(value, right(values))
        return value

    return node if rest else first


def _negative(node: Node) -> Node:
    return lambda values: -node(values)


class _Parser:
    """Recursive descent over the grammar at the top of this file; `names` are the variables that were met."""

    def __init__(self, tokens: list[str]):
        self._tokens = [*tokens, ""]
        self._position = 0
        self._depth = 0
        self._in_bars = False
        self._in_function = False
        self.in_degrees = False  # whether an angle in degrees stands outside of every function
        self.names: set[str] = set()

    def parse(self) -> Node:
        node = self._sum()
        self._expect("")
        return node

    @property
    def _here(self) -> str:
        return self._tokens[self._position]

    def _next(self) -> str:
        token = self._here
        if not token:
            raise Unreadable("it ends too early")
        self._position += 1
        return token

    def _expect(self, token: str) -> None:
        if self._here != token:
            raise Unreadable(f"got {self._here!r}, expected {token!r}")
        self._position += 1

    def _accept(self, *tokens: str) -> str:
        """The next token, taken, if it is one of these; else nothing."""
        return self._next() if self._here in tokens else ""

    def _sum(self) -> Node:
        first = self._signed(1)
        rest: list[tuple[Callable[[Value, Value], Value], Node]] = []
        while self._here in ("+", "-"):
            rest.append((_sum, self._signed(2)))  # the sign belongs to the product
        return _fold(first, rest)

    def _signed(self, most: int) -> Node:
        """A product and the signs before it: 3--2 may be written, --2 is a slip."""
        negative = False
        for _ in range(most):
            negative ^= self._accept("+", "-") == "-"
        node = self._product()
        return _negative(node) if negative else node

    def _product(self) -> Node:
        first = self._power()
        rest: list[tuple[Callable[[Value, Value], Value], Node]] = []
        while True:
            if self._here in _TIMES or self._here in _OVER:
                operation = _quotient if self._next() in _OVER else _product
                negative = bool(self._accept("-"))
                factor = self._power()
                rest.append((operation, _negative(factor) if negative else factor))
            elif self._starts_factor():
                rest.append((_product, self._power()))
            else:
                return _fold(first, rest)

    def _starts_factor(self) -> bool:
        """Whether a factor follows without a sign. A number does not: 2 3 may be anything."""
        here = self._here
        return here.isalpha() or here in _PREFIXED or (here in _CLOSING and not (here == "|" and self._in_bars))

    def _power(self) -> Node:
        node = self._atom()
        depth = self._depth
        while sign := self._accept("!", "^"):
            self._deeper()
            if sign == "!":
                node = _apply(_factorial, node)
            elif self._accept("\\circ"):
                self.in_degrees |= not self._in_function
                node = _apply(lambda value: _product(value, _context().pi / 180), node)
            else:
                node = _apply(_power, node, self._exponent())
        self._depth = depth
        return node

    def _exponent(self) -> Node:
        negative = bool(self._accept("-"))
        node = self._atom()
        if self._accept("^"):  # 2^3^2 is 2^9
            self._deeper()
            node = _apply(_power, node, self._exponent())
            self._depth -= 1
        return _negative(node) if negative else node

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"nested more than {MAX_DEPTH} times")

    def _atom(self) -> Node:
        self._deeper()
        token = self._next()
        if token in _CLOSING:
            node = self._bracketed(token)
        elif token in _TWO:
            one, other = self._argument(), self._argument()
            node = _apply(_quotient if token == "\\frac" else _binomial, one, other)
        elif token == "\\sqrt":
            node = self._sqrt()
        elif token in _FUNCTIONS:
            node = self._application(_FUNCTIONS[token])
        elif token in _CONSTANTS and self._here != "_":
            name = _CONSTANTS[token]
            node = lambda _: _context().mpc(0, 1) if name == "j" else +getattr(_context(), name)  # noqa: E731
        elif token[0].isdigit() or token[0] == ".":
            node = self._number(token)
        else:
            node = self._name(token)
        self._depth -= 1
        return node

    def _number(self, token: str) -> Node:
        """A number, or a mixed one: 2\\frac{1}{3}."""
        following = "".join(self._tokens[self._position : self._position + 7])
        mixed = _MIXED.match(following) if token.isdigit() else None
        if not mixed:
            if re.match(r"\\frac\{?[-+]", following):
                raise Unreadable("a mixed number with a sign inside")
            return _constant(Fraction(token))
        self._next()
        fraction = _apply(_quotient, self._argument(), self._argument())
        return _apply(_sum, _constant(Fraction(token)), fraction)

    def _bracketed(self, opening: str) -> Node:
        outer, self._in_bars = self._in_bars, opening == "|"
        node = self._sum()
        self._in_bars = outer
        self._expect(_CLOSING[opening])
        return _apply(_BRACKETS[opening], node) if opening in _BRACKETS else node

    def _argument(self) -> Node:
        """In braces, or one token: \\frac12 is \\frac{1}{2}."""
        token = self._here
        if token.isdigit() and len(token) > 1:
            self._tokens[self._position : self._position + 1] = [token[0], token[1:]]
        return self._atom()

    def _sqrt(self) -> Node:
        degree = _constant(Fraction(2))
        if self._accept("["):
            degree = self._sum()
            self._expect("]")
        return _apply(_root, self._atom(), degree)

    def _application(self, name: str) -> Node:
        if name == "log" and self._accept("_"):
            base = self._argument()
            return _apply(_logarithm, self._operand(), base)
        exponent = self._exponent() if self._accept("^") else None
        if exponent and name in ("sin", "cos", "tan") and self._is_minus_one(exponent):
            name, exponent = f"a{name}", None
        node = _apply(lambda value: _function(name, value), self._operand())
        return _apply(_power, node, exponent) if exponent else node

    def _is_minus_one(self, node: Node) -> bool:
        try:
            return bool(node({}) == -1)
        except (KeyError, ArithmeticError):
            return False

    def _operand(self) -> Node:
        """What a function is applied to: what is in brackets, or the factors up to a sign, bracket or function."""
        outer, self._in_function = self._in_function, True
        rest: list[tuple[Callable[[Value, Value], Value], Node]] = []
        if self._here in _CLOSING:
            first = self._atom()
        else:
            first = self._power()
            while self._here not in _CLOSING and self._here not in _FUNCTIONS and self._starts_factor():
                rest.append((_product, self._power()))
        self._in_function = outer
        return _fold(first, rest)

    def _name(self, token: str) -> Node:
        name = token
        if token in _FONTS:
            name += self._raw()
        elif not (token.isalpha() or token in _GREEK):
            raise Unreadable(f"unexpected {token!r}")
        if self._accept("_"):
            name += "_" + self._raw()
        here = self._tokens[self._position : self._position + 3]
        if len(here) == 3 and here[0] + here[2] == "()" and (here[1].isdigit() or here[1] == "t"):
            name += self._next() + self._next() + self._next()  # I(0), f(3), x(t)
        elif self._here == "(" and name in ("f", "g", "h"):
            raise Unreadable("a function without a definition")
        self.names.add(name)
        return lambda values: values[name]

    def _raw(self) -> str:
        """The text of a subscript or of what a font is for."""
        if not self._accept("{"):
            return self._next()
        tokens: list[str] = []
        while not self._accept("}"):
            if self._here == "{":
                raise Unreadable("braces in a name")
            tokens.append(self._next())
        return "".join(tokens)
