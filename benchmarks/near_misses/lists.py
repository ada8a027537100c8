r"""Another list, tuple, interval, matrix, choice or word."""

from __future__ import annotations

import itertools
import re
from random import Random

from benchmarks import algebra, shapes
from benchmarks.changes import near_miss
from benchmarks.near_misses.expressions import coefficient_changed, expression_negated, sign_changed
from benchmarks.near_misses.numbers import (
    decimal_rounded,
    digit_changed,
    minus_one,
    negated,
    numerator_changed,
    plus_one,
    vanishing_term,
)


def _all_differ(found: shapes.Items) -> bool:
    elements = found.elements
    return all(shapes.same(a, b) is False for i, a in enumerate(elements) for b in elements[:i])


@near_miss
def order_swapped(gold: str, draw: Random) -> str | None:
    found = shapes.items(gold)
    if not found or not found.ordered:
        return None
    i, j = draw.sample(range(len(found.elements)), 2)
    if shapes.same(found.elements[i], found.elements[j]) is not False:
        return None
    elements = list(found.elements)
    elements[i], elements[j] = elements[j], elements[i]
    return found.having(*elements)


@near_miss
def element_dropped(gold: str, draw: Random) -> str | None:
    found = shapes.items(gold)
    if not found or len(found.elements) < 2 or not _all_differ(found):
        return None
    at = draw.randrange(len(found.elements))
    return found.having(*found.elements[:at], *found.elements[at + 1 :])


@near_miss
def element_added(gold: str, draw: Random) -> str | None:
    found = shapes.items(gold)
    if not found or not all(shapes.number(element) for element in found.elements):
        return None
    values = [one.value for element in found.elements if (one := shapes.number(element))]
    return found.having(*found.elements, str(int(max(values)) + 1))


@near_miss
def element_repeated(gold: str, draw: Random) -> str | None:
    """1, 2 -> 1, 2, 2; not of a set in braces, where it changes nothing."""
    found = shapes.items(gold)
    if not found or found.opening == "\\{":
        return None
    return found.having(*found.elements, draw.choice(found.elements))


@near_miss
def element_changed(gold: str, draw: Random) -> str | None:
    found = shapes.items(gold)
    if not found or (not found.ordered and not _all_differ(found)):
        return None
    at = draw.randrange(len(found.elements))
    if shapes.items(found.elements[at]):
        change = draw.choice([order_swapped, element_changed])
    elif shapes.choice(found.elements[at]):
        change = another_letter
    elif shapes.number(found.elements[at]):
        change = draw.choice([plus_one, minus_one, negated, digit_changed, numerator_changed, vanishing_term])
    else:
        change = draw.choice([coefficient_changed, sign_changed, expression_negated, decimal_rounded, vanishing_term])
    new = change(found.elements[at], draw)
    if not new or (not found.ordered and any(shapes.same(new, element) is not False for element in found.elements)):
        return None
    return found.having(*found.elements[:at], new, *found.elements[at + 1 :])


def another_letter(gold: str, draw: Random) -> str:
    return draw.choice([letter for letter in "JKLMNPQR" if letter != gold])


@near_miss
def elements_summed(gold: str, draw: Random) -> str | None:
    """1, 2 -> 1 + 2; the list run together: 12."""
    found = shapes.items(gold)
    if not found or len(found.elements) < 2 or not all(shapes.number(element) for element in found.elements):
        return None
    return draw.choice(["+", ""]).join(found.elements).replace("+-", "-")


@near_miss
def brackets_changed(gold: str, draw: Random) -> str | None:
    """[0, 1) -> [0, 1], (1, 2) -> [1, 2]; not at infinity."""
    found = shapes.items(gold)
    if not found or not found.ordered or len(found.elements) != 2:
        return None
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}
    at_end = draw.random() < 0.5
    if "\\infty" in found.elements[1 if at_end else 0]:
        return None
    opening = found.opening if at_end else other[found.opening]
    closing = other[found.closing] if at_end else found.closing
    return f"{opening}{', '.join(found.elements)}{closing}"


@near_miss
def union_changed(gold: str, draw: Random) -> str | None:
    parts = shapes.union(gold)
    if not parts:
        return None
    at = draw.randrange(len(parts))
    new = draw.choice([brackets_changed, element_changed])(str(parts[at]), draw)
    return " \\cup ".join([*map(str, parts[:at]), new, *map(str, parts[at + 1 :])]) if new else None


@near_miss
def union_part_dropped(gold: str, draw: Random) -> str | None:
    parts = shapes.union(gold)
    if not parts:
        return None
    at = draw.randrange(len(parts))
    return " \\cup ".join(map(str, parts[:at] + parts[at + 1 :]))


@near_miss
def union_as_intersection(gold: str, draw: Random) -> str | None:
    """Of intervals that have no point in common."""
    parts = shapes.union(gold)
    return gold.replace("\\cup", "\\cap") if parts and _apart(parts) else None


@near_miss
def gap_closed(gold: str, draw: Random) -> str | None:
    """(-\\infty, 2) \\cup (2, \\infty) -> (-\\infty, \\infty)."""
    parts = shapes.union(gold)
    if not parts or not _apart(parts):
        return None
    first, last = parts[0], parts[-1]
    return f"{first.opening}{first.elements[0]}, {last.elements[1]}{last.closing}"


def _apart(parts: list[shapes.Items]) -> bool:
    """Whether each interval ends before the next begins, or at its beginning, which neither holds."""
    for one, two in itertools.pairwise(parts):
        end, start = algebra.read(one.elements[-1]), algebra.read(two.elements[0])
        if end is None or start is None or not (end.is_real and start.is_real):
            return False
        if end > start or (end == start and "]" in one.closing + ("]" if two.opening == "[" else "")):
            return False
    return True


