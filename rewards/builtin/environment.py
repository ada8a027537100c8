"""The score that the task's environment gave the episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.graded import Completion, Graded
from rewards.types import Score


@Graded
def environment(
    completions: Sequence[Completion], episode: Sequence[Mapping[str, Any] | None], **columns: Any
) -> list[Score]:
    """The environment's own score of each episode; 1.0 and more count as success.

    Raises ValueError where there is none: of an environment without the method `score`, or that returns None.
    """
    return [_score(one) for one in episode]


def _score(episode: Mapping[str, Any] | None) -> Score:
    score = episode and episode["score"]
    if not score:
        raise ValueError(
            "the environment gave no score: have its method `score` return a number, or use a reward that reads the "
            "last reply, such as accuracy"
        )
    return Score(**score)
