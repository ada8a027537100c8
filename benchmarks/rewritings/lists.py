r"""Lists, sets, tuples, intervals, matrices, choices and words, spelled or ordered otherwise."""

from __future__ import annotations

import re
from random import Random

from benchmarks import algebra, shapes
from benchmarks.changes import replaced, rewriting
from benchmarks.rewritings.expressions import commuted_terms, normal_form
from benchmarks.rewritings.numbers import decimal_zeros, fraction_to_decimal, slash_fraction, unreduced_fraction


@rewriting
def permuted(gold: str, draw: Random) -> str | None:
    found = shapes.items(gold)
    if not found or found.ordered:
        return None
    order = draw.sample(found.elements, len(found.elements))
    return found.having(*order) if tuple(order) != found.elements else found.having(*reversed(found.elements))


@rewriting
def list_as_set(gold: str, draw: Random) -> str | None:
    """1, 2 <-> \\{1, 2\\}; not where two elements may be one."""
    found = shapes.items(gold)
    if not found or found.ordered or len(found.elements) < 2:
        return None
    pairs = [(a, b) for i, a in enumerate(found.elements) for b in found.elements[:i]]
    if any(shapes.same(a, b) is not False for a, b in pairs):
        return None
    inner = ", ".join(found.elements)
    return inner if found.opening else f"\\{{{inner}\\}}"


@rewriting
def list_with_words(gold: str, draw: Random) -> str | None:
    """1, 2, 3 -> 1, 2 and 3."""
    found = shapes.items(gold)
    if not found or found.opening or len(found.elements) < 2:
        return None
    joined = draw.choice([" and ", " or ", "\\text{ and }", "\\text{ or }"])
    return ", ".join(found.elements[:-1]) + joined + found.elements[-1]


@rewriting
def list_with_semicolons(gold: str, draw: Random) -> str | None:
    found = shapes.items(gold)
    return "; ".join(found.elements) if found and not found.opening else None


@rewriting
def dollars_each(gold: str, draw: Random) -> str | None:
    """1, 2 -> $1$, $2$, or $1$ and $2$."""
    found = shapes.items(gold)
    if not found or found.opening or "$" in gold:
        return None
    each = [f"${element}$" for element in found.elements]
    return ", ".join(each[:-1]) + draw.choice([", ", " and ", " or "]) + each[-1]


@rewriting
def list_named(gold: str, draw: Random) -> str | None:
    """1, 2 -> x = 1, x = 2."""
    found = shapes.items(gold)
    if not found or found.opening or not all(shapes.number(element) for element in found.elements):
        return None
    letter = draw.choice("xnk")
    names = [f"{letter} = {element}" for element in found.elements]
    forms = [
        ", ".join(names),
        " or ".join(names),
        "\\text{ or }".join(names),
        f"{letter} = {', '.join(found.elements)}",
    ]
    return draw.choice(forms)


@rewriting
def element_rewritten(gold: str, draw: Random) -> str | None:
    found = shapes.items(gold)
    if not found:
        return None
    at = draw.randrange(len(found.elements))
    changes = (unreduced_fraction, slash_fraction, fraction_to_decimal, decimal_zeros, normal_form, commuted_terms)
    changed = [new for change in changes if (new := change(found.elements[at], draw)) and "," not in new]
    if not changed:
        return None
    return found.having(*found.elements[:at], draw.choice(changed), *found.elements[at + 1 :])


@rewriting
def plus_minus_apart(gold: str, draw: Random) -> str | None:
    """3 \\pm \\sqrt{2} -> 3 + \\sqrt{2}, 3 - \\sqrt{2}."""
    if gold.count("\\pm") != 1 or not re.fullmatch(r"[\d\\a-z{}+ ^.]*", gold) or "\\text" in gold:
        return None
    plus, minus = (re.sub(r"\\pm(?![a-z])", sign, gold).strip() for sign in "+-")
    both = [plus.removeprefix("+").strip(), minus]
    return ", ".join(both if draw.random() < 0.5 else both[::-1]) if algebra.read(minus) is not None else None


@rewriting
def plus_infinity(gold: str, draw: Random) -> str | None:
    return replaced(r"(?<![-+])(?<!- )\\infty", r"+\\infty", gold)


@rewriting
def union_permuted(gold: str, draw: Random) -> str | None:
    parts = shapes.union(gold)
    return " \\cup ".join(map(str, draw.sample(parts, len(parts)))) if parts else None


@rewriting
def in_interval(gold: str, draw: Random) -> str | None:
    """[0, 1) -> x \\in [0, 1)."""
    found = shapes.items(gold)
    return f"x \\in {gold}" if (found and found.interval) or shapes.union(gold) else None


def _inequality(found: shapes.Items) -> str | None:
    """[0, 1) -> 0 \\le x < 1; None for the whole line."""
    low, high = found.elements
    below, above = ("\\le" if found.opening == "[" else "<"), ("\\le" if found.closing == "]" else "<")
    at_least = "\\ge" if found.opening == "[" else ">"
    if low == "-\\infty":
        return f"x {above} {high}" if "\\infty" not in high else None
    return f"x {at_least} {low}" if "\\infty" in high else f"{low} {below} x {above} {high}"


@rewriting
def interval_as_inequality(gold: str, draw: Random) -> str | None:
    found = shapes.items(gold)
    return _inequality(found) if found and found.interval and "x" not in gold else None


