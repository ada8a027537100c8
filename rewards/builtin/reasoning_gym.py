"""Whether the answer to a puzzle of the reasoning-gym package is right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from rewards.graded import Completion, Graded, text_of
from rewards.puzzles.grading import verdict
from rewards.types import Score
from rewards.verifier.extract import STRICT, Place, graded


@Graded
def reasoning_gym(
    completions: Sequence[Completion],
    answer: Sequence[Any],
    metadata: Sequence[Any],
    read: Sequence[Place] = STRICT,
    **columns: Any,
) -> list[Score]:
    """1.0 if the puzzle's answer is right, 0.0 if not, None if it could not be graded (rewards/puzzles/grading.py).

    answer: the gold one, "" or None where the generator gives none. metadata: what the generator says about the
    puzzle, as an object or as JSON. `read`: where the answer may stand (rewards/verifier/extract.py).
    """
    rows = zip(completions, answer, metadata, strict=True)
    return [
        graded(text_of(text), read, partial(verdict, "" if gold is None else str(gold), about))
        for text, gold, about in rows
    ]
