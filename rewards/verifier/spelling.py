r"""One spelling for what means the same, in text alone: Unicode signs, LaTeX's synonyms, spacing, wrappers.

    tidy("$\left(\dfrac12,\, 3\right)$.") == "(\frac{1}{2}, 3)"

Rules that could change a value have no place here.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from rewards.verifier.characters import mended
from rewards.verifier.latex import encloses

MAX_WRAPPERS = 20  # around an answer
TEXT = "text|mbox|hbox|mathrm|textrm|textnormal|textup|textbf|textit|operatorname"  # commands whose argument is text
_TEXT = re.compile(rf"\\(?:{TEXT}|mathbf)\s*\{{([^{{}}]*)\}}")

_GREEK = "alpha beta gamma delta epsilon theta lambda mu pi rho sigma tau phi psi omega"
_SYMBOLS = str.maketrans({
    "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": r"\times ", "\N{DIVISION SIGN}": r"\div ",
    "\N{MIDDLE DOT}": r"\cdot ", "\N{DOT OPERATOR}": r"\cdot ", "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-",
    "\N{EM DASH}": "-", "\N{DIVISION SLASH}": "/",
    "\N{FRACTION SLASH}": "/", "\N{UNION}": r"\cup ", "\N{NO-BREAK SPACE}": " ",
    "\N{DOUBLE-STRUCK CAPITAL R}": r"\mathbb{R}", "\N{DOUBLE-STRUCK CAPITAL Z}": r"\mathbb{Z}", "∞": r"\infty ",
    "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ",
    "√": r"\sqrt ", "±": r"\pm ", "∠": r"\angle ", "∴": " ", "✓": " ", "\N{PRIME}": "'", "\N{ASTERISK OPERATOR}": "*",
    "→": r"\rightarrow ", "⇒": r"\Rightarrow ", "~": " ",
    **{unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if n == 'lambda' else n.upper()}"): f"\\{n} "
       for n in _GREEK.split()},
    **{sign: f"\\frac{{{n}}}{{{d}}}" for sign, n, d in
       [("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅙", 1, 6), ("⅛", 1, 8)]},
})  # fmt: skip
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "₀₁₂₃₄₅₆₇₈₉"
_DIGITS = str.maketrans(_RAISED + _LOWERED, "0123456789-0123456789")

_COMMANDS = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "dbinom": "\\binom",
    "tbinom": "\\binom", "displaystyle": "", "limits": "", "left": "", "right": "",
    "big": "", "Big": "", "bigl": "", "bigr": "", "Bigl": "", "Bigr": "", "le": "\\leq", "ge": "\\geq", "ne": "\\neq",
    "leqslant": "\\leq", "geqslant": "\\geq", "lt": "<", "gt": ">", "lbrace": "\\{", "rbrace": "\\}", "vert": "|",
    "mid": "|", "ast": "*", "colon": ":", "degree": "^\\circ", "deg": "^\\circ", "bigcup": "\\cup", "lor": " or ",
    "land": " and ", "therefore": "", "checkmark": "", "middle": "", "implies": "\\Rightarrow",
}  # fmt: skip
_COMMAND = re.compile(r"\\(" + "|".join(_COMMANDS) + r")(?![a-zA-Z])")
_BASES = dict(zip(("two", "three", "four", "five", "six", "seven", "eight", "nine"), "23456789", strict=True))

_ANSWER_IS = (  # Answer: 42, **Final answer:** 42, => 42
    r"\A(?:=>?|[*_#>]{0,4} ?(?i:(?:(?:so|thus|therefore|hence|and),? )?(?:the |my )?(?:(?:final|correct) )?"
    r"(?:answer|ans|result)[*_]{0,2}(?: ?[:=]| is(?: ?[:=])?(?= |\Z|[^\w,])| (?=[\d$\\(\[{.+-]))"
    r"|(?:(?:最终)?答案|答)(?:[是为]|(?=:)):?) ?[*_]{0,2}) ?"
)

# In this order. A replacement is a text, or a function of the match.
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\A(?:\\(?:Rightarrow|rightarrow|to)(?![a-zA-Z]) ?)+", ""),
        (r"(?<!\\)\\[()\[\]]", " "),  # \( \) \[ \]
        (r"\{ ?\\(?:bf|it|rm|em)(?![a-z]) ?", "{"),
        (r"\\(?:color\{\w+\}|textcolor\{\w+\}(?=\{))", ""),
        (r"(?<=\d)(?:\{,\}|,? ?\\! ?|\\, ?)(?=\d{3}(?!\d))", ""),  # 1{,}000 and 1\,000: explicit groups of digits
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z]))", " "),
        (r"\\([$%])", r"\1"),
        (r"\^\{ ?\\circ ?\}", r"^\\circ"),
        (r"\^(?:\{ ?\\prime ?\}|\\prime)", "'"),
        (r"\{ ?([^{}]*?) ?\\over(?![a-zA-Z]) ?([^{}]*?) ?\}", r"\\frac{\1}{\2}"),
        (r"\{ ?([^{}]*?) ?\\choose(?![a-zA-Z]) ?([^{}]*?) ?\}", r"\\binom{\1}{\2}"),
        (r"\\(frac|sqrt|binom) (?=[\d{\\\[])", r"\\\1"),
        (r"\\frac(\d)(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"_\{?(?:\\text\{)?(" + "|".join(_BASES) + r")\}*", lambda found: f"_{_BASES[found[1]]}"),
        (r"\((\d+)\)(_\{?\d+\}?)", r"\1\2"),  # (1010)_2
        (r"\A([a-zA-Z]\([a-z]\)) ?\\equiv(?![a-zA-Z])", r"\1="),
        (r"(?<=[\w)}])\*\*(?=[\w({-])", "^"),  # x**2
        (r"(?<![\w\\])([a-zA-Z])! +=", r"(\1)!="),
        (r"(?<![\d!)}\]])(?<!\d )!=", r"\\neq "),  # 5!=120 and n! = 120 are no inequalities
        (r"<=", r"\\leq "),
        (r">=", r"\\geq "),
        (r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty"),
        (r"(?<=[)\]]) ?U ?(?=[(\[])", r"\\cup "),
        (r" ?per ?cent(?![a-z])", "%"),
        (r"\s+", " "),
        (r" ?([:;(){}=<>|^_+*/-]) ?", r"\1"),
        (r" ,", ","),
        (_ANSWER_IS, ""),
        (r"\A(?:negative|minus) ?(?=[\d\\(.])", "-"),
        (r"(?<=\d) ?([ap])\.?m\.?(?=\}?[ .]*\Z)", r" \1m"),  # o'clock
        (r"(?<=\d) ?([AP])\.?M\.?(?=\}?[ .]*\Z)", lambda found: f" {found[1].lower()}m"),
    )
)
_CURRENCY = re.compile(r"[^$]*(?:\$ ?-?\d[^$]*)+|[^$]*\d ?\$")  # $5, 5$
_BRACED = re.compile(
    r"(?:\\(?:boxed|fbox|boldsymbol|mathbf|bm))?\{(.*(?<!\\))\}|\*\*(.*)\*\*|\*(.*)\*|`(.*)`|\"(.*)\"|'(.*)'", re.DOTALL
)


@functools.lru_cache(maxsize=2048)  # an answer and its gold are looked at in several ways
def tidy(text: str) -> str:
    """The one spelling. The space after a comma stays: "1, 234" is a list."""
    text = _respelled(mended(text))
    for _ in range(MAX_WRAPPERS):
        if (inner := _unwrapped(text)) is None:
            break
        text = _respelled(inner)
    return text


def _respelled(text: str) -> str:
    text = re.sub(f"[{_RAISED}]+", lambda found: f"^{{{found[0].translate(_DIGITS)}}}", text)
    text = re.sub(f"[{_LOWERED}]+", lambda found: f"_{{{found[0].translate(_DIGITS)}}}", text)
    text = re.sub(r"(?<!\\)\\(?: |\Z)", " ", text)  # an explicit space, which may have been cut in two
    text = _COMMAND.sub(_replaced, _without_dollars(text.translate(_SYMBOLS)))
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text.strip())
    text = text.strip().rstrip(" ,;")
    return text if text.endswith("..") else text.rstrip(" .,;")


def _replaced(found: re.Match[str]) -> str:
    r"""What a command stands for. What is left out joins nothing: 4\therefore2 is not 42."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return _COMMANDS[found[1]] or (" " if (before + after).isalnum() and before and after else "")


def plain(text: str) -> str:
    r"""`text` with \text{...} and its like unwrapped. Example: "5\text{ cm}" -> "5 cm"."""
    return re.sub(r"\s+", " ", _TEXT.sub(r" \1 ", text)).strip() if "\\" in text else text


def _without_dollars(text: str) -> str:
    """Without the signs that only delimit mathematics. Dollars stand alone, or before numbers."""
    bare = re.sub(r"\\\$", "", text).strip().rstrip(" .,;")
    if _CURRENCY.fullmatch(bare) and not (len(bare) > 1 and bare[0] == bare[-1] == "$"):
        return text
    return re.sub(r"(?<!\\)\$", "", re.sub(r"(?<=\w)\$+(?=\w)", " ", text))  # $4$$2$ is not 42


def _unwrapped(text: str) -> str | None:
    """What is inside of braces, a box, bold or quotes around the whole; None if there are none."""
    found = _BRACED.fullmatch(text)
    inner = next((group for group in found.groups() if group is not None), None) if found else None
    return inner if inner is not None and encloses(inner) else None
