"""Rewards of length, in tokens that the model wrote.

Soft over-long punishment (DAPO, arXiv 2503.14476, equation 13):

    0                                            up to max_length - buffer
    (max_length - buffer - length) / buffer      up to max_length
    -1                                           above

Cosine length scaling (Yeo et al., arXiv 2502.03373, section 4.2), between the values at length 0 and at max_length:

    long + (short - long) * (1 + cos(pi * length / max_length)) / 2      below max_length
    exceeded                                                             from max_length on

with short, long = correct_short, correct_long if the answer is correct, else wrong_short, wrong_long. As in the paper,
reaching max_length counts as exceeding it, whatever the answer: such a completion was cut off. open-r1's version has
no such case, and its cosine rises again above max_length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rewards.graded import Completion, Graded, text_of
from rewards.types import Score
from rewards.verifier.extract import STRICT, Source
from rewards.verifier.math import verify_all


def soft_overlong(completion_ids: Sequence[Sequence[int]], max_length: int, buffer: int, **columns: Any) -> list[float]:
    """From 0.0 to -1.0 over the last `buffer` tokens before `max_length`. A buffer of 0 leaves the step alone.

    max_length is best the recipe's rollout.max_tokens. Raises ValueError unless 0 <= buffer <= max_length >= 1.
    """
    _check_max_length(max_length)
    if not (isinstance(buffer, int) and 0 <= buffer <= max_length):
        raise ValueError(f"buffer: got {buffer!r}, expected a number of tokens from 0 to max_length, {max_length}")
    return [_punishment(len(ids), max_length, buffer) for ids in completion_ids]


def _punishment(length: int, max_length: int, buffer: int) -> float:
    if length <= max_length - buffer:
        return 0.0
    return (max_length - buffer - length) / buffer if length <= max_length else -1.0


@Graded
def cosine_length(
    completions: Sequence[Completion],
    answer: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    max_length: int,
    correct_short: float = 1.0,
    correct_long: float = 0.5,
    wrong_short: float = -1.0,
    wrong_long: float = -0.5,
    exceeded: float = -1.0,
    read: Sequence[Source] = STRICT,
    **columns: Any,
) -> list[Score]:
    """Accuracy scaled by length: short correct answers earn most, short wrong ones least; None if it failed.

    The defaults are open-r1's; the paper's are 2, 1, -10, 0 and -10. `read`: where the answer may stand.
    Raises ValueError if max_length is below 1, a value is not finite, or a wrong one is not below the correct ones.
    """
    _check_max_length(max_length)
    _check_values((correct_short, correct_long), (wrong_short, wrong_long, exceeded))
    ends = {True: (correct_short, correct_long), False: (wrong_short, wrong_long)}
    scores = verify_all([text_of(text) for text in completions], [str(gold) for gold in answer], read=read)
    return [
        _rescored(score, len(ids), max_length, ends[score.outcome == "correct"], exceeded)
        for score, ids in zip(scores, completion_ids, strict=True)
    ]


def _rescored(score: Score, length: int, max_length: int, ends: tuple[float, float], exceeded: float) -> Score:
    if score.value is None:
        return score
    return replace(score, value=exceeded if length >= max_length else _cosine(length / max_length, *ends))


def _cosine(progress: float, short: float, long: float) -> float:
    return long + (short - long) * (1 + math.cos(math.pi * progress)) / 2


def _check_max_length(max_length: int) -> None:
    if not (isinstance(max_length, int) and max_length >= 1):
        raise ValueError(f"max_length: got {max_length!r}, expected a number of tokens, at least 1")


def _check_values(correct: tuple[float, ...], wrong: tuple[float, ...]) -> None:
    finite = all(isinstance(value, int | float) and math.isfinite(value) for value in correct + wrong)
    if not finite or max(wrong) >= min(correct):
        raise ValueError(
            f"got wrong_short, wrong_long, exceeded = {wrong} and correct_short, correct_long = {correct}, expected "
            "finite numbers, those of wrong answers below those of correct ones"
        )
