r"""Numbers as people write them, exactly: integers, decimals, fractions, mixed numbers, scientific notation,
thousands separators, repeating decimals, ratios, "5 million", a base. Fractions throughout, never floats.

Equal means the same value, and the same unit where both name one. A unit that only one side names is taken as
given by the question; so is a base that the answer leaves out, but not one that it adds. 50% equals 50 (the
question asked for percent) and 0.5, but 0.5% is not 0.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from rewards.verifier.latex import split_list
from rewards.verifier.spelling import plain
from rewards.verifier.units import measure, same_unit

MAX_LENGTH = 400  # characters of a number
MAX_EXPONENT = 400  # of scientific notation, either sign

_INT = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_INT}(?:\.\d*)?|\.\d+)"
_PARENTHESES = re.compile(r"(-?)\(([^(),]*)\)")  # -(1/2), but not the pair (20,100)
_SIMPLE = re.compile(r"[+-]?\d+(?:\.\d+)?")
_TIME = re.compile(r"\d{1,2}:[0-5]\d")  # 10:30 is no ratio
_WORDS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)"
    rf"(?:(?P<whole>\d+)(?: ?(?=\\frac)| (?=\d+/)))?"
    rf"(?:\\frac(?:\{{(?P<n1>-?{_DECIMAL})\}}|(?P<n2>\d))(?:\{{(?P<d1>-?{_DECIMAL})\}}|(?P<d2>\d))"
    rf"|(?P<n3>{_DECIMAL})(?:/|(?P<ratio>:| to ))(?P<d3>{_DECIMAL})"
    rf"|10\^(?P<brace2>\{{)?(?P<power>[+-]?\d+)(?(brace2)\}})"
    rf"|(?P<finite>\d*\.\d*)\\(?:overline|bar)\{{(?P<period>\d+)\}}"
    rf"|(?P<decimal>{_DECIMAL})(?:_\{{?(?P<base>\d+)\}}?| (?P<word>{'|'.join(_WORDS)})"
    rf"|(?:[eE]| ?(?:\\times|\\cdot|\*|x) ?10\^)(?P<brace>\{{)?(?P<exponent>[+-]?\d+)(?(brace)\}}))?)"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Example: "3 1/2 hours" -> Quantity(Fraction(7, 2), "h"); "11_2" -> Quantity(Fraction(11), "", "2")."""

    value: Fraction  # without the unit: 50 for "50%"
    unit: str = ""
    base: str = ""
    ratio: bool = False  # written as one: 3:2


def quantity(text: str, letters: bool = False) -> Quantity | None:
    """The number that a tidied answer is, or None if it is not one (or one over the size limits).

    letters: whether the unit may be a single letter, which could be a variable: "5 m".
    """
    if len(text) > MAX_LENGTH or _TIME.fullmatch(text):
        return None
    if _SIMPLE.fullmatch(text):
        return Quantity(Fraction(text))
    measured = measure(text, letters)
    body = measured.value
    if in_parentheses := _PARENTHESES.fullmatch(body):
        body = in_parentheses[1] + in_parentheses[2]
    number = _NUMBER.fullmatch(body)
    value = _value(number) if number else None
    if number is None or value is None:
        return None
    return Quantity(value, measured.unit, number["base"] or "", bool(number["ratio"]))


def _value(number: re.Match[str]) -> Fraction | None:
    numerator = number["n1"] or number["n2"] or number["n3"]
    if numerator:
        denominator = _decimal(number["d1"] or number["d2"] or number["d3"])
        if denominator == 0 or (number["whole"] and numerator.startswith("-")):
            return None
        value = (int(number["whole"]) if number["whole"] else 0) + _decimal(numerator) / denominator
    elif number["whole"]:
        return None
    elif number["period"]:
        value = _repeating(number["finite"], number["period"])
    else:
        exponent = int(number["exponent"] or number["power"] or 0) + _WORDS.get(number["word"] or "", 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        value = _decimal(number["decimal"] or "1") * Fraction(10) ** exponent
    return -value if number["sign"] == "-" else value


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", "").rstrip("."))


def _repeating(finite: str, period: str) -> Fraction:
    """0.1\\overline{6} is 1/10 + 6/90."""
    places = len(finite.partition(".")[2])
    head = Fraction(finite) if finite.strip(".") else Fraction(0)
    return head + Fraction(int(period), (10 ** len(period) - 1) * 10**places)


def equal(answer: Quantity, gold: Quantity) -> bool:
    """Same value, and the same unit and base where both name one; only the gold answer may name its base alone."""
    if answer.base not in ("", gold.base or "10"):
        return False
    if answer.ratio != gold.ratio and answer.value.denominator == 1:  # 25:1 is not 25, 1:2 is 1/2
        return False
    if "%" in (answer.unit, gold.unit) and answer.unit != gold.unit:
        percent, other = (answer, gold) if answer.unit == "%" else (gold, answer)
        if other.unit:
            return False
        return percent.value == 100 * other.value or (percent.value == other.value and abs(other.value) >= 1)
    return answer.value == gold.value and same_unit(answer.unit, gold.unit)


def within(answer: str, gold: str, tolerance: str) -> bool:
    """Whether numbers, or the elements of two lists, differ by no more than the tolerance, or that of each element.

    Of a list any order does. False where the tolerance is no number above 0.
    """
    bounds = [_bound(one) for one in tolerance.split(",")]
    mine, wanted = ([quantity(plain(one), letters=True) for one in split_list(text)[1]] for text in (answer, gold))
    if len(bounds) == 1:
        bounds *= len(wanted)
    if len(mine) != len(wanted) or len(bounds) != len(wanted) or not all(bounds) or None in mine + wanted:
        return False
    left = [one for one in mine if one]
    for value, bound in zip(wanted, bounds, strict=True):
        close = next((one for one in left if value and bound and is_close(one, value, Fraction(0), bound)), None)
        if not close:
            return False
        left.remove(close)
    return True


def is_close(answer: Quantity, gold: Quantity, rel_tol: Fraction, abs_tol: Fraction) -> bool:
    """Whether the answer is close to a value that `equal` accepts. Percent may stand for its hundredth."""
    accepted = (gold.value, 100 * gold.value, gold.value / 100)
    return any(
        abs(answer.value - value) <= max(rel_tol * abs(value), abs_tol) and equal(replace(answer, value=value), gold)
        for value in accepted
    )


def _bound(text: str) -> Fraction | None:
    try:
        return abs(Fraction(text.strip())) if len(text) < 40 else None
    except (ValueError, ZeroDivisionError):
        return None
