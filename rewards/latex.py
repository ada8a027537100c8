r"""Answers as text: one spelling for what means the same, and lists taken apart. No algebra here."""

from __future__ import annotations

import re

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
_SEPARATOR = re.compile(r"[,;]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")


def tidy(text: str) -> str:
    r"""Drop delimiters and spacing that carry no meaning. Example: "$\left(\dfrac12,\, 3\right)$." -> "(\frac12,3)"."""
    text = text.translate(_SYMBOLS).strip().strip("*").rstrip(" .,;")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(text) >= len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)]
    text = text.replace("{,}", ",").replace(r"\$", "$").replace(r"\%", "%").replace("^{\\circ}", "^\\circ")
    if "\\" in text:
        text = re.sub(r"\\[,!;: ]|\\q?quad(?![a-zA-Z])", lambda found: "" if found[0] in (r"\,", r"\!") else " ", text)
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


def split_name(text: str) -> tuple[str, str]:
    r"""Example: "x=5" -> ("x", "5"); "x\in[0,1]" -> ("x", "[0,1]"); "5" -> ("", "5")."""
    name = _NAME.match(text)
    return (name[1], text[name.end() :]) if name else ("", text)


def split_list(text: str) -> tuple[str, list[str]]:
    r"""The brackets around a list, and its elements.

    Example: "(1,2]" -> ("(]", ["1", "2"]); "\{1,2\}" -> ("{}", ["1", "2"]); "1 or 2" -> ("", ["1", "2"]);
    "(x)" -> ("", ["x"]), for one element in parentheses is no list.
    """
    kind, inner = _brackets(text)
    elements = [element.strip() for element in _split(inner)]
    if len(elements) == 1 and kind == "()":
        return split_list(elements[0]) if elements[0] else ("()", [""])
    return (kind, elements) if kind else ("", [element.strip() for element in _split(text)])


def _brackets(text: str) -> tuple[str, str]:
    if text.startswith("\\{") and text.endswith("\\}"):
        inner, kind = text[2:-2], "{}"
    elif len(text) > 1 and text[0] in "([" and text[-1] in ")]":
        inner, kind = text[1:-1], text[0] + text[-1]
    else:
        return "", text
    depth = 0
    for character in inner:  # "(1,2),(3,4)" begins and ends with a bracket, and neither encloses it
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return "", text
    return kind, inner


def _split(text: str) -> list[str]:
    if "\\begin" in text:
        return [text]
    depths, depth = [], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        depths.append(depth)
    elements, start = [], 0
    for separator in _SEPARATOR.finditer(text):
        if depths[separator.start()] == 0:
            elements.append(text[start : separator.start()])
            start = separator.end()
    return [*elements, text[start:]]