@rewriting
def interval_as_set_builder(gold: str, draw: Random) -> str | None:
    """[0, 1) -> \\{x \\mid 0 \\le x < 1\\}."""
    inequality = interval_as_inequality(gold, draw)
    return f"\\{{x {draw.choice([':', '|', chr(92) + 'mid'])} {inequality}\\}}" if inequality else None


@rewriting
def union_as_inequalities(gold: str, draw: Random) -> str | None:
    """(-\\infty, -1] \\cup [1, \\infty) -> x \\le -1 \\text{ or } x \\ge 1."""
    inequalities = [_inequality(part) for part in shapes.union(gold) or [] if len(part.elements) == 2]
    if len(inequalities) < 2 or not all(inequalities) or "x" in gold:
        return None
    return draw.choice([" \\text{ or } ", " or "]).join(one for one in inequalities if one)


@rewriting
def line_without_points(gold: str, draw: Random) -> str | None:
    """(-\\infty, 3) \\cup (3, \\infty) -> \\mathbb{R} \\setminus \\{3\\}."""
    found = re.fullmatch(r"\(-\\infty, ?([-\d]+)\) ?\\cup ?\(([-\d]+), ?\\infty\)", gold)
    if not found or found[1] != found[2]:
        return None
    return draw.choice([f"\\mathbb{{R}} \\setminus \\{{{found[1]}\\}}", f"x \\neq {found[1]}"])


@rewriting
def relation_reversed(gold: str, draw: Random) -> str | None:
    """k \\ge 2 -> 2 \\le k."""
    found = re.fullmatch(r"([a-z]) ?(<|>|\\[lg](?:e|eq|eqslant)(?![a-z])) ?(.+)", gold)
    if not found or algebra.read(found[3]) is None:
        return None
    other = {"<": ">", ">": "<", "\\l": "\\ge", "\\g": "\\le"}[found[2][:2].strip()]
    return f"{found[3]} {other} {found[1]}"


@rewriting
def matrix_as_array(gold: str, draw: Random) -> str | None:
    """\\begin{pmatrix} -> \\left(\\begin{array}{cc}."""
    found = shapes.matrix(gold)
    if not found:
        return None
    array = str(shapes.Matrix("array", found.rows)).replace("{array}", f"{{array}}{{{'c' * len(found.rows[0])}}}", 1)
    return draw.choice([f"\\left({array}\\right)", f"\\left[{array}\\right]"])


@rewriting
def relation_spelling(gold: str, draw: Random) -> str | None:
    """\\le, \\leq and \\leqslant; < and \\lt."""
    pattern = r"\\(?:le|leq|leqslant)(?![a-z])"
    return replaced(pattern, draw.choice([r"\\le", r"\\leq", r"\\leqslant"]), gold) or replaced(
        pattern.replace("le", "ge"), draw.choice([r"\\ge", r"\\geq", r"\\geqslant"]), gold
    )


@rewriting
def other_matrix_brackets(gold: str, draw: Random) -> str | None:
    found = shapes.matrix(gold)
    if not found:
        return None
    return str(shapes.Matrix("bmatrix" if found.name == "pmatrix" else "pmatrix", found.rows))


@rewriting
def matrix_spacing(gold: str, draw: Random) -> str | None:
    found = shapes.matrix(gold)
    return re.sub(" ?(&|\\\\\\\\) ?", r"\1", str(found)) if found else None


@rewriting
def entry_rewritten(gold: str, draw: Random) -> str | None:
    found = shapes.matrix(gold)
    if not found:
        return None
    i, j = draw.randrange(len(found.rows)), draw.randrange(len(found.rows[0]))
    new = draw.choice([unreduced_fraction, slash_fraction, normal_form])(found.rows[i][j], draw)
    rows = [list(row) for row in found.rows]
    rows[i][j] = new or ""
    return str(shapes.Matrix(found.name, tuple(map(tuple, rows)))) if new else None


@rewriting
def choice_spelling(gold: str, draw: Random) -> str | None:
    letter = shapes.choice(gold)
    if not letter:
        return None
    forms = [letter, f"({letter})", f"\\text{{({letter})}}", f"\\textbf{{({letter})}}", f"\\text{{{letter}}}"]
    return draw.choice([form for form in forms if form != gold])


@rewriting
def word_case(gold: str, draw: Random) -> str | None:
    word = shapes.word(gold)
    if not word:
        return None
    forms = [word.lower(), word.upper(), word.capitalize(), f"\\text{{{word.lower()}}}", f"\\text{{{word.title()}}}"]
    return draw.choice([form for form in forms if form != gold])


@rewriting
def word_unwrapped(gold: str, draw: Random) -> str | None:
    word = shapes.word(gold)
    return draw.choice([word, f"\\textbf{{{word}}}", f"\\mathrm{{{word}}}", f"**{word}**"]) if word else None


@rewriting
def base_braces(gold: str, draw: Random) -> str | None:
    found = shapes.based(gold)
    if not found:
        return None
    braced = f"{found[0]}_{{{found[1]}}}"
    if draw.random() < 0.3:
        return f"({found[0]})_{{{found[1]}}}"
    return braced if gold != braced else f"{found[0]}_{found[1]}" if found[1] < 10 else None
