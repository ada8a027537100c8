r"""Another expression: it differs from the gold at some point, by benchmarks/algebra.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from random import Random

import sympy as sp

from benchmarks import algebra, shapes
from benchmarks.changes import near_miss
from benchmarks.near_misses.numbers import plus_one


def _different(changed: str | None, gold: str) -> str | None:
    """`changed` if both are read and differ in value."""
    if changed is None or shapes.expression(gold) is None or shapes.items(changed):
        return None
    value, other = algebra.read(gold), algebra.read(changed)
    differ = value is not None and other is not None and algebra.equal(value, other) is False
    return changed if differ else None


def _substituted(gold: str, pattern: str, new: Callable[[re.Match[str]], str], draw: Random) -> str | None:
    places = list(re.finditer(pattern, gold))
    if not places:
        return None
    place = draw.choice(places)
    return _different(gold[: place.start()] + new(place) + gold[place.end() :], gold)


@near_miss
def coefficient_changed(gold: str, draw: Random) -> str | None:
    by = draw.choice([1, 2, 10])
    return _substituted(gold, r"(?<![\d^.])\d+(?![\d.])", lambda found: str(int(found[0]) + by), draw)


@near_miss
def coefficient_nudged(gold: str, draw: Random) -> str | None:
    """2x -> 2.00000001x, \\sqrt{3} -> \\sqrt{3.0000000000001}."""
    zeros = "0" * draw.choice([5, 8, 12, 16])
    return _substituted(gold, r"(?<![\d^.])(?<!\^\{)\d+(?![\d.])", lambda found: f"{found[0]}.{zeros}1", draw)


@near_miss
def exponent_changed(gold: str, draw: Random) -> str | None:
    return _substituted(gold, r"(?<=\^)\d|(?<=\^\{)\d+(?=\})", lambda found: str(int(found[0]) + 1), draw)


@near_miss
def sign_changed(gold: str, draw: Random) -> str | None:
    other = {"+": "-", "-": "+"}
    return _substituted(gold, r"(?<=[\w})] )[-+](?= )|(?<=[\w})])[-+]", lambda found: other[found[0]], draw)


def other_guess(gold: str, draw: Random) -> str | None:
    """Another number or expression, such as a second guess would be."""
    return plus_one(gold, draw) or coefficient_changed(gold, draw) or sign_changed(gold, draw)


@near_miss
def expression_negated(gold: str, draw: Random) -> str | None:
    return _different(gold[1:].strip() if gold.startswith("-") else f"-({gold})", gold)


@near_miss
def expression_altered(gold: str, draw: Random) -> str | None:
    return _different(draw.choice([f"2({gold})", f"\\frac{{{gold}}}{{2}}", f"({gold})^2", f"{gold} + 1"]), gold)


@near_miss
def term_dropped(gold: str, draw: Random) -> str | None:
    terms = shapes.terms(gold) if shapes.expression(gold) is not None else []
    if len(terms) < 2:
        return None
    at = draw.randrange(len(terms))
    return _different(" ".join(terms[:at] + terms[at + 1 :]).lstrip("+ "), gold)


@near_miss
def root_lost(gold: str, draw: Random) -> str | None:
    """2\\sqrt{3} -> 2(3)."""
    return _different(re.sub(r"\\sqrt ?\{(\d+)\}", r"(\1)", gold), gold)


@near_miss
def pi_lost(gold: str, draw: Random) -> str | None:
    """48\\pi -> 48."""
    return _different(re.sub(r"(?<=[\d}]) ?\\pi(?![a-z])", "", gold), gold)


@near_miss
def variable_renamed(gold: str, draw: Random) -> str | None:
    value = shapes.expression(gold)
    letters = {str(letter) for letter in value.free_symbols} if value is not None else set()
    if len(letters) != 1 or not (letter := letters.pop()).isalpha() or len(letter) > 1:
        return None
    other = draw.choice([new for new in "xyabkt" if new != letter])
    return _different(re.sub(rf"(?<![a-zA-Z\\]){letter}(?![a-zA-Z])", other, gold), gold)


@near_miss
def conjugated(gold: str, draw: Random) -> str | None:
    """2+3i -> 2-3i, or 3+2i."""
    value = shapes.expression(gold)
    if value is None or not value.has(sp.I):
        return None
    real, imaginary = value.as_real_imag()
    other = draw.choice([real - imaginary * sp.I, imaginary + real * sp.I])
    return _different(sp.latex(other), gold)


@near_miss
def inverted(gold: str, draw: Random) -> str | None:
    """\\sqrt{3} -> \\frac{1}{\\sqrt{3}}."""
    return _different(f"\\frac{{1}}{{{gold}}}", gold)


@near_miss
def exponent_lost(gold: str, draw: Random) -> str | None:
    """x^2 -> x2, 2^{10} -> 210."""
    return _different(re.sub(r"\^\{?(\d+)\}?", r"\1", gold), gold)


@near_miss
def parentheses_lost(gold: str, draw: Random) -> str | None:
    """2(x+1) -> 2x+1."""
    return _different(re.sub(r"\\left|\\right|[()]", "", gold), gold)


@near_miss
def constant_added(gold: str, draw: Random) -> str | None:
    """x^2 -> x^2 + C."""
    value = shapes.expression(gold)
    return f"{gold} + C" if value is not None and value.free_symbols else None


@near_miss
def letters_swapped(gold: str, draw: Random) -> str | None:
    """a - 2b -> b - 2a."""
    value = shapes.expression(gold)
    letters = sorted(str(letter) for letter in value.free_symbols) if value is not None else []
    if len(letters) < 2 or any(len(letter) > 1 for letter in letters):
        return None
    one, two = draw.sample(letters, 2)
    swap = {one: two, two: one}
    return _different(re.sub(rf"(?<![a-zA-Z\\])[{one}{two}](?![a-zA-Z])", lambda m: swap[m[0]], gold), gold)


@near_miss
def root_index_changed(gold: str, draw: Random) -> str | None:
    """\\sqrt{3} -> \\sqrt[3]{3}."""
    return _different(re.sub(r"\\sqrt ?(?=\{)", r"\\sqrt[3]", gold), gold)


@near_miss
def rational_approximation(gold: str, draw: Random) -> str | None:
    """\\pi -> \\frac{355}{113}."""
    value = shapes.expression(gold)
    if value is None or value.free_symbols or not value.is_irrational:
        return None
    near = Fraction(str(sp.N(value, 40))).limit_denominator(draw.choice([100, 10**4, 10**8, 10**12]))
    return f"{'-' if near < 0 else ''}\\frac{{{abs(near.numerator)}}}{{{near.denominator}}}"


_FUNCTION = re.compile(r"(.*\\)(sin|cos|tan|cot|sec|csc)((?:\^2)? ?\(?[a-z]\)?)")


@near_miss
def function_changed(gold: str, draw: Random) -> str | None:
    """\\sin x -> \\cos x; only of one function, of a variable."""
    found = _FUNCTION.fullmatch(gold)
    if not found or re.search("sin|cos|tan|cot|sec|csc", found[1]):
        return None
    other = draw.choice([name for name in ("sin", "cos", "tan", "cot", "sec", "csc") if name != found[2]])
    return f"{found[1]}{other}{found[3]}"


@near_miss
def equals_zero(gold: str, draw: Random) -> str | None:
    """x^2 - 1 -> x^2 - 1 = 0."""
    value = shapes.expression(gold)
    return f"{gold} = 0" if value is not None and value.free_symbols else None


@near_miss
def right_side_changed(gold: str, draw: Random) -> str | None:
    """y = 2x + 3 -> y = 2x + 4."""
    found = shapes.named(gold)
    other = found and other_guess(found[1], draw)
    return f"{found[0]} = {other}" if found and other else None


@near_miss
def name_changed(gold: str, draw: Random) -> str | None:
    """x = 5 -> y = 5."""
    found = shapes.named(gold)
    if not found or len(found[0]) > 1 or not shapes.number(found[1]):
        return None
    return f"{draw.choice([new for new in 'abxyz' if new != found[0]])} = {found[1]}"


@near_miss
def equation_changed(gold: str, draw: Random) -> str | None:
    """x + y = 3 -> x + y = 4: the last number changes, and the solutions with it."""
    before = shapes.equation(gold)
    changed = re.sub(r"\d+(?!.*\d)", lambda found: str(int(found[0]) + 1), gold)
    after = shapes.equation(changed)
    if not before or not after:
        return None
    ratio = sp.simplify((after[0] - after[1]) / (before[0] - before[1]))
    return changed if ratio.free_symbols else None


@near_miss
def factorial_lost(gold: str, draw: Random) -> str | None:
    return gold.replace("!", "", 1) if re.search(r"[a-z)] ?!", gold) and "\\!" not in gold else None
