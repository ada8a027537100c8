r"""Another unit, another power of it, another multiple."""

from __future__ import annotations

import re
from fractions import Fraction
from random import Random

from benchmarks import shapes
from benchmarks.changes import near_miss
from benchmarks.rewritings.units import expression_unit, unit_spellings


@near_miss
def another_unit(gold: str, draw: Random) -> str | None:
    """5\\text{ cm} -> 5\\text{ m}, 5\\text{ cm}^2 -> 5\\text{ kg}^2, \\$5 -> 5 cents."""
    found = shapes.number(gold)
    if not found or not found.value or bool(found.before) == bool(found.unit):
        return None
    name, _, power = (found.unit or "dollars").partition("^")
    if not unit_spellings(name):
        return None
    others = ["cm", "m", "km", "kg", "hours", "feet", "miles", "dollars", "cents", "inches", "days"]
    other = draw.choice([other for other in others if other not in unit_spellings(name)])
    return f"{found.bare}\\text{{ {other}}}" + (f"^{power}" if power else "")


@near_miss
def another_unit_power(gold: str, draw: Random) -> str | None:
    """5\\text{ cm} -> 5\\text{ cm}^2, 5\\text{ cm}^2 -> 5\\text{ cm}^3."""
    found = shapes.number(gold)
    name, _, power = found.unit.partition("^") if found else ("", "", "")
    if not found or not found.value or name not in ("cm", "m", "km", "mm", "inches", "feet", "miles", "ft", "in"):
        return None
    other = draw.choice([p for p in ("", "^2", "^3") if p != (f"^{power}" if power else "")])
    return re.sub(r"(\^\{?\d\}?)?$", "", gold) + other


@near_miss
def percent_of_percent(gold: str, draw: Random) -> str | None:
    """50\\% -> 0.5\\%."""
    found = shapes.number(gold)
    if not found or found.unit != "percent" or not found.value or found.is_fraction:
        return None
    value = found.value / 100
    return f"{float(value):.12g}\\%" if Fraction(f"{float(value):.12g}") == value else None


@near_miss
def a_multiple_named(gold: str, draw: Random) -> str | None:
    """18 -> 18 thousand."""
    found = shapes.number(gold)
    plain = found and found.value and found.is_bare
    multiple = draw.choice([" thousand", " million", "\\text{ million}", " hundred", " dozen"])
    return gold + multiple if plain else None


@near_miss
def another_currency(gold: str, draw: Random) -> str | None:
    """\\$5 -> \N{EURO SIGN}5."""
    found = shapes.number(gold)
    if not found or not found.before or found.after or not found.value:
        return None
    return draw.choice(["\N{EURO SIGN}{}", "\N{POUND SIGN}{}", "{} euros", "{} cents"]).format(found.bare)


@near_miss
def expression_unit_changed(gold: str, draw: Random) -> str | None:
    """12\\sqrt{13}\\text{ feet} -> 12\\sqrt{13}\\text{ kg}."""
    found = expression_unit(gold)
    return f"{found[0]}\\text{{ {draw.choice(['kg', 'hours', 'dollars'])}}}" if found else None
