r"""Numbers as people write them, exactly: integers, decimals, fractions, mixed numbers, scientific notation,
thousands separators, percent, currency, a few units, a base. Fractions throughout, never floats.

Equal means the same value, and the same unit where both name one. A unit that only one side names is taken as
given by the question; so is a base that the answer leaves out, but not one that it adds. 50% equals 50 (the
question asked for percent) and 0.5, but 0.5% is not 0.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 400  # characters of a number
MAX_EXPONENT = 400  # of scientific notation, either sign

_UNITS = {
    spelling: names.split()[0]
    for names in (
        "$ dollar dollars usd", "€ euro euros eur", "£ pounds-sterling gbp", "cent cents", "% percent",
        r"degree degrees ^\circ", "mm millimeter millimeters", "cm centimeter centimeters", "m meter meters metres",
        "km kilometer kilometers", "inch inches in", "foot feet ft", "yard yards yd", "mile miles", "g gram grams",
        "kg kilogram kilograms", "mg milligrams", "pound pounds lb lbs", "ounce ounces oz", "liter liters l",
        "ml milliliters", "second seconds sec s", "minute minutes min", "hour hours hr hrs", "day days", "week weeks",
        "month months", "year years", "mph", "unit units",
    )
    for spelling in names.split()
}  # fmt: skip

_INT = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_INT}(?:\.\d*)?|\.\d+)"
_PARENTHESES = re.compile(r"(-?)\(([^()]*)\)")  # -(1/2)
_SIMPLE = re.compile(r"[+-]?\d+(?:\.\d+)?")
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?P<currency>[$€£]?)(?P<sign2>-?)"
    rf"(?:(?P<whole>\d+)(?: ?(?=\\frac)| (?=\d+/)))?"
    rf"(?:\\frac(?:\{{(?P<n1>-?{_DECIMAL})\}}|(?P<n2>\d))(?:\{{(?P<d1>{_DECIMAL})\}}|(?P<d2>\d))"
    rf"|(?P<n3>{_DECIMAL})/(?P<d3>{_DECIMAL})"
    rf"|10\^(?P<brace2>\{{)?(?P<power>[+-]?\d+)(?(brace2)\}})"
    rf"|(?P<decimal>{_DECIMAL})(?:_\{{?(?P<base>\d+)\}}?"
    rf"|(?:[eE]| ?(?:\\times|\\cdot|\*) ?10\^)(?P<brace>\{{)?(?P<exponent>[+-]?\d+)(?(brace)\}}))?)"
    r"(?P<unit>(?:[^\d].*)?)"
)
_UNIT = re.compile(
    r"(?:(?P<prefix>square|sq|cubic) )?(?P<name>[^\W\d_]+|[$€£%]|\^\\circ)(?: ?\^\{?(?P<power>[23])\}?)?"
)
_NOUN = re.compile(r" [^\W\d_]{3,}(?: [^\W\d_]+)*")  # a unit outside the table, as in "18 eggs"


@dataclass(frozen=True, slots=True)
class Quantity:
    """Example: "3 1/2 hours" -> Quantity(Fraction(7, 2), "hour"); "$5" -> Quantity(Fraction(5), "$")."""

    value: Fraction  # without the unit: 50 for "50%"
    unit: str = ""
    known: bool = True  # whether the unit is one of the table


def quantity(text: str) -> Quantity | None:
    """The number that a tidied answer is, or None if it is not one (or one over the size limits)."""
    if len(text) > MAX_LENGTH:
        return None
    if _SIMPLE.fullmatch(text):
        return Quantity(Fraction(text))
    number = _NUMBER.fullmatch(_PARENTHESES.sub(r"\1\2", text) if _PARENTHESES.fullmatch(text) else text)
    value = _value(number) if number else None
    if number is None or value is None:
        return None
    if (found := _unit(number["unit"])) is None:
        return None
    unit, known = found
    if number["currency"] or number["base"]:
        if unit not in ("", number["currency"]):
            return None
        unit, known = number["currency"] or f"base {int(number['base'])}", True
    return Quantity(value, unit, known)


def _value(number: re.Match[str]) -> Fraction | None:
    numerator = number["n1"] or number["n2"] or number["n3"]
    if numerator:
        denominator = _decimal(number["d1"] or number["d2"] or number["d3"])
        if denominator == 0 or (number["whole"] and numerator.startswith("-")):
            return None
        value = (int(number["whole"]) if number["whole"] else 0) + _decimal(numerator) / denominator
    elif number["whole"]:
        return None
    else:
        exponent = int(number["exponent"] or number["power"] or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        value = _decimal(number["decimal"] or "1") * Fraction(10) ** exponent
    if number["sign"] and number["sign2"]:
        return None
    return -value if "-" in (number["sign"], number["sign2"]) else value


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", "").rstrip("."))


def _unit(text: str) -> tuple[str, bool] | None:
    """The unit's one spelling, and whether it is in the table; None if the text is no unit ("x", ",2")."""
    if not text.strip():
        return "", True
    unit = _UNIT.fullmatch(text.strip())
    name = _UNITS.get(unit["name"].lower()) if unit else None
    if unit is None or name is None:
        return (text.strip(), False) if _NOUN.fullmatch(text) else None
    if len(text) == 1 and text.isalpha():
        return None  # "5m" is a product, "5 m" a length
    power = unit["power"] or {"square": "2", "sq": "2", "cubic": "3"}.get(unit["prefix"] or "", "")
    return name + power, True


def equal(answer: Quantity, gold: Quantity) -> bool:
    """Same value, and same unit where both name one. A unit that is not known must be the gold's own."""
    if answer.unit == gold.unit:
        return answer.value == gold.value
    if not answer.known or (answer.unit and gold.unit) or answer.unit.startswith("base"):
        return False
    if "%" in (answer.unit, gold.unit):
        percent, bare = (answer, gold) if answer.unit == "%" else (gold, answer)
        return percent.value == 100 * bare.value or (percent.value == bare.value and abs(bare.value) >= 1)
    return answer.value == gold.value
