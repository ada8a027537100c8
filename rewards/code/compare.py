"""Whether what a program wrote is what its test expects.

Lines are compared without the blanks at their ends, and without blank lines at the end, as judges of contests do. Lines
that differ are compared word by word: words that are numbers are equal if their values are, 1.50 and 1.5, or lie within
the tolerance (LiveCodeBench compares so, without one).
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from itertools import zip_longest

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?")


def same_output(got: str, expected: str, tolerance: float = 0.0) -> bool:
    """Linear in the texts; `tolerance` is relative or absolute, whichever allows more."""
    pairs = zip_longest(_lines(got), _lines(expected))
    return all(a == b or (a is not None and b is not None and _same_line(a, b, tolerance)) for a, b in pairs)


def difference(got: str, expected: str) -> str:
    """The first line that differs, in words."""
    for number, (a, b) in enumerate(zip_longest(_lines(got), _lines(expected)), 1):
        if a != b:
            wrote = "nothing" if a is None else repr(a[:60])
            return f"line {number}: wrote {wrote}, expected {'nothing more' if b is None else repr(b[:60])}"
    return ""


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.strip().split("\n")]
    return [] if lines == [""] else lines


def _same_line(got: str, expected: str, tolerance: float) -> bool:
    ours, theirs = got.split(), expected.split()
    return len(ours) == len(theirs) and all(map(_same_word, ours, theirs, [tolerance] * len(ours)))


def _same_word(got: str, expected: str, tolerance: float) -> bool:
    if got == expected:
        return True
    if not (_NUMBER.fullmatch(got) and _NUMBER.fullmatch(expected)):
        return False
    if Decimal(got) == Decimal(expected):
        return True
    return bool(tolerance) and math.isclose(float(got), float(expected), rel_tol=tolerance, abs_tol=tolerance)
