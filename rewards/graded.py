"""Rewards that are verdicts: the value for training and the Score for the log come from one grading."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.types import Score

Message = Mapping[str, Any]
Completion = str | Sequence[Message]  # text (what the template opened included), or the messages of a chat


class Graded:
    """A reward in TRL's signature whose values are those of its Scores: 1.0, 0.0, or None if it could not be graded."""

    def __init__(self, scores: Callable[..., list[Score]]):
        self.scores = scores
        functools.update_wrapper(self, scores)

    def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]:
        return [score.value for score in self.scores(*args, **kwargs)]


def text_of(completion: Completion) -> str:
    """The completion's text; of a chat, the content of its last message."""
    if isinstance(completion, str):
        return completion
    if completion is None:
        return ""
    return str(completion[-1].get("content") or "") if completion else ""
