r"""Answers as text: one spelling for what means the same, and lists taken apart. No algebra here."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SPELLINGS = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\left": "", "\\right": "", "\\displaystyle": "",
    "\\le": "\\leq", "\\ge": "\\geq", "\\ne": "\\neq",
}  # fmt: skip
_SPELLING = re.compile("(?:" + "|".join(map(re.escape, _SPELLINGS)) + ")(?![a-zA-Z])")
_SYMBOLS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "\N{DIVISION SIGN}": r"\div ",
        "\N{MIDDLE DOT}": r"\cdot ",
        "\N{INFINITY}": r"\infty ",
        "\N{LESS-THAN OR EQUAL TO}": r"\leq ",
        "\N{GREATER-THAN OR EQUAL TO}": r"\geq ",
        "\N{UNION}": r"\cup ",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
        "\N{DEGREE SIGN}": r"^\circ",
        "\N{NO-BREAK SPACE}": " ",
        "~": " ",
    }
)
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|textit|operatorname)\s*\{([^{}]*)\}")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is matched with its backslash: it is no brace
_NAME = re.compile(r"\A((?:\\[a-zA-Z]+|[a-zA-Z])(?:_\{?\w+\}?)?'?(?:\([a-z]\))?) ?(?:=|\\in(?![a-zA-Z])) ?")
_SEPARATOR = re.compile(r"[,;]|and|or")
_TOKEN = re.compile(
    r"[,;=()\[\]{}]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\\(?:begin|end|cup|langle|rangle)(?![a-zA-Z])"
)
_OPENING, _CLOSING = {"(", "[", "{", "\\begin", "\\langle"}, {")", "]", "}", "\\end", "\\rangle"}


def tidy(text: str) -> str:
    r"""Drop delimiters and spacing that carry no meaning. Example: "$\left(\dfrac12,\, 3\right)$." -> "(\frac12,3)"."""
    text = text.translate(_SYMBOLS).strip().strip("*").rstrip(" .,;")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(text) >= len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)]
    text = text.replace("{,}", ",").replace(r"\$", "$").replace(r"\%", "%").replace("^{\\circ}", "^\\circ")
    if "\\" in text:
        text = re.sub(
            r"(?<!\\)\\[,!;: ]|\\q?quad(?![a-zA-Z])", lambda found: "" if found[0] in (r"\,", r"\!") else " ", text
        )
        text = _SPELLING.sub(lambda found: _SPELLINGS[found[0]], text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(" .,;")
    return re.sub(r" ?([,;(){}=<>|^_+*/-]) ?", r"\1", text)


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
    return ("", text) if any(depth < 0 for _, depth in _nesting(inner)) else (kind, inner)


def split_top(text: str, separator: str = "") -> list[str]:
    """Split where no bracket is open: at "=", "or" or "\\cup", or by default at what separates a list's elements."""
    elements, start = [], 0
    for token, depth in _nesting(text):
        if depth == 0 and (token[0] == separator if separator else _SEPARATOR.fullmatch(token[0])):
            elements.append(text[start : token.start()])
            start = token.end()
    return [*elements, text[start:]]


def _nesting(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Each bracket and separator, and how many brackets are open after it."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        yield token, depth
