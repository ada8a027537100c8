r"""What a gold answer is, told by its text alone: a number with its unit, a list, an interval, a matrix, a word.

This is independent of the verifier's own reading, and refuses whatever is not plainly of one shape: a rewriting
of a refused gold is only one of spelling. Values are exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import sympy as sp

from benchmarks import algebra

_UNIT = r"(?:\\text|\\mbox|\\textrm|\\textnormal|\\mathrm) ?\{[a-zA-Z ./]*\}(?:\^\{?[23]\}?)?\.?"
_NUMBER = re.compile(
    r"(?P<before>\\?\$ ?)?(?P<sign>-?)"
    r"(?P<core>(?:(?P<whole>\d+) ?(?=\\))?\\[dtc]?frac ?(?:\{(?P<n>-?\d+)\}|(?P<n1>\d)) ?(?:\{(?P<d>\d+)\}|(?P<d1>\d))"
    r"|(?P<sn>\d+)/(?P<sd>\d+)"
    r"|(?P<mantissa>\d+(?:\.\d+)?)e(?P<exponent>[+-]?\d+)"
    r"|(?P<decimal>(?:\d{1,3}(?:(?:,|\{,\}|, ?\\! ?)\d{3})+|\d+)(?:\.\d+)?|\.\d+))"
    rf"(?P<after>(?:\\,|\\;|\\ |~| )* ?(?:\\?%|\^\\circ|\^\{{\\circ\}}|{_UNIT})?)"
)
_MATRIX = re.compile(r"\\begin\{(pmatrix|bmatrix)\}(.*?)\\end\{\1\}", re.DOTALL)
_BRACKETS = re.compile(r"\(|\)|\[|\]|\\\{|\\\}|\{|\}|\\begin|\\end")
_AND = re.compile(r" ?\\text ?\{ ?,? ?(?:and|or) ?\} ?")
_LETTERS = re.compile(r"\A\\text\{([A-Z](?:, ?[A-Z])+)\}\Z")
_SPACING = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;: ]|~|\s+")


@dataclass(frozen=True, slots=True)
class Number:
    r"""Example: "\$1,234.5" is Number(before="\$", core="1,234.5", after="", value=Fraction(2469, 2))."""

    before: str
    core: str  # without the sign
    after: str
    value: Fraction

    def with_value(self, core: str, negative: bool | None = None) -> str:
        """The same sign, currency and unit around another number."""
        negative = self.value < 0 if negative is None else negative
        return f"{self.before}{'-' if negative else ''}{core}{self.after}"

    @property
    def bare(self) -> str:
        """Without currency and unit."""
        return f"{'-' if self.value < 0 else ''}{self.core}"

    @property
    def is_bare(self) -> bool:
        return not (self.before or self.after)

    @property
    def is_scientific(self) -> bool:
        return "e" in self.core

    @property
    def is_fraction(self) -> bool:
        return "frac" in self.core or "/" in self.core

    @property
    def is_mixed(self) -> bool:
        return bool(re.match(r"\d+ ?\\", self.core)) and self.is_fraction

    @property
    def is_integer(self) -> bool:
        """Written with nothing but digits."""
        return self.core == str(abs(self.value))

    @property
    def digits(self) -> str | None:
        """Of an integer or a decimal, without separators: "1234.5"."""
        return None if self.is_fraction or self.is_scientific else re.sub(r"[^\d.]", "", self.core)

    @property
    def unit(self) -> str:
        r"""Example: "\text{ cm}^2" -> "cm^2"; "" if there is none."""
        found = re.search(r"\{([a-zA-Z ./]*)\}(?:\^\{?([23])\}?)?", self.after)
        if "circ" in self.after or "%" in self.after or not found:
            return "degrees" if "circ" in self.after else "percent" if "%" in self.after else ""
        return found[1].strip(" .") + (f"^{found[2]}" if found[2] else "")


@dataclass(frozen=True, slots=True)
class Items:
    r"""Example: "(1, \infty)" is Items("(", ("1", "\infty"), ")"); a bare list has no brackets."""

    opening: str
    elements: tuple[str, ...]
    closing: str

    @property
    def ordered(self) -> bool:
        return self.opening in ("(", "[")

    @property
    def interval(self) -> bool:
        """Plainly one: a pair of round brackets may be a point."""
        return self.ordered and len(self.elements) == 2 and ("[" in self.opening or "]" in self.closing or self._ends)

    @property
    def _ends(self) -> bool:
        return any(element in ("\\infty", "-\\infty", "+\\infty") for element in self.elements)

    def having(self, *elements: str) -> str:
        return str(replace(self, elements=elements))

    def __str__(self) -> str:
        return f"{self.opening}{', '.join(self.elements)}{self.closing}"


@dataclass(frozen=True, slots=True)
class Matrix:
    r"""Example: \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} is Matrix("pmatrix", (("1", "2"), ("3", "4")))."""

    name: str
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        body = r" \\ ".join(" & ".join(row) for row in self.rows)
        return f"\\begin{{{self.name}}} {body} \\end{{{self.name}}}"


@lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    if found["decimal"]:
        value = Fraction(re.sub(r"[^\d.]", "", found["decimal"]))
    elif found["mantissa"]:
        value = Fraction(found["mantissa"]) * Fraction(10) ** int(found["exponent"])
    else:
        denominator = int(found["d"] or found["d1"] or found["sd"])
        if denominator == 0 or (found["whole"] and found["n"] and found["n"].startswith("-")):
            return None
        value = int(found["whole"] or 0) + Fraction(int(found["n"] or found["n1"] or found["sn"]), denominator)
    negative = found["sign"] == "-"
    return Number(found["before"] or "", found["core"], found["after"], -value if negative else value)


@lru_cache(maxsize=4096)
def items(text: str) -> Items | None:
    """A list, a tuple, a set or an interval of at least two elements; a set may have one."""
    text = _LETTERS.sub(r"\1", _AND.sub(", ", text))
    text = _SPACING.sub(" ", text).strip() if "\\text" not in text else text
    if "\\begin" in text or "\\pm" in text or "=" in text or "\\cup" in text or _grouped(text):
        return None
    opening, closing = _enclosing(text)
    elements = tuple(part.strip() for part in split(text[len(opening) : len(text) - len(closing)], ","))
    if not all(elements) or (len(elements) == 1 and opening != "\\{") or any("\\text" in e for e in elements):
        return None
    return Items(opening, elements, closing)


def _grouped(text: str) -> bool:
    """Whether the commas may be thousands separators."""
    return bool(re.search(r"\d,\d{3}(?!\d)|\d\{,\}", re.sub(r"\\!| ", "", text))) and "(" not in text


def _enclosing(text: str) -> tuple[str, str]:
    """The brackets around the whole text. `(1,2),(3,4)` has none, nor has `(3)`, which is a number."""
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            depths = [0, *(depth for _, depth in _depths(inner))]
            if min(depths) == depths[-1] == 0 and (opening == "\\{" or len(split(inner, ",")) > 1):
                return opening, closing
    return "", ""


def _depths(text: str) -> list[tuple[re.Match[str], int]]:
    depth, found = 0, []
    for bracket in _BRACKETS.finditer(text):
        depth += 1 if bracket[0] in ("(", "[", "{", "\\{", "\\begin") else -1
        found.append((bracket, depth))
    return found


def split(text: str, separator: str) -> list[str]:
    """The parts between the separators that stand outside all brackets."""
    parts, start = [], 0
    brackets = _depths(text)
    for found in re.finditer(re.escape(separator), text):
        depth = next((depth for bracket, depth in reversed(brackets) if bracket.end() <= found.start()), 0)
        if depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def terms(text: str) -> list[str]:
    """The terms of a sum, each with its sign. Example: "x^2 - 2x+1" -> ["x^2", "- 2x", "+1"]."""
    parts, depth = [""], 0
    for before, letter in zip(" " + text, text, strict=False):
        depth += (letter in "({") - (letter in ")}")
        if letter in "+-" and depth == 0 and before != "^":
            parts.append("")
        parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


@lru_cache(maxsize=4096)
def matrix(text: str) -> Matrix | None:
    found = _MATRIX.fullmatch(text.rstrip("."))
    if not found or "\\begin" in found[2] or "\\text" in found[2]:
        return None
    rows = tuple(tuple(entry.strip() for entry in row.split("&")) for row in found[2].strip().split("\\\\"))
    if len({len(row) for row in rows}) != 1 or not all(entry for row in rows for entry in row):
        return None
    return Matrix(found[1], rows)


_WORD = re.compile(r"(?:\\text|\\mbox|\\textbf|\\mathrm) ?\{([A-Z]?[a-z]{2,}(?: [a-z]{2,})*)\}")
_CHOICE = re.compile(r"(?:\\text|\\textbf|\\mathbf|\\mbox) ?\{\(?([A-H])\)?\}|\(([A-H])\)|([A-H])")
_BASED = re.compile(r"(\d+)_\{?(\d+)\}?")
_NAMED = re.compile(r"([a-z]|[a-z]\([a-z]\)) ?= ?(.+)")


def word(text: str) -> str | None:
    r"""Example: "\text{Wednesday}" -> "Wednesday"."""
    found = _WORD.fullmatch(text)
    return found[1] if found else None


def choice(text: str) -> str | None:
    r"""Example: "\text{(E)}" -> "E"."""
    found = _CHOICE.fullmatch(text)
    return (found[1] or found[2] or found[3]) if found else None


def based(text: str) -> tuple[str, int] | None:
    """Example: "1202_3" -> ("1202", 3)."""
    found = _BASED.fullmatch(text)
    return (found[1], int(found[2])) if found else None


def named(text: str) -> tuple[str, str] | None:
    """Example: "y = 2x+3" -> ("y", "2x+3"). The name does not occur again, and nothing else is related to it."""
    found = _NAMED.fullmatch(text)
    if not found or re.search(r"[=<>,]|\\(?:text|in|le|ge|neq?|pm|approx)(?![a-z])", found[2]):
        return None
    body = found[2].strip()
    value = algebra.read(body)
    letters = {str(letter) for letter in value.free_symbols} if value is not None else set(body)
    return None if found[1][0] in letters else (found[1], body)


def equation(text: str) -> tuple[sp.Expr, sp.Expr] | None:
    """The two sides of an equation that does not just name a value."""
    left, equals, right = text.partition("=")
    if not equals or named(text):
        return None
    sides = algebra.read(left), algebra.read(right)
    return (sides[0], sides[1]) if sides[0] is not None and sides[1] is not None else None


def union(text: str) -> list[Items] | None:
    r"""Example: "(0,1) \cup [2,3)" -> its two intervals."""
    if "\\cup" not in text:
        return None
    parts = [items(part.strip()) for part in _SPACING.sub(" ", text).split("\\cup")]
    return [part for part in parts if part] if all(part and part.opening in ("(", "[") for part in parts) else None


@lru_cache(maxsize=4096)
def expression(text: str) -> sp.Expr | None:
    """The value of an expression that is no plain number; None if it is not one that is surely read."""
    if number(text) or choice(text):
        return None
    value = algebra.read(text)
    return value if value is None or not value.is_Rational else None


def same(left: str, right: str) -> bool | None:
    """Whether two elements have one value; None if it is not sure."""
    first, second = number(left), number(right)
    if first and second:
        return first.value == second.value if first.after == second.after else None
    if left == right or (choice(left) and choice(right)):
        return left == right
    pair, other = items(left), items(right)
    if pair and other:
        return _same_items(pair, other)
    a, b = algebra.read(left), algebra.read(right)
    if a is not None and b is not None:
        return algebra.equal(a, b)
    if "\\infty" in (left.lstrip("+-"), right.lstrip("+-")) and (a is not None or b is not None):
        return False
    return None if "\\infty" not in left + right else left.lstrip("+") == right.lstrip("+")


def _same_items(left: Items, right: Items) -> bool | None:
    if not left.ordered or (left.opening, left.closing) != (right.opening, right.closing):
        return None
    if len(left.elements) != len(right.elements):
        return False
    verdicts = [same(a, b) for a, b in zip(left.elements, right.elements, strict=True)]
    return False if False in verdicts else None if None in verdicts else True
