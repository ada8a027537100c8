r"""Algebra: sympy rewrites an expression, and benchmarks/algebra.py checks that its value stayed."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

import sympy as sp

from benchmarks import algebra, shapes
from benchmarks.changes import replaced, rewriting


def _rewritten(gold: str, change: Callable[[sp.Expr], sp.Expr]) -> str | None:
    value = shapes.expression(gold)
    if value is None or len(gold) > 80:
        return None
    changed = sp.latex(change(value))
    return changed if changed.replace(" ", "") != gold.replace(" ", "") and algebra.reads_equal(changed, gold) else None


@rewriting
def normal_form(gold: str, draw: Random) -> str | None:
    """As sympy prints it."""
    return _rewritten(gold, lambda value: value)


@rewriting
def expanded(gold: str, draw: Random) -> str | None:
    return _rewritten(gold, sp.expand)


@rewriting
def factored(gold: str, draw: Random) -> str | None:
    value = shapes.expression(gold)
    return _rewritten(gold, sp.factor) if value is not None and value.free_symbols else None


@rewriting
def one_fraction(gold: str, draw: Random) -> str | None:
    return _rewritten(gold, sp.together)


@rewriting
def rationalized(gold: str, draw: Random) -> str | None:
    return _rewritten(gold, sp.radsimp) if "\\sqrt" in gold else None


@rewriting
def root_in_denominator(gold: str, draw: Random) -> str | None:
    """\\frac{\\sqrt{2}}{2} -> \\frac{1}{\\sqrt{2}}."""
    value = shapes.expression(gold)
    if value is None or value.is_Add or not (root := max(value.atoms(sp.Pow), default=None, key=str)):
        return None
    if not (root.exp == sp.Rational(1, 2) and root.base.is_Integer):
        return None
    top = sp.latex(sp.simplify(value * root))
    changed = f"\\frac{{{top}}}{{{sp.latex(root)}}}"
    return changed if algebra.reads_equal(changed, gold) else None


@rewriting
def commuted_terms(gold: str, draw: Random) -> str | None:
    """x^2+2x+1 -> 1+2x+x^2: the gold's own terms, in another order."""
    if shapes.expression(gold) is None or "\\left" in gold:
        return None
    terms = shapes.terms(gold)
    if len(terms) < 2:
        return None
    order = list(reversed(terms)) if draw.random() < 0.5 else draw.sample(terms, len(terms))
    changed = "".join(term if term[0] in "+-" else f"+{term}" for term in order).lstrip("+")
    return changed if changed != gold.replace(" ", "") and algebra.reads_equal(changed, gold) else None


@rewriting
def slash_for_frac(gold: str, draw: Random) -> str | None:
    """\\frac{1+\\sqrt{5}}{2} -> (1+\\sqrt{5})/2."""
    if shapes.expression(gold) is None:
        return None
    changed = re.sub(r"\\[dt]?frac ?\{((?:[^{}]|\{[^{}]*\})*)\} ?\{(\d+)\}", _with_slash, gold)
    return changed if changed != gold and algebra.reads_equal(changed, gold) else None


def _with_slash(found: re.Match[str]) -> str:
    simple = re.fullmatch(r"\d*(\\pi|\\sqrt\{\d+\}|[a-z])?", found[1])
    return f"{found[1]}/{found[2]}" if simple else f"({found[1]})/{found[2]}"


@rewriting
def coefficient_in_front(gold: str, draw: Random) -> str | None:
    """\\frac{\\sqrt{3}}{2} -> \\frac{1}{2}\\sqrt{3}."""
    value = shapes.expression(gold)
    if value is None or value.is_Add:
        return None
    coefficient, rest = value.as_coeff_Mul()
    if coefficient.is_Integer or rest.is_Add or "frac" in sp.latex(rest):
        return None
    changed = sp.latex(coefficient) + draw.choice([" ", " \\cdot "]) + sp.latex(rest)
    return changed if changed != gold and algebra.reads_equal(changed, gold) else None


