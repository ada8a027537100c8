r"""Decide whether two expressions have the same value.

They do if they agree at POINTS fixed points (at one, if they have no variables): expressions that differ agree by
chance almost nowhere (Schwartz 1980, Zippel 1979). Rationals are computed exactly, the rest to many digits
(rewards/verifier/arithmetic.py); how a text is read is in rewards/verifier/grammar.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from rewards.verifier.arithmetic import TooLarge, Undefined, Value, agree, context, divide, real, subtract
from rewards.verifier.grammar import Parser

POINTS = 6

# What the variables are set to: rationals of both signs, none of them special.
_SAMPLES = [Fraction(n, 97) for n in (131, -173, 257, 61, -41, 349, 223, -307, 19, 283, -89, 151, 379, -233, 113)]
_WHOLE = [Fraction(n) for n in (5, 11, 4, 9, 13, 6, 17, 8, 12, 19, 7, 15, 10, 14, 16)]


class Expression:
    r"""A text that was read. Raises Unreadable.

    Example: Expression(r"2x^2+\pi") has the names {"x"} and, at x=1, the value 5.14...
    """

    def __init__(self, text: str):
        parser = Parser(text)
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
    reals = [pair for pair in pairs if not any(isinstance(value, context().mpc) for value in pair)]
    return all(agree(*pair) for pair in (reals if len(reals) > 1 else pairs))


def same_relation(one: Sequence[Expression], other: Sequence[Expression]) -> int | None:
    """How the relations one[0] ? one[1] and other[0] ? other[1] are related.

    1 or -1, the sign of k, if one[0] - one[1] = k (other[0] - other[1]) for a constant k: with k > 0 they are the
    same relation, with k < 0 they are with `<` and `>` exchanged. 0 if there is no such k, None if they can't be
    computed.
    """
    ratios: list[Value] = []
    try:
        for a, b, c, d in _at_points([*one, *other]):
            left, right = subtract(a, b), subtract(c, d)
            if agree(right, Fraction(0)) or agree(left, Fraction(0)):
                return 0
            ratios.append(divide(left, right))
    except (TooLarge, Undefined):
        return None
    if len(ratios) < 3 or any(isinstance(ratio, context().mpc) for ratio in ratios):
        return None
    if not all(agree(ratio, ratios[0]) for ratio in ratios):
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
        values = [real(expression.at({})) for expression in (exact, rounded)]
    except (KeyError, Undefined, TooLarge):
        return False
    return bool(abs(values[0] - values[1]) <= real(Fraction(51, 100 * 10**decimals)))


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
