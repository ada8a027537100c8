r"""Near misses of a gold answer: what a verifier must not accept, however little it differs.

Each is one function `(gold, draw) -> answer | None`, None where it does not apply or could be right after all.
A changed number is compared exactly, a changed expression numerically at several points (benchmarks/algebra.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from random import Random

import sympy as sp

from benchmarks import algebra, shapes
from benchmarks.rewritings import Change, unit_spellings

NEAR_MISSES: dict[str, Change] = {}
UNEVALUATED: dict[str, Change] = {}  # right in value, but a number must be given evaluated: reported apart


def near_miss(change: Change) -> Change:
    NEAR_MISSES[change.__name__] = change
    return change


# -- Numbers --------------------------------------------------------------------------------------------------------


def _changed(gold: str, new_core: str | None) -> str | None:
    """The gold with another number in its place, if that has another value."""
    found = shapes.number(gold)
    if not found or new_core is None or not new_core:
        return None
    new = shapes.number(new_core)
    return found.with_value(new_core) if new and new.value != abs(found.value) else None


def _shifted(gold: str, by: int) -> str | None:
    found = shapes.number(gold)
    if not found or found.is_scientific:
        return None
    value = found.value + by
    n, d = abs(value).as_integer_ratio()
    core = str(n) if d == 1 else f"\\frac{{{n}}}{{{d}}}" if found.is_fraction else f"{float(abs(value)):.12g}"
    new = shapes.number(core)
    return found.with_value(core, negative=value < 0) if new and new.value == abs(value) else None


@near_miss
def plus_one(gold: str, draw: Random) -> str | None:
    return _shifted(gold, 1)


@near_miss
def minus_one(gold: str, draw: Random) -> str | None:
    return _shifted(gold, -1)


@near_miss
def negated(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    return found.with_value(found.core, negative=found.value > 0) if found and found.value else None


@near_miss
def times_ten(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.value or found.is_fraction or found.is_scientific:
        return None
    value = abs(found.value) * draw.choice([Fraction(10), Fraction(1, 10), Fraction(1000), Fraction(1, 100)])
    if found.unit == "percent" or (value.denominator == 1 and value >= 10**15):
        return None
    core = f"{float(value):.12f}".rstrip("0").rstrip(".")
    new = shapes.number(core)
    return found.with_value(core) if new and new.value == value else None


def _digits(gold: str) -> str | None:
    found = shapes.number(gold)
    return found.digits if found else None


@near_miss
def digit_changed(gold: str, draw: Random) -> str | None:
    digits = _digits(gold)
    if not digits:
        return None
    at = draw.choice([i for i, one in enumerate(digits) if one != "."])
    other = draw.choice([one for one in "123456789" if one != digits[at]])
    return _changed(gold, digits[:at] + other + digits[at + 1 :])


@near_miss
def digit_dropped(gold: str, draw: Random) -> str | None:
    digits = _digits(gold)
    if not digits or len(digits) < 2:
        return None
    at = draw.choice([i for i, one in enumerate(digits) if one != "."])
    rest = digits[:at] + digits[at + 1 :]
    return _changed(gold, rest) if re.match(r"[1-9]|0\.", rest) and not rest.endswith(".") else None


@near_miss
def digit_added(gold: str, draw: Random) -> str | None:
    digits = _digits(gold)
    if not digits:
        return None
    at = draw.randrange(1, len(digits) + 1)
    return _changed(gold, digits[:at] + draw.choice("0123456789") + digits[at:])


@near_miss
def digits_transposed(gold: str, draw: Random) -> str | None:
    digits = _digits(gold)
    places = [i for i in range(len(digits or "") - 1) if digits and "." not in digits[i : i + 2]]
    if not digits or not places:
        return None
    at = draw.choice(places)
    swapped = digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]
    return _changed(gold, swapped) if re.match(r"[1-9]|0\.", swapped) else None


@near_miss
def fraction_inverted(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.value or found.is_scientific or (not found.is_fraction and draw.random() < 0.8):
        return None
    d, n = abs(found.value).as_integer_ratio()
    return _changed(gold, f"\\frac{{{n}}}{{{d}}}")


@near_miss
def numerator_changed(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_fraction:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return _changed(gold, f"\\frac{{{n + draw.choice([1, -1])}}}{{{d}}}")


@near_miss
def denominator_changed(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_fraction or not found.value:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return _changed(gold, f"\\frac{{{n}}}{{{d + draw.choice([1, -1] if d > 1 else [1])}}}")


@near_miss
def whole_part_lost(gold: str, draw: Random) -> str | None:
    """3\\frac{1}{2} -> \\frac{1}{2}, or 3 \\cdot \\frac{1}{2}."""
    found = shapes.number(gold)
    if not found or not (mixed := re.match(r"(\d+) ?(\\.*)", found.core)):
        return None
    return draw.choice([found.with_value(mixed[2]), found.with_value(f"{mixed[1]} \\cdot {mixed[2]}")])


@near_miss
def decimal_rounded(gold: str, draw: Random) -> str | None:
    """\\frac{1}{3} -> 0.333, \\sqrt{2} -> 1.414, 0.5598 -> 0.56."""
    found, value = shapes.number(gold), shapes.expression(gold)
    if found and not found.is_scientific:
        exact = abs(found.value)
        places = draw.choice([1, 2, 3, 4, 6, 10])
        rounded = f"{float(exact):.{places}f}"
        return _changed(gold, rounded) if exact.denominator > 1 and float(rounded) else None
    if value is None or value.free_symbols or not value.is_real:
        return None
    rounded = str(sp.N(value, draw.choice([3, 4, 6, 8, 12])))
    return rounded if value.is_irrational and "e" not in rounded else None


@near_miss
def rounded_up(gold: str, draw: Random) -> str | None:
    """To the nearest integer."""
    found = shapes.number(gold)
    if not found or found.value.denominator == 1 or found.is_scientific:
        return None
    return found.with_value(str(round(abs(found.value))))


@near_miss
def tiny_difference(gold: str, draw: Random) -> str | None:
    """12 -> 12.0000000000000000001."""
    found = shapes.number(gold)
    if not found or found.is_fraction or found.is_scientific or found.before:
        return None
    digits = _digits(gold) or ""
    return found.with_value(digits + ("" if "." in digits else ".") + "0" * draw.choice([6, 12, 18, 30]) + "1")


@near_miss
def tiny_term(gold: str, draw: Random) -> str | None:
    """\\sqrt{2} -> \\sqrt{2} + 10^{-20}."""
    value = shapes.expression(gold)
    return f"{gold} + 10^{{-{draw.choice([7, 10, 16, 20])}}}" if value is not None and value.is_number else None


@near_miss
def squared(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_integer or not found.is_bare or found.value < 2:
        return None
    return draw.choice([f"{gold}^2", f"{gold}^{{2}}", f"\\sqrt{{{gold}}}"])


@near_miss
def times_a_letter(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not found.is_bare or not found.value or found.is_scientific or found.is_fraction:
        return None
    factorial = ["!"] if found.is_integer and 2 < found.value < 1000 else []
    return gold + draw.choice(["x", "n", "i", " \\pi", "\\sqrt{2}", *factorial])


@near_miss
def exponent_of_ten_changed(gold: str, draw: Random) -> str | None:
    """4.5e33 -> 4.5e32."""
    found = shapes.number(gold)
    if not found or not found.is_scientific or not found.value:
        return None
    mantissa, _, exponent = found.core.partition("e")
    other = int(exponent) + draw.choice([-2, -1, 1, 2])
    return found.with_value(draw.choice([f"{mantissa}e{other}", f"{mantissa} \\times 10^{{{other}}}"]))


@near_miss
def mantissa_changed(gold: str, draw: Random) -> str | None:
    """4.5e33 -> 4.6e33, or 4.5000001e33."""
    found = shapes.number(gold)
    if not found or not found.is_scientific or not found.value:
        return None
    mantissa, _, exponent = found.core.partition("e")
    more = mantissa + ("" if "." in mantissa else ".") + "0" * draw.choice([1, 3, 8]) + "1"
    return found.with_value(f"{more}e{exponent}")


# -- Units ----------------------------------------------------------------------------------------------------------


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


# -- More than one answer, and no whole one ---------------------------------------------------------------------------


def _other_guess(gold: str, draw: Random) -> str | None:
    return plus_one(gold, draw) or coefficient_changed(gold, draw) or sign_changed(gold, draw)


@near_miss
def another_guess_beside(gold: str, draw: Random) -> str | None:
    """12 -> "12 or 13", "12, 13"."""
    other = None if shapes.items(gold) or "," in gold else _other_guess(gold, draw)
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


def _sum(gold: str, draw: Random) -> str | None:
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


UNEVALUATED["unevaluated"] = _sum


# -- Expressions ------------------------------------------------------------------------------------------------------


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
def exponent_changed(gold: str, draw: Random) -> str | None:
    return _substituted(gold, r"(?<=\^)\d|(?<=\^\{)\d+(?=\})", lambda found: str(int(found[0]) + 1), draw)


@near_miss
def sign_changed(gold: str, draw: Random) -> str | None:
    other = {"+": "-", "-": "+"}
    return _substituted(gold, r"(?<=[\w})] )[-+](?= )|(?<=[\w})])[-+]", lambda found: other[found[0]], draw)


@near_miss
def expression_negated(gold: str, draw: Random) -> str | None:
    return _different(gold[1:].strip() if gold.startswith("-") else f"-({gold})", gold)


@near_miss
def expression_doubled(gold: str, draw: Random) -> str | None:
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
def equals_zero(gold: str, draw: Random) -> str | None:
    """x^2 - 1 -> x^2 - 1 = 0."""
    value = shapes.expression(gold)
    return f"{gold} = 0" if value is not None and value.free_symbols else None


@near_miss
def right_side_changed(gold: str, draw: Random) -> str | None:
    """y = 2x + 3 -> y = 2x + 4."""
    found = shapes.named(gold)
    other = found and _other_guess(found[1], draw)
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


# -- Lists, intervals, matrices, words ------------------------------------------------------------------------------


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
    if shapes.number(found.elements[at]):
        change = draw.choice([plus_one, minus_one, negated, digit_changed, numerator_changed])
    else:
        change = draw.choice([coefficient_changed, sign_changed, expression_negated, decimal_rounded])
    new = change(found.elements[at], draw)
    if not new or "," in new:
        return None
    return found.having(*found.elements[:at], new, *found.elements[at + 1 :])


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


# -- Around the gold ---------------------------------------------------------------------------------------------------


@near_miss
def something_appended(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    plain = found and found.is_bare
    return draw.choice([f"{gold} + 1", f"{gold} - x", f"{gold}, 0", f"not {gold}"]) if plain else None
