r"""Characters: what an encoding or an input method did to a text, undone.

mended("\x0crac{1}{2}") == "\\frac{1}{2}"      a backslash that a JSON or Python string took for an escape
mended("\uff081\uff0c2\uff09") == "(1, 2)"       fullwidth forms, byte order marks, invisible signs
"""

from __future__ import annotations

import re
import unicodedata

# The control character that an escape makes -> its letter, and the rest of the commands that begin with it.
_ESCAPES = {
    "\x07": ("a", "lpha|ngle|pprox|rc(?:sin|cos|tan)|st|rray"),
    "\x08": ("b", "inom|egin|ar|eta|mod|oxed|f|ig|ullet|ecause|igcup"),
    "\x09": ("t", "ext|extbf|extrm|heta|imes|an|au|riangle|frac|o|ilde|herefore|binom|op"),
    "\x0a": ("n", "eq|abla|ot|otin|eg|earrow"),
    "\x0b": ("v", "ec|arphi|ee|ert|arnothing|dots|phantom"),
    "\x0c": ("f", "rac|box|orall|loor|lat"),
    "\x0d": ("r", "ight|ightarrow|ho|angle|ceil|floor|m|oot|vert"),
}
_ESCAPED = re.compile(
    "|".join(rf"{re.escape(control)}(?=(?:{rest})(?![a-z]))" for control, (_, rest) in _ESCAPES.items())
)
_INVISIBLE = re.compile("[\ufeff\u200b-\u200f\u202a-\u202e\u2060\u00ad]")
_PUNCTUATION = str.maketrans({
    "\N{IDEOGRAPHIC FULL STOP}": ". ", "\N{IDEOGRAPHIC COMMA}": ", ", "\N{FULLWIDTH COMMA}": ", ",
    "\N{FULLWIDTH SEMICOLON}": "; ", "\N{FULLWIDTH COLON}": ": ", "\N{IDEOGRAPHIC SPACE}": " ",
    "\N{LEFT BLACK LENTICULAR BRACKET}": "[", "\N{RIGHT BLACK LENTICULAR BRACKET}": "]",
})  # fmt: skip
_COMPATIBLE = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff\u2460-\u2473]")  # fullwidth, mathematical letters


def mended(text: str) -> str:
    """The text as it was meant."""
    if _ESCAPED.search(text):
        text = _ESCAPED.sub(lambda found: "\\" + _ESCAPES[found[0]][0], text)
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text).translate(_PUNCTUATION)
    return _COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
