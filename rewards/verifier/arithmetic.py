r"""Exact arithmetic: rationals as Fractions, everything else to DIGITS digits of mpmath, and no float anywhere.

Bounded: what is too large, too small beside another, or not defined raises; nothing takes more than milliseconds.
"""

from __future__ import annotations

import math
import threading
from fractions import Fraction
from typing import Any

DIGITS = 80  # of what is not rational
VANISHING = Fraction(1, 10**30)  # what is smaller than this beside another term would be lost
AGREE = Fraction(1, 10**50)  # the relative difference up to which those count as equal
FLOOR = Fraction(1, 10**70)  # the absolute one: what an exact zero may come out as
MAX_BITS = 40_000  # of a rational's numerator and denominator
MAX_EXACT_BITS = 120  # of a rational that may be the value of roots and powers
MAX_FACTORIAL = 3000

Value = Any  # Fraction, or mpmath's mpf or mpc


class Undefined(ArithmeticError):
    """There is no value here: a division by zero, a logarithm of zero."""


class TooLarge(ArithmeticError):
    """A value beyond the limits, such as 9^{9^9}."""


class Vanishing(TooLarge):
    """A term too small to be seen beside another, such as 10^{-50} beside \\pi."""


_local = threading.local()


def context() -> Any:
    """mpmath's context changes its own precision while it works: one for each thread."""
    if not hasattr(_local, "context"):
        import mpmath  # a tenth of a second, which rational numbers do not need

        _local.context = mpmath.MPContext()
        _local.context.dps = DIGITS
    return _local.context


def real(value: Value) -> Any:
    """A Fraction as mpmath's number; what is one already stays."""
    if not isinstance(value, Fraction):
        return value
    return context().mpf(value.numerator) / value.denominator


def _both(one: Value, other: Value) -> tuple[Value, Value]:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one, other
    return real(one), real(other)


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise TooLarge
        return value
    if not context().isfinite(value):
        raise Undefined("infinite")
    return value.real if value.imag == 0 else value


def agree(one: Value, other: Value) -> bool:
    if isinstance(one, Fraction) != isinstance(other, Fraction):
        rational = one if isinstance(one, Fraction) else other
        if rational.numerator.bit_length() + rational.denominator.bit_length() > MAX_EXACT_BITS:
            return False  # the first digits of an irrational number
    one, other = _both(one, other)
    if isinstance(one, Fraction):
        return bool(one == other)
    return bool(abs(one - other) <= max(abs(one), abs(other)) * real(AGREE))


def add(one: Value, other: Value) -> Value:
    """Raises Vanishing where a term is lost beside the other: 160 + e^{-1000} is not 160."""
    one, other = _both(one, other)
    total = one + other
    if not isinstance(total, Fraction):
        small, large = sorted((abs(one), abs(other)))
        if 0 < small < large * real(VANISHING):
            raise Vanishing
        if abs(total) < large * real(AGREE):
            return Fraction(0)  # \\sqrt{2}^2 - 2
    return _bounded(total)


def subtract(one: Value, other: Value) -> Value:
    return add(one, -other)


def multiply(one: Value, other: Value) -> Value:
    one, other = _both(one, other)
    return _bounded(one * other)


def divide(one: Value, other: Value) -> Value:
    one, other = _both(one, other)
    return _bounded(one / other)


def power(base: Value, exponent: Value) -> Value:
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
    base, exponent = real(base), real(exponent)
    if abs(exponent * context().log(base)) > MAX_BITS:
        raise TooLarge
    return _bounded(context().power(base, exponent))


def root(value: Value, degree: Value) -> Value:
    """A root, the real one of a negative number if the degree is odd. Roots of squares stay exact: sqrt(4/9) = 2/3."""
    if not (isinstance(degree, Fraction) and degree.denominator == 1 and 0 < degree <= MAX_FACTORIAL):
        return power(value, divide(Fraction(1), degree))
    if isinstance(value, Fraction):
        if degree % 2 and value < 0:
            return -root(-value, degree)
        if degree == 2 and value >= 0:
            exact = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
            if exact * exact == value:
                return exact
    return _bounded(context().root(real(value), int(degree)))


def _whole(value: Value) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Undefined("a factorial of what is no whole number")
    if value > MAX_FACTORIAL:
        raise TooLarge
    return int(value)


def factorial(value: Value) -> Value:
    return Fraction(math.factorial(_whole(value)))


def binomial(n: Value, k: Value) -> Value:
    return Fraction(math.comb(_whole(n), _whole(k)))


def logarithm(value: Value, base: Value) -> Value:
    value, base = real(value), real(base)
    if value == 0 or base in (0, 1):
        raise Undefined("a logarithm of zero, or to base 0 or 1")
    return _bounded(context().ln(value) / context().ln(base))


def named_function(name: str, value: Value) -> Value:
    if name == "exp":
        return power(context().e, value)
    if name in ("ln", "log"):
        return logarithm(value, +context().e if name == "ln" else Fraction(10))
    try:
        if abs(value) > 10**30:  # its sine is beyond the digits
            raise TooLarge
        result = getattr(context(), name)(real(value))
        return Fraction(0) if abs(result) < real(FLOOR) else _bounded(result)  # \\sin\\pi
    except ValueError as error:  # a pole
        raise Undefined(str(error)) from error


def absolute(value: Value) -> Value:
    return abs(value)


def floor(value: Value) -> Value:
    if isinstance(value, context().mpc):
        raise Undefined("the floor of a complex number")
    if isinstance(value, Fraction):
        return Fraction(math.floor(value))
    nearest = context().nint(value)  # \\log_2 8 may come out as a little less than 3
    return Fraction(int(nearest if abs(value - nearest) < real(FLOOR) else context().floor(value)))


def ceiling(value: Value) -> Value:
    return -floor(-value)
