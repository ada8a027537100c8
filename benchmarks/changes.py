"""The register of changes to a gold answer: rewritings, which must pass, and near misses, which must fail.

A change is one function `(gold, draw) -> answer | None`, None where it does not apply or its label would not be sure.
Its name is the kind that the confusion matrix shows. None of them asks the verifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

Change = Callable[[str, Random], str | None]

REWRITINGS: dict[str, Change] = {}
NEAR_MISSES: dict[str, Change] = {}
UNEVALUATED: dict[str, Change] = {}  # right in value, refused by the policy: reported apart


def rewriting(change: Change) -> Change:
    REWRITINGS[change.__name__] = change
    return change


def near_miss(change: Change) -> Change:
    NEAR_MISSES[change.__name__] = change
    return change


def unevaluated(change: Change) -> Change:
    UNEVALUATED[change.__name__] = change
    return change


def replaced(pattern: str, new: str | Callable[[re.Match[str]], str], text: str) -> str | None:
    """`re.sub`, or None if nothing changed."""
    changed = re.sub(pattern, new, text)
    return changed if changed != text else None
