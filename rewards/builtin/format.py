r"""Whether a completion has R1-Zero's shape, `<think>...</think> <answer>...</answer>` (arXiv 2501.12948, table 1).

The text is what the template opened plus what the model wrote: where the prompt ends in `<think>`, it begins so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rewards.graded import Completion, text_of

_SHAPE = re.compile(r"\A\s*<think>(?P<thinking>.*)</think>\s*<answer>(?P<answer>.*)</answer>\s*\Z", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """1.0 if the whole text has the shape, each tag once, thinking and answer not blank, else 0.0.

    Only whitespace may stand before, between and after the two parts.
    """
    return [1.0 if _strict(text_of(text)) else 0.0 for text in completions]


def format_graded(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Partial credit: a quarter for each of these, and 1.0 exactly where `format` gives it.

    Opens with the only `<think>`; closes it once, after some thinking; the only `<answer>` follows at once;
    and its only `</answer>`, after some answer, ends the text. Each counts only if those before it hold.
    """
    return [_steps(text_of(text)) / 4 for text in completions]


def _strict(text: str) -> bool:
    if any(text.count(tag) != 1 for tag in _TAGS):  # also keeps the pattern linear
        return False
    shape = _SHAPE.match(text)
    return bool(shape and shape["thinking"].strip() and shape["answer"].strip())


def _steps(text: str) -> int:
    before, opened, rest = text.partition("<think>")
    thinking, closed, rest = rest.partition("</think>")
    between, answers, rest = rest.partition("<answer>")
    answer, ended, after = rest.partition("</answer>")
    steps = (
        opened and not before.strip() and text.count("<think>") == 1,
        closed and thinking.strip() and text.count("</think>") == 1,
        answers and not between.strip() and text.count("<answer>") == 1,
        ended and answer.strip() and not after.strip() and text.count("</answer>") == 1,
    )
    return next((number for number, holds in enumerate(steps) if not holds), len(steps))
