r"""Near misses of a gold answer: a sign turned, two letters or digits exchanged, a digit changed.

A comparison that cannot tell a gold answer from these knows too little of it to be believed about any other.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

MOST = 12  # near misses of one text
_SIGN = re.compile(r"[-+]")
_DIGIT = re.compile(r"(?<![\d.])\d(?![\d.])|(?<=\d)\d(?!\d)")
_LETTER = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z](?![a-zA-Z])|(?<=\{)[a-zA-Z](?=[}_^=+-])")
_TURNED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq", "\\cup": "\\cap", "\\sin": "\\cos", "\\cos": "\\sin"}
_RELATION = re.compile("|".join(rf"{re.escape(one)}(?![a-zA-Z])" for one in _TURNED))


def near_misses(text: str) -> list[str]:
    """At most MOST of them, those of every kind first."""
    exchanges = _exchanged(text, _LETTER), _exchanged(text, _DIGIT)
    kinds = [_signs(text), exchanges[0], _digits(text), exchanges[1], _relations(text), _minus(text)]
    found: dict[str, None] = {}
    while kinds and len(found) < MOST:
        for kind in list(kinds):
            if (one := next(kind, None)) is None:
                kinds.remove(kind)
            elif one != text:
                found[one] = None
    return list(found)[:MOST]


def _signs(text: str) -> Iterator[str]:
    for sign in _SIGN.finditer(text):
        yield text[: sign.start()] + ("+" if sign[0] == "-" else "-") + text[sign.end() :]


def _exchanged(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Each two neighbours of a kind in each other's place."""
    places = list(pattern.finditer(text))
    for one, other in itertools.pairwise(places):
        if one[0] != other[0]:
            yield text[: one.start()] + other[0] + text[one.end() : other.start()] + one[0] + text[other.end() :]


def _digits(text: str) -> Iterator[str]:
    for digit in _DIGIT.finditer(text):
        yield text[: digit.start()] + str((int(digit[0]) + 1) % 10) + text[digit.end() :]


def _relations(text: str) -> Iterator[str]:
    for sign in _RELATION.finditer(text):
        yield text[: sign.start()] + _TURNED[sign[0]] + text[sign.end() :]


def _minus(text: str) -> Iterator[str]:
    if text[:1] not in "-+":
        yield f"-{text}"