@rewriting
def decimal_coefficient(gold: str, draw: Random) -> str | None:
    """\\frac{x}{2} -> 0.5x."""
    value = shapes.expression(gold)
    if value is None or value.is_Add:
        return None
    coefficient, rest = value.as_coeff_Mul()
    changed = f"{float(coefficient):.10g} {sp.latex(rest)}"
    return changed if not coefficient.is_Integer and algebra.reads_equal(changed, gold) else None


@rewriting
def root_as_power(gold: str, draw: Random) -> str | None:
    """\\sqrt{2} -> 2^{1/2}."""
    exponent = draw.choice(["1/2", "\\frac{1}{2}", "0.5"])
    changed = re.sub(r"\\sqrt ?\{(\d+)\}", lambda found: f"({found[1]})^{{{exponent}}}", gold)
    return changed if changed != gold and algebra.reads_equal(changed, gold) else None


@rewriting
def factor_under_root(gold: str, draw: Random) -> str | None:
    """2\\sqrt{3} -> \\sqrt{12}."""
    found = re.fullmatch(r"(-?)(\d+) ?\\sqrt ?\{(\d+)\}", gold)
    return f"{found[1]}\\sqrt{{{int(found[2]) ** 2 * int(found[3])}}}" if found else None


@rewriting
def minus_taken_out(gold: str, draw: Random) -> str | None:
    """1 - x -> -(x - 1)."""
    value = shapes.expression(gold)
    changed = f"-({sp.latex(-value)})" if value is not None and value.is_Add else ""
    return changed if algebra.reads_equal(changed, gold) else None


@rewriting
def nested_form(gold: str, draw: Random) -> str | None:
    """x^2+2x+1 -> x(x+2)+1, Horner's form."""
    value = shapes.expression(gold)
    if value is None or len(value.free_symbols) != 1 or not value.is_polynomial():
        return None
    return _rewritten(gold, sp.horner)


@rewriting
def reciprocal_as_power(gold: str, draw: Random) -> str | None:
    """\\frac{1}{x+1} -> (x+1)^{-1}."""
    found = re.fullmatch(r"\\[dt]?frac ?\{1\} ?\{((?:[^{}]|\{[^{}]*\})*)\}", gold)
    changed = f"({found[1]})^{{-1}}" if found and shapes.expression(gold) is not None else ""
    return changed if algebra.reads_equal(changed, gold) else None


@rewriting
def function_parentheses(gold: str, draw: Random) -> str | None:
    """\\sin x -> \\sin(x); only of a single variable at the end."""
    return replaced(r"(\\(?:sin|cos|tan|cot|sec|csc|ln|log)(?:\^2)?) ?([a-z])\Z", r"\1(\2)", gold)


@rewriting
def name_kept(gold: str, draw: Random) -> str | None:
    """y = 2x + 3 -> y = 3 + 2x."""
    found = shapes.named(gold)
    changed = found and (commuted_terms(found[1], draw) or expanded(found[1], draw))
    return f"{found[0]} = {changed}" if found and changed else None


@rewriting
def equation_sides(gold: str, draw: Random) -> str | None:
    """x + y = 3 -> 3 = x + y; not of `x = 5`, which names an answer."""
    left, _, right = gold.partition("=")
    return f"{right.strip()} = {left.strip()}" if shapes.equation(gold) else None


@rewriting
def equation_scaled(gold: str, draw: Random) -> str | None:
    """x + y = 3 -> 2x + 2y = 6."""
    sides = shapes.equation(gold)
    k = draw.choice([2, 3, -1])
    return " = ".join(sp.latex(sp.expand(k * side)) for side in sides) if sides else None


@rewriting
def equation_one_sided(gold: str, draw: Random) -> str | None:
    """x + y = 3 -> x + y - 3 = 0."""
    sides = shapes.equation(gold)
    return f"{sp.latex(sp.expand(sides[0] - sides[1]))} = 0" if sides and 0 not in sides else None
