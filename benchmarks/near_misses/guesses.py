r"""More than one answer, and no whole one."""

from __future__ import annotations

from random import Random

from benchmarks import shapes
from benchmarks.changes import near_miss, unevaluated
from benchmarks.near_misses.expressions import other_guess
from benchmarks.near_misses.numbers import plus_one


@near_miss
def another_guess_beside(gold: str, draw: Random) -> str | None:
    """12 -> "12 or 13", "12, 13"."""
    other = None if shapes.items(gold) or "," in gold else other_guess(gold, draw)
    if not other:
        return None
    joined = draw.choice([" or ", ", ", " and ", "; ", "\\text{ or }", ",\\ "])
    return joined.join([gold, other] if draw.random() < 0.7 else [other, gold])


@near_miss
def repeated(gold: str, draw: Random) -> str | None:
    """12 -> 12, 12."""
    found = shapes.number(gold)
    return f"{gold}, {gold}" if found and "," not in gold else None


@near_miss
def unfinished(gold: str, draw: Random) -> str | None:
    """12 -> "12+", "\\frac{12"."""
    if "\\text" in gold or shapes.items(gold):
        return None
    forms = ["{}+", "{} -", "{} \\cdot", "\\frac{{{}", "\\sqrt{{{}", "\\frac{{{}}}{{", "{} =", "{}^", "({}"]
    return draw.choice(forms).format(gold) if shapes.number(gold) or shapes.expression(gold) is not None else None


@near_miss
def equals_another(gold: str, draw: Random) -> str | None:
    """12 -> 12 = 13."""
    found = shapes.number(gold)
    if not found or not found.is_bare or not (other := plus_one(gold, draw)):
        return None
    return draw.choice([f"{gold} = {other}", f"{other} = {gold}", f"{gold} \\neq {other}", f"x > {gold}"])


@unevaluated
def arithmetic(gold: str, draw: Random) -> str | None:
    """12 -> 7 + 5."""
    found = shapes.number(gold)
    if not found or not found.is_integer or not found.is_bare or found.value < 4:
        return None
    n = int(found.value)
    part = draw.randrange(1, n - 1)
    forms = [f"{part} + {n - part}", f"{part}+{n - part}", f"{n + part} - {part}", f"{2 * n} \\cdot \\frac{{1}}{{2}}"]
    if n % 2 == 0:
        forms += [f"2 \\times {n // 2}", f"2 \\cdot {n // 2}", f"{n // 2}*2"]
    return draw.choice(forms)


@near_miss
def something_appended(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    plain = found and found.is_bare
    return gold + draw.choice([" + 1", " - x", ", 0", " \\pm 1", " + C", "^{-1} + 1"]) if plain else None


@near_miss
def something_before(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    plain = found and found.is_bare
    return draw.choice(["not ", "at least ", "more than ", "\\geq ", "x < ", "0, ", "1"]) + gold if plain else None


@near_miss
def range_around(gold: str, draw: Random) -> str | None:
    """12 -> "11-13", "[11, 13]"."""
    found = shapes.number(gold)
    if not found or not found.is_integer or not found.is_bare or found.value < 2:
        return None
    low, high = int(found.value) - 1, int(found.value) + 1
    forms = [
        "{}-{}",
        "{} - {}",
        "[{}, {}]",
        "({}, {})",
        "{} to {}",
        "between {} and {}",
        "{} \\le x \\le {}",
        "{} < x < {}",
    ]
    return draw.choice(forms).format(low, high)


@near_miss
def run_together(gold: str, draw: Random) -> str | None:
    """12 -> 1212, or 12 12."""
    found = shapes.number(gold)
    plain = found and found.is_integer and found.is_bare and found.value > 0
    return f"{gold}{draw.choice(['', ' '])}{gold}" if plain else None
