"""A penalty for repeated n-grams (Yeo et al., arXiv 2502.03373, appendix C.2):

    max_penalty * (1 - distinct n-grams / n-grams)

The paper subtracts it token by token; here it is one value for the completion, as in open-r1 and TRL. Those count the
words between blanks (open-r1) or the model's tokens (TRL). Here it is words, but text that has no blanks does not
escape: a character of a script that is written without them is a word of its own, and so is every character of a
run of more than MAX_WORD (333333...).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from rewards.graded import Completion, text_of

MAX_WORD = 100  # characters; formulas without blanks stay under it

# Thai, Lao; Myanmar; Khmer; kana and the ideographs, with their extensions and halfwidth forms.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED += "\uff66-\uff9f\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def repetition_penalty(
    completions: Sequence[Completion], n: int = 3, max_penalty: float = -1.0, **columns: Any
) -> list[float]:
    """From 0.0 (no n-gram of words comes twice, or there are fewer than n words) towards `max_penalty`.

    Capitals do not matter. Raises ValueError if n is below 1, or max_penalty is positive or not finite.
    """
    if not (isinstance(n, int) and n >= 1):
        raise ValueError(f"n: got {n!r}, expected a whole number of words, at least 1")
    if not (isinstance(max_penalty, int | float) and -math.inf < max_penalty <= 0):
        raise ValueError(f"max_penalty: got {max_penalty!r}, expected a finite number that is not positive")
    return [
        max_penalty * share if (share := _repeated_share(_words(text_of(text)), n)) else 0.0 for text in completions
    ]


def _words(text: str) -> list[str]:
    runs = _WORD.findall(text.lower())
    return [word for run in runs for word in (run if len(run) > MAX_WORD else [run])]


def _repeated_share(words: Sequence[str], n: int) -> float:
    total = len(words) - n + 1
    if total < 1:
        return 0.0
    return 1 - len(set(zip(*(words[i:] for i in range(n)), strict=False))) / total