@near_miss
def interval_as_set(gold: str, draw: Random) -> str | None:
    """[0, 1] -> \\{0, 1\\}."""
    found = shapes.items(gold)
    return f"\\{{{', '.join(found.elements)}\\}}" if found and found.interval else None


@near_miss
def tuple_as_set(gold: str, draw: Random) -> str | None:
    """(1, 2) -> \\{1, 2\\}."""
    found = shapes.items(gold)
    if not found or not found.ordered or found.interval or not _all_differ(found):
        return None
    return f"\\{{{', '.join(found.elements)}\\}}"


@near_miss
def matrix_as_determinant(gold: str, draw: Random) -> str | None:
    found = shapes.matrix(gold)
    square = found and len(found.rows) == len(found.rows[0])
    return str(shapes.Matrix("vmatrix", found.rows)) if found and square else None


@near_miss
def relation_flipped(gold: str, draw: Random) -> str | None:
    """x < 3 -> x > 3 or x \\le 3."""
    relations = {"<": [">", "\\le "], ">": ["<", "\\ge "]}
    relations |= {f"\\{le}": ["<", "\\ge "] for le in ("le", "leq", "leqslant")}
    relations |= {f"\\{ge}": [">", "\\le "] for ge in ("ge", "geq", "geqslant")}
    found = list(re.finditer(r"[<>]|\\(?:le|leq|leqslant|ge|geq|geqslant)(?![a-z])", gold))
    if len(found) != 1 or "\\text" in gold:
        return None
    return gold[: found[0].start()] + draw.choice(relations[found[0][0]]) + gold[found[0].end() :]


@near_miss
def one_sign_of_two(gold: str, draw: Random) -> str | None:
    """3 \\pm \\sqrt{2} -> 3 + \\sqrt{2}."""
    if gold.count("\\pm") != 1 or "\\text" in gold or "," in gold:
        return None
    return re.sub(r"\\pm(?![a-z])", draw.choice("+-"), gold).strip()


@near_miss
def entry_changed(gold: str, draw: Random) -> str | None:
    found = shapes.matrix(gold)
    if not found:
        return None
    i, j = draw.randrange(len(found.rows)), draw.randrange(len(found.rows[0]))
    entry = found.rows[i][j]
    new = draw.choice([plus_one, minus_one, negated])(entry, draw) or coefficient_changed(entry, draw)
    rows = [list(row) for row in found.rows]
    rows[i][j] = new or ""
    return str(shapes.Matrix(found.name, tuple(map(tuple, rows)))) if new else None


@near_miss
def matrix_transposed(gold: str, draw: Random) -> str | None:
    """Of a square matrix that is not symmetric."""
    found = shapes.matrix(gold)
    if not found or len(found.rows) != len(found.rows[0]):
        return None
    pairs = [(found.rows[i][j], found.rows[j][i]) for i in range(len(found.rows)) for j in range(i)]
    if not any(shapes.same(a, b) is False for a, b in pairs):
        return None
    return str(shapes.Matrix(found.name, tuple(zip(*found.rows, strict=True))))


@near_miss
def matrix_rows_swapped(gold: str, draw: Random) -> str | None:
    found = shapes.matrix(gold)
    if not found or len(found.rows) < 2:
        return None
    first, second, *rest = found.rows
    if not any(shapes.same(a, b) is False for a, b in zip(first, second, strict=True)):
        return None
    return str(shapes.Matrix(found.name, (second, first, *rest)))


@near_miss
def matrix_row_dropped(gold: str, draw: Random) -> str | None:
    found = shapes.matrix(gold)
    return str(shapes.Matrix(found.name, found.rows[:-1])) if found and len(found.rows) > 1 else None


@near_miss
def another_choice(gold: str, draw: Random) -> str | None:
    letter = shapes.choice(gold)
    if not letter:
        return None
    other = draw.choice([new for new in "ABCDE" if new != letter])
    hedged = [f"{letter} or {other}", f"{letter}, {other}", f"{letter}{other}"]
    return draw.choice([other, f"({other})", f"\\text{{({other})}}", *hedged])


_WORDS = ("Tuesday", "odd", "ellipse", "Bob", "green", "west", "hyperbola", "September", "yes", "point")


@near_miss
def another_word(gold: str, draw: Random) -> str | None:
    word = shapes.word(gold)
    if not word:
        return None
    other = draw.choice([new for new in _WORDS if new.lower() not in word.lower()])
    return draw.choice([other, f"\\text{{{other}}}", f"{word} or {other}", f"{word} and {other}", f"not {word}"])


@near_miss
def word_misspelled(gold: str, draw: Random) -> str | None:
    word = shapes.word(gold)
    return draw.choice([word[:-1], word[::-1], word + "x"]) if word and word[::-1].lower() != word.lower() else None


@near_miss
def another_base(gold: str, draw: Random) -> str | None:
    found = shapes.based(gold)
    return f"{found[0]}_{{{found[1] + 1}}}" if found and found[0] not in ("0", "1") else None


@near_miss
def based_digit_changed(gold: str, draw: Random) -> str | None:
    found = shapes.based(gold)
    if not found:
        return None
    at = draw.randrange(len(found[0]))
    other = draw.choice([one for one in "12345678" if one != found[0][at]])
    return f"{found[0][:at]}{other}{found[0][at + 1 :]}_{{{found[1]}}}"
