"""What a verifier and a set of rewards answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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

    `parts` holds each reward's own value before its weight, None where it does not apply; `extra` what rewards
    logged about this completion with TRL's `log_extra`, as {"accuracy_reward/gold_parsed": "[42]"}.

    Example: Reward(value=1.2, parts={"accuracy": 1.0, "format": 1.0}, score=Score(...))
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    score: Score | None = None  # of a reward that failed, else of the accuracy-like one, where there is one
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainerState:
    """How far training is, for rewards that ask for `trainer_state`; names and meaning are those of transformers.

    Example: TrainerState(global_step=4, max_steps=100, epoch=0.5)
    """

    global_step: int  # optimizer steps that the completions' own step comes after
    max_steps: int
    epoch: float


Fault = Literal["raises", "wrong-type", "wrong-length", "not-finite"]


class RewardError(ValueError):
    """A reward function broke its contract: it raised, or its values have the wrong number, type or are not finite.

    `problem` says which of these, where a call did; None where the function could not be loaded or called at all.
    """

    def __init__(self, message: str, problem: Fault | None = None):
        super().__init__(message)
        self.problem = problem
