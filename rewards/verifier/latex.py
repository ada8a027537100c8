r"""The structure of an answer: brackets, lists, names. No algebra here."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator

BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is matched with its backslash: it is no brace
_NAME = re.compile(  # x, x_1, f(x), f(3), f^{-1}(x), P(A), AB, \\angle ABC, |S|, (x, y), \\text{area}, area
    r"\A(m?(?:\\angle ?)?(?:\\(?:text|mathrm|mathbf|overline|vec)\{[^{}=]*\}|\\[a-zA-Z]+|[A-Z]{1,4}|[a-z]|[A-Za-z]{4,}"
    r"(?: [a-z]+){0,3}|\|[A-Z]+\||\((?:[a-z]|\\[a-z]+)(?:, ?(?:[a-z]|\\[a-z]+))+\))(?:(?<=f)\^\{-1\})?"
    r"(?:_(?:\{[\w\\ ]+\}|\w))?'?(?:\((?:[A-Za-z]|\d+)(?:,[a-z])*\))?) ?(?:=|\\in(?![a-zA-Z])) ?"
)
_COORDINATES = ("x", "y", "z", "w", "t", "u", "v")
_DENYING = re.compile(r"(?i)(?<![a-z])(?:minus|negative|half|twice|double|not|no|wrong|neither|about)(?![a-z])")
_SEPARATOR = re.compile(r"[,;]|and|or")
_TOKEN = re.compile(
    r"[,;=()\[\]{}]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\\(?:begin|end|cup|langle|rangle)(?![a-zA-Z])"
)
_SPACED = re.compile(r", |;|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d])")
_OPENING, _CLOSING = {"(", "[", "{", "\\begin", "\\langle"}, {")", "]", "}", "\\end", "\\rangle"}


def encloses(inner: str) -> bool:
    """Whether the brackets around this text belong to each other."""
    return all(depth >= 0 for _, depth in _nesting(inner))


def balanced(text: str) -> bool:
    """Whether every brace closes one that is open."""
    depth = 0
    for brace in BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth < 0:
            return False
    return depth == 0


def depth(text: str) -> int:
    """How deep brackets of any kind nest."""
    return max((depth for _, depth in _nesting(text)), default=0)


def split_name(text: str) -> tuple[str, str]:
    r"""Example: "x=5" -> ("x", "5"); "x\in[0,1]" -> ("x", "[0,1]"); "5" -> ("", "5")."""
    name = _NAME.match(text)
    if (
        not name
        or _DENYING.search(name[1])
        or (name[1].startswith("(") and not _in_order(re.findall("[a-z]+", name[1])))
    ):
        return "", text  # (y,x)=(1,2)
    return name[1], text[name.end() :]


def _in_order(names: list[str]) -> bool:
    """Whether names stand in the alphabet's order, or in that of coordinates: x, y, z, t."""
    return names == sorted(names) or names == [name for name in _COORDINATES if name in names]


def split_list(text: str) -> tuple[str, list[str]]:
    r"""The brackets around a list, and its elements.

    Example: "(1,2]" -> ("(]", ["1", "2"]); "\{1,2\}" -> ("{}", ["1", "2"]); "1 or 2" -> ("", ["1", "2"]);
    "1\pm x" -> ("", ["1+x", "1-x"]); "(x)" -> ("", ["x"]), for one element in parentheses is no list.
    """
    kind, inner = _brackets(text)
    if kind == "()" and "\\pm" in inner:  # (\\pm 3, \\pm 2) are four pairs
        return "", _both_signs(text)
    elements = split_top(inner)
    if kind == "()" and len(elements) == 1:
        kind = ""
    if kind in ("", "{}"):
        elements = [one for element in elements for one in _both_signs(element)]
    return kind, [element.strip() for element in elements]


def _both_signs(text: str) -> list[str]:
    """What one to three \\pm stand for, each sign with each."""
    if not 1 <= text.count("\\pm") <= 3:
        return [text]
    return [one for sign in "+-" for one in _both_signs(re.sub(r"\\pm ?", sign, text, count=1))]


def _brackets(text: str) -> tuple[str, str]:
    """The brackets that enclose the whole text, and what they enclose. "(1,2),(3,4)" is enclosed by none."""
    if text.startswith("\\{") and text.endswith("\\}"):
        kind, inner = "{}", text[2:-2]
    elif text.startswith("\\langle") and text.endswith("\\rangle"):
        kind, inner = "()", text[len("\\langle") : -len("\\rangle")]
    elif len(text) > 1 and text[0] in "([" and text[-1] in ")]":
        kind, inner = text[0] + text[-1], text[1:-1]
    else:
        return "", text
    return (kind, inner) if encloses(inner) else ("", text)


def split_top(text: str, separator: str = "") -> list[str]:
    """Split where no bracket is open: at "=", "or" or "\\cup", or by default at what separates a list's elements.

    "1, 2, and 3" has three elements, "1,,2" as well.
    """
    elements, start = [], 0
    thousands = _thousands(text) if not separator else set()
    for token, depth in _nesting(text):
        splits = token[0] == separator if separator else _SEPARATOR.fullmatch(token[0])
        if depth == 0 and splits and token.start() not in thousands:
            element = text[start : token.start()]
            if separator or element.strip() or not token[0].isalpha():
                elements.append(element)
            start = token.end()
    return [*elements, text[start:]]


def outside(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The matches of `pattern` where no bracket is open."""
    found = list(pattern.finditer(text))
    if not found:
        return []
    tokens = [(token.start(), depth) for token, depth in _nesting(text)]
    places = [start for start, _ in tokens]
    return [one for one in found if not (i := bisect.bisect(places, one.start())) or not tokens[i - 1][1]]


def _thousands(text: str) -> set[int]:
    """Where commas group digits: in a list that separates its elements by more than a comma, as 1,000, 2,000 does."""
    if not _SPACED.search(text):
        return set()
    return {comma for found in _GROUPED.finditer(text) for comma in range(*found.span()) if text[comma] == ","}


def _nesting(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Each bracket and separator, and how many brackets are open after it."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        yield token, depth
