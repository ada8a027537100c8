r"""A unit added, left out or spelled otherwise, as the policy allows (docs/rewards.md)."""

from __future__ import annotations

import re
from random import Random

from benchmarks import shapes
from benchmarks.changes import rewriting

# Each unit's spellings; one that the policy's table of units knows .
UNITS = (
    ("cm", "centimeters", "centimeter"), ("m", "meters", "meter"), ("km", "kilometers"), ("mm", "millimeters"),
    ("inches", "in", "inch"), ("feet", "ft", "foot"), ("miles", "mile"), ("hours", "hour"), ("minutes", "min"),
    ("seconds", "sec", "second"), ("days", "day"), ("years", "year"), ("pounds", "lbs", "pound"), ("grams", "gram"),
    ("dollars",), ("cents",), ("degrees",), ("percent",), ("units", "unit"),
)  # fmt: skip


def unit_spellings(unit: str) -> tuple[str, ...]:
    return next((names for names in UNITS if unit in names), ())


@rewriting
def currency_added(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_bare or found.value < 0 or found.is_fraction or found.is_scientific:
        return None
    return draw.choice([f"\\${gold}", f"${gold}", f"{gold} dollars", f"{gold}\\text{{ dollars}}", f"\\$ {gold}"])


@rewriting
def unit_added(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_bare:
        return None
    unit = draw.choice(["cm", "meters", "km", "miles", "hours", "minutes", "days", "feet", "inches", "pounds", "grams"])
    power = "^2" if unit == "cm" and draw.random() < 0.3 else ""
    form = "{} {}" if not power and draw.random() < 0.5 else draw.choice(["{}\\text{{ {}}}", "{}\\,\\mathrm{{{}}}"])
    return form.format(gold, unit) + power


@rewriting
def degrees_added(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_bare:
        return None
    return gold + draw.choice(["^\\circ", "^{\\circ}", "\N{DEGREE SIGN}", " degrees", "\\text{ degrees}"])


@rewriting
def unit_respelled(gold: str, draw: Random) -> str | None:
    """5\\text{ cm} -> 5 centimeters, 12\\text{ cm}^2 -> 12 square centimeters, \\$5 -> 5 dollars."""
    found = shapes.number(gold)
    if not found or bool(found.before) == bool(found.unit):
        return None
    name, _, exponent = (found.unit or "dollars").partition("^")
    others = [other for other in unit_spellings(name) if other != name]
    if name in ("degrees", "percent", "dollars"):
        return f"{found.bare} {name}"
    if not exponent and others:
        return found.bare + draw.choice([" {}", "\\text{{ {}}}"]).format(draw.choice(others))
    if exponent and unit_spellings(name):
        squared = {"2": "square", "3": "cubic"}[exponent]
        return draw.choice([f"{found.bare} {squared} {name}", f"{found.bare}\\ \\mathrm{{{name}}}^{exponent}"])
    return None


@rewriting
def unit_unwrapped(gold: str, draw: Random) -> str | None:
    """5\\text{ cm} -> 5 cm, or \\mathrm{~cm}."""
    found = shapes.number(gold)
    if not found or "text" not in found.after or found.before or not found.unit or "." in found.unit:
        return None
    if "^" in found.unit or " " in found.unit:
        return None if "^" in found.unit else f"{found.bare} {found.unit}"
    forms = [f" {found.unit}", f"\\mathrm{{~{found.unit}}}", f" \\, \\text{{{found.unit}}}"]
    return found.bare + draw.choice(forms)


@rewriting
def unit_dropped(gold: str, draw: Random) -> str | None:
    """5\\text{ cm} -> 5, \\$5 -> 5, 90^\\circ -> 90; a percent sign stays."""
    found = shapes.number(gold)
    name = found.unit.partition("^")[0] if found else ""
    if not found or name == "percent" or not (found.before or unit_spellings(name)):
        return None
    return found.bare


@rewriting
def percent_spelling(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or found.unit != "percent":
        return None
    return found.bare + draw.choice(
        [new for new in ("%", "\\%", " \\%", " percent", "\\text{ percent}") if new != found.after]
    )


_OF_EXPRESSION = re.compile(r"(.*[\w})]) ?\\(?:text|mbox) ?\{ ?(square )?([a-z]+)\}")


def expression_unit(gold: str) -> tuple[str, str] | None:
    """12\\sqrt{13}\\text{ feet} -> ("12\\sqrt{13}", "feet")."""
    found = _OF_EXPRESSION.fullmatch(gold)
    if not found or not unit_spellings(found[3]) or shapes.expression(found[1]) is None:
        return None
    return found[1].strip(), (found[2] or "") + found[3]


@rewriting
def expression_unit_dropped(gold: str, draw: Random) -> str | None:
    found = expression_unit(gold)
    return found[0] if found else None


@rewriting
def expression_unit_added(gold: str, draw: Random) -> str | None:
    value = shapes.expression(gold)
    if value is None or not value.is_real:
        return None
    return gold + draw.choice(["\\text{ cm}", "\\text{ feet}", " \\, \\mathrm{km}", "\\text{ meters}"])
