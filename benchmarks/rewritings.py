r"""Equivalent rewritings of a gold answer: what a careful grader must accept.

Each is one function `(gold, draw) -> answer | None`, None where it does not apply or is not surely equivalent. Numbers
are written from their exact value, algebra comes from sympy on expressions of benchmarks/algebra.py, and is checked
there: nothing here asks the verifier. The policy that decides is docs/rewards.md (order of lists, units, percent).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from random import Random

import sympy as sp

from benchmarks import algebra, shapes

Change = Callable[[str, Random], str | None]
REWRITINGS: dict[str, Change] = {}


def rewriting(change: Change) -> Change:
    REWRITINGS[change.__name__] = change
    return change


def _replaced(pattern: str, replacement: str, text: str) -> str | None:
    changed = re.sub(pattern, replacement, text)
    return changed if changed != text else None


# -- LaTeX ----------------------------------------------------------------------------------------------------------


@rewriting
def dollars(gold: str, draw: Random) -> str | None:
    return None if "$" in gold else f"${gold}$"


@rewriting
def display_delimiters(gold: str, draw: Random) -> str | None:
    opening, closing = draw.choice([(r"\(", r"\)"), (r"\[", r"\]"), (r"\( ", r" \)"), ("$$", "$$")])
    return None if "$" in gold else f"{opening}{gold}{closing}"


@rewriting
def trailing_period(gold: str, draw: Random) -> str | None:
    return None if gold.endswith((".", ",", "$")) else draw.choice([f"{gold}.", f"{gold} .", f"${gold}$."])


@rewriting
def boxed(gold: str, draw: Random) -> str | None:
    return None if "$" in gold else f"\\boxed{{{gold}}}"


@rewriting
def markdown_bold(gold: str, draw: Random) -> str | None:
    return None if "$" in gold or "*" in gold else f"**{gold}**"


@rewriting
def outer_braces(gold: str, draw: Random) -> str | None:
    return f"{{{gold}}}" if shapes.number(gold) or shapes.expression(gold) is not None else None


@rewriting
def outer_parentheses(gold: str, draw: Random) -> str | None:
    return f"({gold})" if shapes.expression(gold) is not None else None


@rewriting
def displaystyle(gold: str, draw: Random) -> str | None:
    return f"\\displaystyle {gold}" if "\\frac" in gold else None


@rewriting
def other_frac(gold: str, draw: Random) -> str | None:
    name = draw.choice(["dfrac", "tfrac", "cfrac"])
    return _replaced(r"\\[dtc]?frac(?![a-z])", rf"\\{name}", gold)


@rewriting
def frac_without_braces(gold: str, draw: Random) -> str | None:
    return _replaced(r"\\frac ?\{(\d)\} ?\{(\d)\}", r"\\frac\1\2", gold)


@rewriting
def frac_with_braces(gold: str, draw: Random) -> str | None:
    return _replaced(r"\\([dt]?)frac ?(\d) ?(\d)", r"\\\1frac{\2}{\3}", gold)


@rewriting
def sqrt_braces(gold: str, draw: Random) -> str | None:
    return _replaced(r"\\sqrt ?\{(\d)\}", r"\\sqrt\1", gold) or _replaced(r"\\sqrt ?(\d)", r"\\sqrt{\1}", gold)


@rewriting
def exponent_braces(gold: str, draw: Random) -> str | None:
    return _replaced(r"\^(\d)(?!\d)", r"^{\1}", gold) or _replaced(r"\^\{(\d)\}", r"^\1", gold)


@rewriting
def left_right(gold: str, draw: Random) -> str | None:
    if "\\left" in gold:
        return re.sub(r"\\(left|right) ?(?=[()\[\]])", "", gold) if "\\left." not in gold else None
    if "\\text" in gold or gold.count("(") + gold.count("[") != gold.count(")") + gold.count("]"):
        return None
    return _replaced(r"(?<!\\)([()\[\]])", lambda m: f"\\{'left' if m[1] in '([' else 'right'}{m[1]}", gold)  # type: ignore[arg-type]


def _is_plain(gold: str) -> bool:
    return not re.search(r"\\(?:text|mbox|mathrm|[ ,;:!])|\$|\\\\ ?\[", gold)


@rewriting
def spaces_dropped(gold: str, draw: Random) -> str | None:
    return _replaced(r" (?=[-+=(){}\[\],&\\])|(?<=[-+=(){}\[\],&]) ", "", gold) if _is_plain(gold) else None


@rewriting
def spaces_added(gold: str, draw: Random) -> str | None:
    if not _is_plain(gold) or shapes.number(gold) or (shapes.items(gold) is None and "," in gold):
        return None
    return _replaced(r"(?<=[\w})]) ?([+=,]) ?", r"  \1  ", gold)


@rewriting
def thin_spaces(gold: str, draw: Random) -> str | None:
    if not _is_plain(gold) or shapes.number(gold) or (shapes.items(gold) is None and "," in gold):
        return None
    space = draw.choice([r"\,", r"\;", r"\ ", "~", r"\quad "])
    return _replaced(r"(?<=[\w})]) ?([+=,]) ?", lambda m: f"{m[1]}{space}", gold)  # type: ignore[arg-type]


@rewriting
def negative_space(gold: str, draw: Random) -> str | None:
    return _replaced(r"(?<!\\)([(\[])", r"\\!\1", gold) if _is_plain(gold) and "\\left" not in gold else None


@rewriting
def unicode_signs(gold: str, draw: Random) -> str | None:
    signs = {"-": "\N{MINUS SIGN}", r"\infty": "\N{INFINITY}", r"\pi": "\N{GREEK SMALL LETTER PI}"}
    signs |= {r"^\circ": "\N{DEGREE SIGN}", r"\cup": "\N{UNION}"}
    if "\\text" in gold or "e-" in gold:
        return None
    pattern = "|".join(re.escape(sign) + ("(?![a-zA-Z])" if sign[-1].isalpha() else "") for sign in signs)
    return _replaced(pattern, lambda m: signs[m[0]], gold)  # type: ignore[arg-type]


@rewriting
def degree_sign(gold: str, draw: Random) -> str | None:
    return _replaced(r"\^\\circ", r"^{\\circ}", gold) or _replaced(r"\^\{\\circ\}", r"^\\circ", gold)


@rewriting
def explicit_product(gold: str, draw: Random) -> str | None:
    r"""2\sqrt{3} -> 2 \cdot \sqrt{3}."""
    if shapes.expression(gold) is None:
        return None
    changed = _replaced(r"(?<=\d) ?(?=\\(?:sqrt|pi)|[a-z])", draw.choice([r" \\cdot ", r" \\times ", "*"]), gold)
    return changed if changed and _reads_equal(changed, gold) else None


# -- Numbers --------------------------------------------------------------------------------------------------------


def _decimal(value: Fraction) -> str | None:
    """The exact decimal of a value that is not negative; None if it does not end within 12 digits."""
    for digits in range(13):
        scaled = value * 10**digits
        if scaled.denominator == 1:
            text = str(scaled.numerator).rjust(digits + 1, "0")
            return text if not digits else f"{text[:-digits]}.{text[-digits:]}"
    return None


@rewriting
def decimal_zeros(gold: str, draw: Random) -> str | None:
    """12 -> 12.0, 12.5 -> 12.50."""
    found = shapes.number(gold)
    if not found or not (digits := found.digits):
        return None
    return found.with_value(digits + (draw.choice(["0", "00"]) if "." in digits else draw.choice([".0", ".00"])))


@rewriting
def leading_zero(gold: str, draw: Random) -> str | None:
    """0.5 -> .5, .5 -> 0.5."""
    found = shapes.number(gold)
    if not found or not (digits := found.digits) or not re.match(r"0?\.", digits):
        return None
    return found.with_value(digits[1:] if digits.startswith("0") else f"0{digits}")


@rewriting
def plus_sign(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    return f"+{gold}" if found and found.value > 0 and not found.before and not gold.startswith("+") else None


@rewriting
def thousands_separators(gold: str, draw: Random) -> str | None:
    """1234 -> 1,234 or 1{,}234 or 1,\\!234 or 1\\,234 or 1 234."""
    found = shapes.number(gold)
    if not found or not (digits := found.digits) or abs(found.value) < 1000 or digits.startswith("0"):
        return None
    whole, point, rest = digits.partition(".")
    separator = draw.choice([",", "{,}", ",\\!", "\\,", " "] if not point else [",", "{,}"])
    return found.with_value(f"{int(whole):,}".replace(",", separator) + point + rest)


@rewriting
def no_separators(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    return found.with_value(found.digits) if found and found.digits and "," in found.core else None


@rewriting
def fraction_to_decimal(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    decimal = _decimal(abs(found.value)) if found and found.is_fraction else None
    return found.with_value(decimal) if found and decimal else None


@rewriting
def decimal_to_fraction(gold: str, draw: Random) -> str | None:
    found = shapes.number(gold)
    if not found or not (digits := found.digits) or "." not in digits or found.value.denominator == 1:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return found.with_value(draw.choice([f"\\frac{{{n}}}{{{d}}}", f"{n}/{d}"]))


@rewriting
def slash_fraction(gold: str, draw: Random) -> str | None:
    """\\frac{a}{b} <-> a/b."""
    found = shapes.number(gold)
    if not found or not found.is_fraction:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return found.with_value(f"\\frac{{{n}}}{{{d}}}" if "/" in found.core else f"{n}/{d}")


@rewriting
def unreduced_fraction(gold: str, draw: Random) -> str | None:
    """1/2 -> 2/4, 12 -> 24/2."""
    found = shapes.number(gold)
    if not found or found.before or found.unit or found.is_scientific:
        return None
    n, d = abs(found.value).as_integer_ratio()
    k = draw.choice([2, 3, 5, 10])
    return found.with_value(draw.choice([f"\\frac{{{n * k}}}{{{d * k}}}", f"{n * k}/{d * k}"]))


@rewriting
def mixed_number(gold: str, draw: Random) -> str | None:
    """7/2 -> 3\\frac{1}{2}."""
    found = shapes.number(gold)
    if not found or not found.is_fraction or abs(found.value) <= 1 or found.value.denominator == 1:
        return None
    whole, (n, d) = int(abs(found.value)), (abs(found.value) % 1).as_integer_ratio()
    forms = [f"{whole}\\frac{{{n}}}{{{d}}}", f"{whole} \\frac{{{n}}}{{{d}}}", f"{whole} {n}/{d}"]
    return found.with_value(draw.choice(forms))


@rewriting
def improper_fraction(gold: str, draw: Random) -> str | None:
    """3\\frac{1}{2} -> 7/2."""
    found = shapes.number(gold)
    if not found or not found.is_mixed:
        return None
    n, d = abs(found.value).as_integer_ratio()
    return found.with_value(draw.choice([f"\\frac{{{n}}}{{{d}}}", f"{n}/{d}"]))


@rewriting
def sign_in_fraction(gold: str, draw: Random) -> str | None:
    """-\\frac{1}{2} -> \\frac{-1}{2} or \\frac{1}{-2} or -1/2."""
    found = shapes.number(gold)
    if not found or not found.is_fraction or found.value >= 0 or found.before or found.is_mixed:
        return None
    n, d = abs(found.value).as_integer_ratio()
    forms = [f"\\frac{{-{n}}}{{{d}}}", f"\\frac{{{n}}}{{-{d}}}", f"-{n}/{d}", f"-\\frac{{{n}}}{{{d}}}"]
    return draw.choice([form for form in forms if form != gold]) + found.after


@rewriting
def scientific(gold: str, draw: Random) -> str | None:
    """1200 -> 1.2 \\times 10^{3} or 1.2e3; not for an answer below ten, which nobody writes so."""
    found = shapes.number(gold)
    if not found or found.is_fraction or found.before or found.unit or (abs(found.value) < 10 and abs(found.value) > 1):
        return None
    decimal = None if found.is_scientific else _decimal(abs(found.value))
    if not decimal or not found.value:
        return None
    whole, _, rest = decimal.partition(".")
    exponent = len(whole) - 1 if whole != "0" else len(rest.lstrip("0")) - len(rest) - 1
    digits = (whole + rest).strip("0")
    return found.with_value(draw.choice(_scientific_forms(f"{digits[0]}.{digits[1:]}".rstrip("."), exponent)))


def _scientific_forms(mantissa: str, exponent: int) -> list[str]:
    return [
        f"{mantissa} \\times 10^{{{exponent}}}",
        f"{mantissa} \\cdot 10^{{{exponent}}}",
        f"{mantissa}\\times10^{{{exponent}}}",
        f"{mantissa}e{exponent}",
    ]


@rewriting
def scientific_spelling(gold: str, draw: Random) -> str | None:
    """4.5e33 -> 4.5 \\times 10^{33} or 45e32."""
    found = shapes.number(gold)
    if not found or not found.is_scientific:
        return None
    mantissa, _, exponent = found.core.partition("e")
    shifted = str(Fraction(mantissa) * 100) if (Fraction(mantissa) * 100).denominator == 1 else mantissa + "00"
    more = f"{shifted}e{int(exponent) - 2}" if shifted.isdecimal() else f"{mantissa}E{exponent}"
    return found.with_value(draw.choice([*_scientific_forms(mantissa, int(exponent)), more]))


@rewriting
def spelled_out(gold: str, draw: Random) -> str | None:
    """3e6 -> 3000000, 1e-3 -> 0.001."""
    found = shapes.number(gold)
    decimal = _decimal(abs(found.value)) if found and found.is_scientific and abs(found.value) < 10**15 else None
    return found.with_value(decimal) if found and decimal else None


@rewriting
def power(gold: str, draw: Random) -> str | None:
    """1024 -> 2^{10}; only of a whole number that is a power."""
    found = shapes.number(gold)
    if not found or not found.is_integer or not found.is_bare or not 3 < found.value < 10**12:
        return None
    base = sp.perfect_power(int(found.value))
    if not base:
        return None
    return f"{base[0]}^{{{base[1]}}}" if base[1] > 9 or draw.random() < 0.5 else f"{base[0]}^{base[1]}"


@rewriting
def text_wrapper(gold: str, draw: Random) -> str | None:
    """12 -> \\text{12}, Evelyn -> \\text{Evelyn}."""
    found = shapes.number(gold)
    plain = (found and found.is_integer and gold == found.core) or re.fullmatch("[A-Z][a-z]+", gold)
    return draw.choice([f"\\text{{{gold}}}", f"\\mathrm{{{gold}}}", f"\\textbf{{{gold}}}"]) if plain else None


@rewriting
def named(gold: str, draw: Random) -> str | None:
    """5 -> x = 5."""
    plain = shapes.number(gold)
    if not plain or not plain.is_bare:
        return None
    letter = draw.choice("xnkm")
    return draw.choice([f"{letter}={gold}", f"{letter} = {gold}", f"${letter} = {gold}$"])


@rewriting
def unnamed(gold: str, draw: Random) -> str | None:
    """x = 5 -> 5."""
    found = shapes.named(gold)
    return found[1] if found and (shapes.number(found[1]) or shapes.expression(found[1]) is not None) else None


# -- Units ----------------------------------------------------------------------------------------------------------

# Each unit's spellings; one that the policy's table of units knows (docs/rewards.md).
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


# -- Algebra --------------------------------------------------------------------------------------------------------


def _reads_equal(text: str, gold: str) -> bool:
    read, value = algebra.read(text), algebra.read(gold)
    return read is not None and value is not None and algebra.equal(read, value) is True


def _rewritten(gold: str, change: Callable[[sp.Expr], sp.Expr]) -> str | None:
    value = shapes.expression(gold)
    if value is None or len(gold) > 80:
        return None
    changed = sp.latex(change(value))
    return changed if changed.replace(" ", "") != gold.replace(" ", "") and _reads_equal(changed, gold) else None


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
    return changed if _reads_equal(changed, gold) else None


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
    return changed if changed != gold.replace(" ", "") and _reads_equal(changed, gold) else None


@rewriting
def term_added_and_taken(gold: str, draw: Random) -> str | None:
    """x^2 -> x^2 + x - x, only where the gold has a variable."""
    value = shapes.expression(gold)
    if value is None or not value.free_symbols:
        return None
    letter = min(map(str, value.free_symbols), key=lambda name: (len(name), name))
    changed = f"{gold} + {letter} - {letter}"
    return changed if len(letter) == 1 and _reads_equal(changed, gold) else None


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


# -- Lists, intervals, matrices, words ------------------------------------------------------------------------------


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
    return _replaced(r"(?<![-+])(?<!- )\\infty", r"+\\infty", gold)


@rewriting
def union_permuted(gold: str, draw: Random) -> str | None:
    parts = shapes.union(gold)
    return " \\cup ".join(map(str, draw.sample(parts, len(parts)))) if parts else None


@rewriting
def in_interval(gold: str, draw: Random) -> str | None:
    """[0, 1) -> x \\in [0, 1)."""
    found = shapes.items(gold)
    return f"x \\in {gold}" if (found and found.interval) or shapes.union(gold) else None


@rewriting
def interval_as_inequality(gold: str, draw: Random) -> str | None:
    """[0, 1) -> 0 \\le x < 1."""
    found = shapes.items(gold)
    if not found or not found.interval or any("x" in element for element in found.elements):
        return None
    low, high = found.elements
    below, above = ("\\le" if found.opening == "[" else "<"), ("\\le" if found.closing == "]" else "<")
    at_least = "\\ge" if found.opening == "[" else ">"
    if low == "-\\infty" and "\\infty" not in high:
        return f"x {above} {high}"
    if "\\infty" in high and "\\infty" not in low:
        return f"x {at_least} {low}"
    return f"{low} {below} x {above} {high}" if "\\infty" not in low + high else None


@rewriting
def relation_spelling(gold: str, draw: Random) -> str | None:
    """\\le, \\leq and \\leqslant; < and \\lt."""
    pattern = r"\\(?:le|leq|leqslant)(?![a-z])"
    return _replaced(pattern, draw.choice([r"\\le", r"\\leq", r"\\leqslant"]), gold) or _replaced(
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
    return braced if gold != braced else f"{found[0]}_{found[1]}" if found[1] < 10 else None
