r"""The same mathematics in another LaTeX spelling."""

from __future__ import annotations

import re
from random import Random

from benchmarks import algebra, shapes
from benchmarks.changes import replaced, rewriting


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
    return replaced(r"\\[dtc]?frac(?![a-z])", rf"\\{name}", gold)


@rewriting
def frac_without_braces(gold: str, draw: Random) -> str | None:
    return replaced(r"\\frac ?\{(\d)\} ?\{(\d)\}", r"\\frac\1\2", gold)


@rewriting
def frac_with_braces(gold: str, draw: Random) -> str | None:
    return replaced(r"\\([dt]?)frac ?(\d) ?(\d)", r"\\\1frac{\2}{\3}", gold)


@rewriting
def sqrt_braces(gold: str, draw: Random) -> str | None:
    return replaced(r"\\sqrt ?\{(\d)\}", r"\\sqrt\1", gold) or replaced(r"\\sqrt ?(\d)", r"\\sqrt{\1}", gold)


@rewriting
def exponent_braces(gold: str, draw: Random) -> str | None:
    return replaced(r"\^(\d)(?!\d)", r"^{\1}", gold) or replaced(r"\^\{(\d)\}", r"^\1", gold)


@rewriting
def left_right(gold: str, draw: Random) -> str | None:
    if "\\left" in gold:
        return re.sub(r"\\(left|right) ?(?=[()\[\]])", "", gold) if "\\left." not in gold else None
    if "\\text" in gold or gold.count("(") + gold.count("[") != gold.count(")") + gold.count("]"):
        return None
    return replaced(r"(?<!\\)([()\[\]])", lambda m: f"\\{'left' if m[1] in '([' else 'right'}{m[1]}", gold)


def _is_plain(gold: str) -> bool:
    """Without text and spacing of its own; and no list such as "81, 256", which is a number without its space."""
    return not re.search(r"\\(?:text|mbox|mathrm|[ ,;:!])|\$|\\\\ ?\[|\d, ?\d{3}(?!\d)", gold)


@rewriting
def spaces_dropped(gold: str, draw: Random) -> str | None:
    return replaced(r" (?=[-+=(){}\[\],&\\])|(?<=[-+=(){}\[\],&]) ", "", gold) if _is_plain(gold) else None


@rewriting
def spaces_added(gold: str, draw: Random) -> str | None:
    if not _is_plain(gold) or shapes.number(gold) or (shapes.items(gold) is None and "," in gold):
        return None
    return replaced(r"(?<=[\w})]) ?([+=,]) ?", r"  \1  ", gold)


@rewriting
def thin_spaces(gold: str, draw: Random) -> str | None:
    if not _is_plain(gold) or shapes.number(gold) or (shapes.items(gold) is None and "," in gold):
        return None
    space = draw.choice([r"\,", r"\;", r"\ ", "~", r"\quad "])
    return replaced(r"(?<=[\w})]) ?([+=,]) ?", lambda m: f"{m[1]}{space}", gold)


@rewriting
def negative_space(gold: str, draw: Random) -> str | None:
    return replaced(r"(?<!\\)([(\[])", r"\\!\1", gold) if _is_plain(gold) and "\\left" not in gold else None


@rewriting
def unicode_signs(gold: str, draw: Random) -> str | None:
    signs = {"-": "\N{MINUS SIGN}", r"\infty": "\N{INFINITY}", r"\pi": "\N{GREEK SMALL LETTER PI}"}
    signs |= {r"^\circ": "\N{DEGREE SIGN}", r"\cup": "\N{UNION}"}
    if "\\text" in gold or "e-" in gold:
        return None
    pattern = "|".join(re.escape(sign) + ("(?![a-zA-Z])" if sign[-1].isalpha() else "") for sign in signs)
    return replaced(pattern, lambda m: signs[m[0]], gold)


@rewriting
def degree_sign(gold: str, draw: Random) -> str | None:
    return replaced(r"\^\\circ", r"^{\\circ}", gold) or replaced(r"\^\{\\circ\}", r"^\\circ", gold)


@rewriting
def explicit_product(gold: str, draw: Random) -> str | None:
    r"""2\sqrt{3} -> 2 \cdot \sqrt{3}."""
    if shapes.expression(gold) is None:
        return None
    changed = replaced(r"(?<=\d) ?(?=\\(?:sqrt|pi)|[a-z])", draw.choice([r" \\cdot ", r" \\times ", "*"]), gold)
    return changed if changed and algebra.reads_equal(changed, gold) else None


@rewriting
def plain_text(gold: str, draw: Random) -> str | None:
    """2\\sqrt{3} -> 2*sqrt(3), 5\\pi -> 5*pi."""
    if shapes.expression(gold) is None or "frac" in gold:
        return None
    changed = re.sub(r"(?<=[\w)]) ?(?=\\(?:sqrt|pi))", "*", gold)
    changed = replaced(r"\\sqrt ?\{([^{}]*)\}", r"sqrt(\1)", changed) or changed
    changed = re.sub(r"\\pi(?![a-z])", "pi", changed)
    return changed if changed != gold and "\\" not in changed and "{" not in changed else None


@rewriting
def unicode_root(gold: str, draw: Random) -> str | None:
    """2\\sqrt{3} -> 2\N{SQUARE ROOT}3, x^2 -> x\N{SUPERSCRIPT TWO}."""
    changed = replaced(r"\\sqrt ?\{(\d+)\}(?![\w\\])", "\N{SQUARE ROOT}\\1", gold)
    return changed or replaced(r"(?<=[a-z)])\^2(?!\d)", "\N{SUPERSCRIPT TWO}", gold)


@rewriting
def spaces_around(gold: str, draw: Random) -> str | None:
    before, after = draw.choice([("", "\\,"), ("\\; ", " \\;"), ("~", "~"), ("", "\\ "), ("\\quad ", ""), ("\n", "\n")])
    return None if "$" in gold else f"{before}{gold}{after}"


@rewriting
def font(gold: str, draw: Random) -> str | None:
    if not shapes.number(gold) and shapes.expression(gold) is None:
        return None
    names = ("\\boldsymbol{{{}}}", "\\mathbf{{{}}}", "{{\\bf {}}}", "\\textcolor{{red}}{{{}}}", "\\color{{blue}}{{{}}}")
    return draw.choice(names).format(gold)


@rewriting
def over(gold: str, draw: Random) -> str | None:
    """\\frac{1}{2} -> {1 \\over 2}."""
    return replaced(r"\\[dt]?frac ?\{([^{}]*)\} ?\{([^{}]*)\}", r"{\1 \\over \2}", gold)
