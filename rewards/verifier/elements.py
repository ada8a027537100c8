"""What an answer consists of: a list's elements, in the order of their names; a matrix's rows; a relation's sides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from rewards.verifier.latex import outside, split_list, split_name
from rewards.verifier.numeric import quantity
from rewards.verifier.ranges import RELATION
from rewards.verifier.spelling import plain

_ENVIRONMENT = re.compile(r"[(\[|]? ?\\begin ?\{([a-zB]*)\}(?:\{[clr|]*\})?(.*)\\end ?\{\1\} ?[)\]|]?", re.DOTALL)
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "array")
_ORDERED = {"x", "y", "z", "t", "a", "b", "c", "r", "theta"}  # of which everyone knows the order


def elements_of(text: str) -> tuple[str, list[str]]:
    """The brackets around a list, and its elements; a number is one element, whatever commas it has."""
    return ("", [text]) if quantity(text) else split_list(plain(text))


def ratio_of(text: str) -> list[Fraction]:
    """The terms of 1:2:3, or of more."""
    if not re.fullmatch(r"\d+(?:\.\d+)?(?::\d+(?:\.\d+)?){2,7}", text):
        return []
    terms = [Fraction(term) for term in text.split(":")]
    return terms if all(terms) else []


def three_digits_each(text: str, others: Sequence[str]) -> list[str] | None:
    """The numbers of 100,200,300, which as well is one number; a list only beside another list of such numbers."""
    if not re.fullmatch(r"\d{3}(?:,\d{3})+", text) or not all(re.fullmatch(r"\d{3}", other) for other in others):
        return None
    return text.split(",")


def without_grouping(text: str) -> str:
    """20000/\\pi for 20,000/\\pi, which is no list where the other side is none."""
    return re.sub(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)", lambda found: found[0].replace(",", ""), text)


def have_names(elements: Sequence[str]) -> bool:
    """Whether the elements have names that differ: the x and y of x=1,y=2."""
    names = {split_name(element)[0] for element in elements}
    return len(names) > 1 and "" not in names


def values_by_name(elements: Sequence[str]) -> list[str] | None:
    """The values in the order of their names: 1 and 2 of y=2,x=1. None if there is no such order."""
    named = [split_name(element) for element in elements]
    if not any(name for name, _ in named):
        return list(elements)
    names = [name.lstrip("\\") for name, _ in named]
    in_order = sorted(names) if "t" not in names else sorted(names, key="xyzwt".find)
    if len(set(names)) < len(names) or not (names == in_order or set(names) <= _ORDERED):
        return None
    return [named[names.index(name)][1] for name in in_order]


def rows_of(text: str) -> list[list[str]] | None:
    """The rows of a matrix."""
    found = _ENVIRONMENT.fullmatch(text)
    if not found or found[1] not in _MATRICES or "\\begin" in found[2]:
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2]) if row.strip() and row.strip() != r"\hline"]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def sides_of(text: str) -> tuple[str, list[str]] | None:
    """The one sign of a relation, and its two sides."""
    text = plain(text)
    signs = outside(text, RELATION)
    if len(signs) != 1:
        return None
    return signs[0][0], [text[: signs[0].start()], text[signs[0].end() :]]
