r"""Answers as text: one spelling for what means the same, and lists taken apart. No algebra here."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator

_SPELLINGS = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\displaystyle": "", "\\limits": "",
    "\\left": "", "\\right": "", "\\big": "", "\\Big": "", "\\bigl": "", "\\bigr": "", "\\Bigl": "", "\\Bigr": "",
    "\\le": "\\leq", "\\ge": "\\geq", "\\ne": "\\neq", "\\leqslant": "\\leq", "\\geqslant": "\\geq", "\\lt": "<",
    "\\gt": ">", "\\lbrace": "\\{", "\\rbrace": "\\}", "\\vert": "|", "\\mid": "|", "\\ast": "*", "\\colon": ":",
    "\\degree": "^\\circ",
}  # fmt: skip
_SPELLING = re.compile("(?:" + "|".join(map(re.escape, _SPELLINGS)) + ")(?![a-zA-Z])")
_SYMBOLS = str.maketrans({
    "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": r"\times ", "\N{DIVISION SIGN}": r"\div ",
    "\N{MIDDLE DOT}": r"\cdot ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "∈": r"\in ",
    "\N{UNION}": r"\cup ", "∅": r"\emptyset ", "\N{DOUBLE-STRUCK CAPITAL R}": r"\mathbb{R}", "°": r"^\circ",
    "√": r"\sqrt ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "π": r"\pi ", "θ": r"\theta ",
    "\N{NO-BREAK SPACE}": " ", "~": " ",
})  # fmt: skip
_SPACE = re.compile(r"(?<!\\)\\(?:[,!;: ]|q?quad(?![a-zA-Z]))")
_CURRENCY = re.compile(r"[^$]*(?:\$ ?-?\d[^$]*)+")
_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]")
TEXT = "text|mbox|hbox|mathrm|textrm|textnormal|textup|textbf|textit|operatorname"  # commands whose argument is text
_TEXT = re.compile(rf"\\(?:{TEXT}|mathbf)\s*\{{([^{{}}]*)\}}")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is matched with its backslash: it is no brace
_NAME = re.compile(  # x, x_1, f(x), P(A), AB, \\angle ABC, \\text{area}, area
    r"\A(m?(?:\\angle ?)?(?:\\(?:text|mathrm|mathbf|overline|vec)\{[^{}=]*\}|\\[a-zA-Z]+|[A-Z]{1,4}|[a-z]|[A-Za-z]{4,}"
    r"(?: [a-z]+){0,3})(?:_(?:\{\w+\}|\w))?'?(?:\([A-Za-z](?:,[a-z])*\))?) ?(?:=|\\in(?![a-zA-Z])) ?"
)
_SEPARATOR = re.compile(r"[,;]|and|or")
_TOKEN = re.compile(
    r"[,;=()\[\]{}]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\\(?:begin|end|cup|langle|rangle)(?![a-zA-Z])"
)
_SPACED = re.compile(r", |;|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d])")
_BRACED = re.compile(r"(?:\\boxed|\\fbox)?\{(.*(?<!\\))\}", re.DOTALL)
_OPENING, _CLOSING = {"(", "[", "{", "\\begin", "\\langle"}, {")", "]", "}", "\\end", "\\rangle"}


def tidy(text: str) -> str:
    r"""Drop delimiters and spacing that carry no meaning. Example: "$\left(\dfrac12,\, 3\right)$." -> "(\frac12, 3)".

    The space after a comma stays: "1, 234" is a list.
    """
    text = _DELIMITER.sub("", text.translate(_SYMBOLS)).strip().strip("*`").strip().rstrip(" .,;")
    if not (text.count("$") == 1 or _CURRENCY.fullmatch(text)) or (text[:1] == text[-1:] == "$"):
        text = re.sub(r"(?<!\\)\$", "", text)
    text = text.replace("{,}", ",").replace(r"\$", "$").replace(r"\%", "%").replace("^{\\circ}", "^\\circ")
    if "\\" in text:
        text = _SPACE.sub(lambda space: "" if space[0] in (r"\,", r"\!") else " ", re.sub(r", ?\\! ?", ",", text))
        text = _SPELLING.sub(lambda found: _SPELLINGS[found[0]], text)
        text = re.sub(r"(\\(?:frac|sqrt|binom)) (?=[\d{\\\[])", r"\1", text)
        text = re.sub(r"\\frac(\d)(\d)(?!\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(" .,;")
    text = re.sub(r" ?([:;(){}=<>|^_+*/-]) ?", r"\1", text).replace(" ,", ",")
    while (braced := _BRACED.fullmatch(text)) and _encloses(braced[1]):
        text = braced[1].strip().rstrip(" .,;")
    return text


def _encloses(inner: str) -> bool:
    """Whether the brackets around this text belong to each other."""
    return all(depth >= 0 for _, depth in _nesting(inner))


def plain(text: str) -> str:
    r"""`text` with \text{...} and its like unwrapped. Example: "5\text{ cm}" -> "5 cm"."""
    return re.sub(r"\s+", " ", _TEXT.sub(r" \1 ", text)).strip() if "\\" in text else text


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
    return (name[1], text[name.end() :]) if name else ("", text)


def split_list(text: str) -> tuple[str, list[str]]:
    r"""The brackets around a list, and its elements.

    Example: "(1,2]" -> ("(]", ["1", "2"]); "\{1,2\}" -> ("{}", ["1", "2"]); "1 or 2" -> ("", ["1", "2"]);
    "1\pm x" -> ("", ["1+x", "1-x"]); "(x)" -> ("", ["x"]), for one element in parentheses is no list.
    """
    kind, inner = _brackets(text)
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
    return (kind, inner) if _encloses(inner) else ("", text)


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
