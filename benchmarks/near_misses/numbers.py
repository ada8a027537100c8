r"""Another number, however near."""

from __future__ import annotations

import re
from fractions import Fraction
from random import Random

import sympy as sp

from benchmarks import shapes
from benchmarks.changes import near_miss


def _changed(gold: str, new_core: str | None) -> str | None:
    """The gold with another number in its place, if that has another value."""
    found = shapes.number(gold)
    if not found or new_core is None or not new_core:
        return None
    new = shapes.number(new_core)
    return found.with_value(new_core) if new and new.value != abs(found.value) else None


def _shifted(gold: str, by: int) -> str | None:
    found = shapes.number(gold)
    if not found or found.is_scientific:
        return None
    value = found.value + by
    n, d = abs(value).as_integer_ratio()
    core = str(n) if d == 1 else f"\\frac{{{n}}}{{{d}}}" if found.is_fraction else f"{float(abs(value)):.12g}"
    new = shapes.number(core)
    return found.with_value(core, negative=value < 0) if new and new.value == abs(value) else None


@near_miss
def plus_one(gold: str, draw: Random) -> str | None:
    return _shifted(gold, 1)


@near_miss
def minus_one(gold: str, draw: Random) -> str | None:
    return _shifted(gold, -1)


@near_miss
def negated(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    return found.with_value(found.core, negative=found.value > 0) if found and found.value else None


@near_miss
def times_ten(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.value or found.is_fraction or found.is_scientific:
        return None
    value = abs(found.value) * draw.choice([Fraction(10), Fraction(1, 10), Fraction(1000), Fraction(1, 100)])
    if found.unit == "percent" or (value.denominator == 1 and value >= 10**15):
        return None
    core = f"{float(value):.12f}".rstrip("0").rstrip(".")
    new = shapes.number(core)
    return found.with_value(core) if new and new.value == value else None


def _digits(gold: str) -> str | None:
    found = shapes.number(gold)
    return found.digits if found else None


@near_miss
def digit_changed(gold: str, draw: Random) -> str | None:
    digits = _digits(gold)
    if not digits:
        return None
    at = draw.choice([i for i, one in enumerate(digits) if one != "."])
    other = draw.choice([one for one in "123456789" if one != digits[at]])
    return _changed(gold, digits[:at] + other + digits[at + 1 :])


@near_miss
def digit_dropped(gold: str, draw: Random) -> str | None:
    digits = _digits(gold)
    if not digits or len(digits) < 2:
        return None
    at = draw.choice([i for i, one in enumerate(digits) if one != "."])
    rest = digits[:at] + digits[at + 1 :]
    return _changed(gold, rest) if re.match(r"[1-9]|0\.", rest) and not rest.endswith(".") else None


@near_miss
def digit_added(gold: str, draw: Random) -> str | None:
    digits = _digits(gold)
    if not digits:
        return None
    at = draw.randrange(1, len(digits) + 1)
    return _changed(gold, digits[:at] + draw.choice("0123456789") + digits[at:])


@near_miss
def digits_transposed(gold: str, draw: Random) -> str | None:
    digits = _digits(gold)
    places = [i for i in range(len(digits or "") - 1) if digits and "." not in digits[i : i + 2]]
    if not digits or not places:
        return None
    at = draw.choice(places)
    swapped = digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]
    return _changed(gold, swapped) if re.match(r"[1-9]|0\.", swapped) else None


@near_miss
def fraction_inverted(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.value or found.is_scientific or (not found.is_fraction and draw.random() < 0.8):
        return None
    d, n = abs(found.value).as_integer_ratio()
    return _changed(gold, f"\\frac{{{n}}}{{{d}}}")


@near_miss
def numerator_changed(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_fraction:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return _changed(gold, f"\\frac{{{n + draw.choice([1, -1])}}}{{{d}}}")


@near_miss
def denominator_changed(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_fraction or not found.value:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return _changed(gold, f"\\frac{{{n}}}{{{d + draw.choice([1, -1] if d > 1 else [1])}}}")


@near_miss
def whole_part_lost(gold: str, draw: Random) -> str | None:
    """3\\frac{1}{2} -> \\frac{1}{2}, or 3 \\cdot \\frac{1}{2}."""
    found = shapes.number(gold)
    if not found or not (mixed := re.match(r"(\d+) ?(\\.*)", found.core)):
        return None
    return draw.choice([found.with_value(mixed[2]), found.with_value(f"{mixed[1]} \\cdot {mixed[2]}")])


@near_miss
def decimal_rounded(gold: str, draw: Random) -> str | None:
    """\\frac{1}{3} -> 0.333, \\sqrt{2} -> 1.414, 0.5598 -> 0.56."""
    found, value = shapes.number(gold), shapes.expression(gold)
    if found and not found.is_scientific:
        exact = abs(found.value)
        places = draw.choice([1, 2, 3, 4, 6, 10])
        rounded = f"{float(exact):.{places}f}"
        return _changed(gold, rounded) if exact.denominator > 1 and float(rounded) else None
    if value is None or value.free_symbols or not value.is_real:
        return None
    rounded = str(sp.N(value, draw.choice([3, 4, 6, 8, 12, 30, 60])))
    return rounded if value.is_irrational and "e" not in rounded else None


@near_miss
def rounded_up(gold: str, draw: Random) -> str | None:
    """To the nearest integer."""
    found = shapes.number(gold)
    if not found or found.value.denominator == 1 or found.is_scientific:
        return None
    return found.with_value(str(round(abs(found.value))))


@near_miss
def tiny_difference(gold: str, draw: Random) -> str | None:
    """12 -> 12.0000000000000000001."""
    found = shapes.number(gold)
    if not found or found.is_fraction or found.is_scientific or found.before:
        return None
    digits = _digits(gold) or ""
    return found.with_value(digits + ("" if "." in digits else ".") + "0" * draw.choice([6, 12, 18, 30]) + "1")


@near_miss
def tiny_term(gold: str, draw: Random) -> str | None:
    """\\sqrt{2} -> \\sqrt{2} + 10^{-20}."""
    value = shapes.expression(gold)
    return f"{gold} + 10^{{-{draw.choice([7, 10, 16, 20, 50, 99])}}}" if value is not None and value.is_number else None


@near_miss
def squared(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_integer or not found.is_bare or found.value < 2:
        return None
    return draw.choice([f"{gold}^2", f"{gold}^{{2}}", f"\\sqrt{{{gold}}}"])


@near_miss
def times_a_letter(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_bare or not found.value or found.is_scientific or found.is_fraction:
        return None
    factorial = ["!"] if found.is_integer and 2 < found.value < 1000 else []
    return gold + draw.choice(["x", "n", "i", " \\pi", "\\sqrt{2}", *factorial])


@near_miss
def exponent_of_ten_changed(gold: str, draw: Random) -> str | None:
    """4.5e33 -> 4.5e32."""
    found = shapes.number(gold)
    if not found or not found.is_scientific or not found.value:
        return None
    mantissa, _, exponent = found.core.partition("e")
    other = int(exponent) + draw.choice([-2, -1, 1, 2])
    return found.with_value(draw.choice([f"{mantissa}e{other}", f"{mantissa} \\times 10^{{{other}}}"]))


@near_miss
def mantissa_changed(gold: str, draw: Random) -> str | None:
    """4.5e33 -> 4.6e33, or 4.5000001e33."""
    found = shapes.number(gold)
    if not found or not found.is_scientific or not found.value:
        return None
    mantissa, _, exponent = found.core.partition("e")
    more = mantissa + ("" if "." in mantissa else ".") + "0" * draw.choice([1, 3, 8]) + "1"
    return found.with_value(f"{more}e{exponent}")


@near_miss
def fraction_bar_lost(gold: str, draw: Random) -> str | None:
    """\\frac{1}{2} -> 12."""
    found = shapes.number(gold)
    if not found or not found.is_fraction or found.is_mixed:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return found.with_value(f"{n}{d}")


@near_miss
def fraction_rounded(gold: str, draw: Random) -> str | None:
    """\\frac{1}{3} -> \\frac{333}{1000}."""
    found = shapes.number(gold)
    if not found or not found.is_fraction or found.value.denominator == 1:
        return None
    d = 10 ** draw.choice([3, 6, 12])
    return _changed(gold, f"\\frac{{{int(abs(found.value) * d)}}}{{{d}}}")


@near_miss
def vanishing_term(gold: str, draw: Random) -> str | None:
    """12 -> 12 + e^{-1000}."""
    found = shapes.number(gold)
    if shapes.expression(gold) is None and (not found or not found.is_bare or found.is_scientific):
        return None
    return gold + draw.choice([" + e^{-1000}", " - 2^{-500}", " + 10^{-50}", " + \\pi^{-99}"])
