"""Whether the answer is right (the accuracy reward of DeepSeek-R1, arXiv 2501.12948, section 2.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.graded import Completion, Graded, text_of
from rewards.types import Score
from rewards.verifier.extract import STRICT, Place
from rewards.verifier.math import verify_all


@Graded
def accuracy(
    completions: Sequence[Completion],
    answer: Sequence[Any],
    read: Sequence[Place] = STRICT,
    question: Sequence[Any] | None = None,
    tolerance: Sequence[Any] | None = None,
    evaluated: bool = False,
    **columns: Any,
) -> list[Score]:
    """1.0 if the final answer equals the column `answer`, 0.0 if not, None if it could not be graded.

    `read` says where the answer may stand (rewards/verifier/extract.py). What the column `question` already says is no
    answer to it, unless the gold answer says the same; without that column, `problem` or TRL's `prompts` stand for it.
    `tolerance` is a column of what a number may differ by. `evaluated: true`: where the gold answer is a number, the
    answer must be one, and no 2^{10}.
    """
    asked = question or columns.get("problem") or columns.get("prompts") or [None] * len(completions)
    texts, questions = [text_of(text) for text in completions], [_question(one) for one in asked]
    return verify_all(texts, answer, read, questions, evaluated, tolerance)


def _question(prompt: Any) -> str | None:
    """The text of a question, or of a conversation's last message."""
    if prompt is None or isinstance(prompt, str):
        return prompt
    try:
        return text_of(prompt)
    except (AttributeError, KeyError, TypeError):
        return str(prompt)
