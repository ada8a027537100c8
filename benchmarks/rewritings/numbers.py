r"""The same number, written from its exact value."""

from __future__ import annotations

import re
from fractions import Fraction
from random import Random

import sympy as sp

from benchmarks import shapes
from benchmarks.changes import rewriting


def _decimal(value: Fraction) -> str | None:
    """The exact decimal of a value that is not negative; None if it does not end within 12 digits."""
    for digits in range(13):
        scaled = value * 10**digits
        if scaled.denominator == 1:
            text = str(scaled.numerator).rjust(digits + 1, "0")
            return text if not digits else f"{text[:-digits]}.{text[-digits:]}"
    return None


@rewriting
def decimal_zeros(gold: str, draw: Random) -> str | None:
    """12 -> 12.0, 12.5 -> 12.50."""
    found = shapes.number(gold)
    if not found or not (digits := found.digits):
        return None
    return found.with_value(digits + (draw.choice(["0", "00"]) if "." in digits else draw.choice([".0", ".00"])))


@rewriting
def leading_zero(gold: str, draw: Random) -> str | None:
    """0.5 -> .5, .5 -> 0.5."""
    found = shapes.number(gold)
    if not found or not (digits := found.digits) or not re.match(r"0?\.", digits):
        return None
    return found.with_value(digits[1:] if digits.startswith("0") else f"0{digits}")


