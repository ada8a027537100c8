r"""Inequalities and unions as intervals: 1<x<2 is (1,2), x \neq 3 is (-\infty,3) and (3,\infty)."""

from __future__ import annotations

import itertools
import re

from rewards.verifier.latex import outside, split_list, split_name, split_top
from rewards.verifier.spelling import plain

RELATION = re.compile(r"<|>|\\(?:leq|geq|neq)(?![a-zA-Z])|(?<!:)=")
TURNED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq", "=": "=", r"\neq": r"\neq"}

_BUILDER = re.compile(r"\\\{(?:[a-z](?: ?\\in ?\\mathbb\{R\})?|\([a-z], ?[a-z]\)) ?[|:](.*)\\\}", re.DOTALL)
_HOLED = re.compile(r"(?:[a-z]|\\theta) ?\\neq ?(.+)|\\mathbb\{R\} ?(?:\\setminus|\\backslash|-) ?\\\{(.+)\\\}")
_MEMBER = re.compile(r"([a-zA-Z]|\\(?:alpha|beta|theta|lambda|mu|phi)) ?\\in(?![a-zA-Z])")
_VARIABLE = re.compile(r"[a-zA-Z](?:_\{?\w\}?|\(x\))?|\\(?:alpha|beta|theta|lambda|mu|phi)")


def intervals(text: str) -> list[str] | None:
    """A union's intervals, in bracket notation; inequalities turned into them. None if a part is neither."""
    text = split_name(plain(text))[1]
    if builder := _BUILDER.fullmatch(text):
        text = builder[1]
    parts = [part for piece in split_top(text, r"\cup") for part in split_top(piece, "or")]
    parts = [one for part in parts for one in _around(part.strip())]
    found = [_both_ends(part.strip()) for part in parts]
    return None if None in found else [one for one in found if one]


def _around(text: str) -> list[str]:
    """x \\neq 5, or \\mathbb{R}\\setminus\\{5\\}, is everything below 5 and above."""
    holed = _HOLED.fullmatch(text)
    if not holed:
        return [text]
    ends = ["-\\infty", *split_top(holed[1] or holed[2]), "\\infty"]
    return [f"({low},{high})" for low, high in itertools.pairwise(ends)]


def _both_ends(text: str) -> str | None:
    """x>1 and x<3 are one interval."""
    ends = [_interval(part.strip()) for part in split_top(text, "and")]
    if len(ends) != 2:
        return _interval(text)
    below = next((end for end in ends if end and end.startswith("(-\\infty,")), None)
    above = next((end for end in ends if end and end.endswith(",\\infty)")), None)
    return above[: -len("\\infty)")] + below[len("(-\\infty,") :] if above and below else None


def _interval(text: str) -> str | None:
    kind, ends = split_list(text)
    if (kind in ("()", "[)", "(]", "[]") and len(ends) == 2) or (kind == "{}" and len(ends) == 1):
        return text
    signs = [found[0] for found in outside(text, RELATION)]
    sides = [side.strip() for side in RELATION.split(text)]
    if signs == ["="] and _VARIABLE.fullmatch(sides[0]):
        return f"\\{{{sides[1]}\\}}"
    if len(signs) not in (1, 2) or len(sides) != len(signs) + 1 or any(sign in ("=", r"\neq") for sign in signs):
        return None
    if signs[0] in (">", r"\geq"):
        signs, sides = [TURNED[sign] for sign in reversed(signs)], sides[::-1]
    if any(sign in (">", r"\geq") for sign in signs):
        return None
    low, high = {"<": "(", r"\leq": "["}, {"<": ")", r"\leq": "]"}
    if len(signs) == 2:
        return f"{low[signs[0]]}{sides[0]},{sides[2]}{high[signs[1]]}" if _VARIABLE.fullmatch(sides[1]) else None
    if _VARIABLE.fullmatch(sides[0]):
        return f"(-\\infty,{sides[1]}{high[signs[0]]}"
    return f"{low[signs[0]]}{sides[0]},\\infty)" if _VARIABLE.fullmatch(sides[1]) else None


def variable(text: str) -> str:
    """The name that inequalities are about: "x" of 1<x<2; "" of (1,2), of a set's builder, and where there are two."""
    text = plain(text)
    if _BUILDER.fullmatch(text):
        return ""
    if name := _MEMBER.match(text):
        return name[1]
    parts = [part for piece in split_top(text, "or") for part in split_top(piece, "and")]
    sides = {side.strip() for part in parts if RELATION.search(part) for side in RELATION.split(part)}
    names = {side for side in sides if _VARIABLE.fullmatch(side)}
    return names.pop() if len(names) == 1 else ""
