"""What a verifier and a set of rewards answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["correct", "wrong", "no_answer", "malformed", "timeout", "error"]

# Outcomes that say nothing about the policy: they are counted, and stay out of the group's baseline.
FAILURES: frozenset[Outcome] = frozenset({"timeout", "error"})


@dataclass(frozen=True, slots=True)
class Score:
    """One verdict. `value` is 1.0 if correct, None if it could not be graded, else 0.0.

    Example: Score(value=0.0, extracted="41", outcome="wrong", reason="41 is not 42")
    """

    value: float | None
    extracted: str | None
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Reward:
    """The weighted sum of a completion's rewards, and its parts. None: could not be scored.

    `parts` holds each reward's own value before its weight, None where it does not apply.

    Example: Reward(value=1.2, parts={"accuracy": 1.0, "format": 1.0}, score=Score(...))
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    score: Score | None = None  # of the accuracy-like reward, where there is one


class RewardError(ValueError):
    """A reward function broke its contract: it raised, or its values have the wrong number, type or are not finite."""