@rewriting
def plus_sign(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    return f"+{gold}" if found and found.value > 0 and not found.before and not gold.startswith("+") else None


@rewriting
def thousands_separators(gold: str, draw: Random) -> str | None:
    """1234 -> 1,234 or 1{,}234 or 1,\\!234 or 1\\,234 or 1 234."""
    found = shapes.number(gold)
    if not found or not (digits := found.digits) or abs(found.value) < 1000 or digits.startswith("0"):
        return None
    whole, point, rest = digits.partition(".")
    separator = draw.choice([",", "{,}", ",\\!", "\\,", " "] if not point else [",", "{,}"])
    return found.with_value(f"{int(whole):,}".replace(",", separator) + point + rest)


@rewriting
def no_separators(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    return found.with_value(found.digits) if found and found.digits and "," in found.core else None


@rewriting
def fraction_to_decimal(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    decimal = _decimal(abs(found.value)) if found and found.is_fraction else None
    return found.with_value(decimal) if found and decimal else None


@rewriting
def decimal_to_fraction(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not (digits := found.digits) or "." not in digits or found.value.denominator == 1:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return found.with_value(draw.choice([f"\\frac{{{n}}}{{{d}}}", f"{n}/{d}"]))


@rewriting
def slash_fraction(gold: str, draw: Random) -> str | None:
    """\\frac{a}{b} <-> a/b."""
    found = shapes.number(gold)
    if not found or not found.is_fraction:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return found.with_value(f"\\frac{{{n}}}{{{d}}}" if "/" in found.core else f"{n}/{d}")


@rewriting
def unreduced_fraction(gold: str, draw: Random) -> str | None:
    """1/2 -> 2/4, 12 -> 24/2."""
    found = shapes.number(gold)
    if not found or found.before or found.unit or found.is_scientific:
        return None
    n, d = abs(found.value).as_integer_ratio()
    k = draw.choice([2, 3, 5, 10])
    return found.with_value(draw.choice([f"\\frac{{{n * k}}}{{{d * k}}}", f"{n * k}/{d * k}"]))


@rewriting
def mixed_number(gold: str, draw: Random) -> str | None:
    """7/2 -> 3\\frac{1}{2}."""
    found = shapes.number(gold)
    if not found or not found.is_fraction or abs(found.value) <= 1 or found.value.denominator == 1:
        return None
    whole, (n, d) = int(abs(found.value)), (abs(found.value) % 1).as_integer_ratio()
    forms = [f"{whole}\\frac{{{n}}}{{{d}}}", f"{whole} \\frac{{{n}}}{{{d}}}", f"{whole} {n}/{d}"]
    return found.with_value(draw.choice(forms))


@rewriting
def improper_fraction(gold: str, draw: Random) -> str | None:
    """3\\frac{1}{2} -> 7/2."""
    found = shapes.number(gold)
    if not found or not found.is_mixed:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return found.with_value(draw.choice([f"\\frac{{{n}}}{{{d}}}", f"{n}/{d}"]))


@rewriting
def sign_in_fraction(gold: str, draw: Random) -> str | None:
    """-\\frac{1}{2} -> \\frac{-1}{2} or \\frac{1}{-2} or -1/2."""
    found = shapes.number(gold)
    if not found or not found.is_fraction or found.value >= 0 or found.before or found.is_mixed:
        return None
    n, d = abs(found.value).as_integer_ratio()
    forms = [f"\\frac{{-{n}}}{{{d}}}", f"\\frac{{{n}}}{{-{d}}}", f"-{n}/{d}", f"-\\frac{{{n}}}{{{d}}}"]
    return draw.choice([form for form in forms if form != gold]) + found.after


@rewriting
def scientific(gold: str, draw: Random) -> str | None:
    """1200 -> 1.2 \\times 10^{3} or 1.2e3; not for an answer below ten, which nobody writes so."""
    found = shapes.number(gold)
    if not found or found.is_fraction or found.before or found.unit or (abs(found.value) < 10 and abs(found.value) > 1):
        return None
    decimal = None if found.is_scientific else _decimal(abs(found.value))
    if not decimal or not found.value:
        return None
    whole, _, rest = decimal.partition(".")
    exponent = len(whole) - 1 if whole != "0" else len(rest.lstrip("0")) - len(rest) - 1
    digits = (whole + rest).strip("0")
    return found.with_value(draw.choice(_scientific_forms(f"{digits[0]}.{digits[1:]}".rstrip("."), exponent)))


def _scientific_forms(mantissa: str, exponent: int) -> list[str]:
    return [
        f"{mantissa} \\times 10^{{{exponent}}}",
        f"{mantissa} \\cdot 10^{{{exponent}}}",
        f"{mantissa}\\times10^{{{exponent}}}",
        f"{mantissa}e{exponent}",
    ]


@rewriting
def scientific_spelling(gold: str, draw: Random) -> str | None:
    """4.5e33 -> 4.5 \\times 10^{33} or 45e32."""
    found = shapes.number(gold)
    if not found or not found.is_scientific:
        return None
    mantissa, _, exponent = found.core.partition("e")
    shifted = str(Fraction(mantissa) * 100) if (Fraction(mantissa) * 100).denominator == 1 else mantissa + "00"
    more = f"{shifted}e{int(exponent) - 2}" if shifted.isdecimal() else f"{mantissa}E{exponent}"
    return found.with_value(draw.choice([*_scientific_forms(mantissa, int(exponent)), more]))


@rewriting
def spelled_out(gold: str, draw: Random) -> str | None:
    """3e6 -> 3000000, 1e-3 -> 0.001."""
    found = shapes.number(gold)
    decimal = _decimal(abs(found.value)) if found and found.is_scientific and abs(found.value) < 10**15 else None
    return found.with_value(decimal) if found and decimal else None


@rewriting
def power(gold: str, draw: Random) -> str | None:
    """1024 -> 2^{10}; only of a whole number that is a power."""
    found = shapes.number(gold)
    if not found or not found.is_integer or not found.is_bare or not 3 < found.value < 10**12:
        return None
    base = sp.perfect_power(int(found.value))
    if not base:
        return None
    return f"{base[0]}^{{{base[1]}}}" if base[1] > 9 or draw.random() < 0.5 else f"{base[0]}^{base[1]}"


@rewriting
def text_wrapper(gold: str, draw: Random) -> str | None:
    """12 -> \\text{12}, Evelyn -> \\text{Evelyn}."""
    found = shapes.number(gold)
    plain = (found and found.is_integer and gold == found.core) or re.fullmatch("[A-Z][a-z]+", gold)
    return draw.choice([f"\\text{{{gold}}}", f"\\mathrm{{{gold}}}", f"\\textbf{{{gold}}}"]) if plain else None


@rewriting
def named(gold: str, draw: Random) -> str | None:
    """5 -> x = 5."""
    plain = shapes.number(gold)
    if not plain or not plain.is_bare:
        return None
    letter = draw.choice("xnkm")
    return draw.choice([f"{letter}={gold}", f"{letter} = {gold}", f"${letter} = {gold}$"])


@rewriting
def unnamed(gold: str, draw: Random) -> str | None:
    """x = 5 -> 5."""
    found = shapes.named(gold)
    return found[1] if found and (shapes.number(found[1]) or shapes.expression(found[1]) is not None) else None


@rewriting
def repeating_decimal(gold: str, draw: Random) -> str | None:
    """\\frac{1}{6} -> 0.1\\overline{6}."""
    found = shapes.number(gold)
    if not found or not found.is_fraction or _decimal(abs(found.value)):
        return None
    whole, rest = divmod(abs(found.value), 1)
    digits, seen = "", {}
    while rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
    start = seen[rest]
    sign = "bar" if len(digits) - start == 1 and draw.random() < 0.3 else "overline"
    return found.with_value(f"{whole}.{digits[:start]}\\{sign}{{{digits[start:]}}}") if len(digits) < 10 else None
