"""The verdict on one answer, and the rule that grading is total: whatever goes wrong for one is its outcome `error`."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rewards.types import Outcome, Score

Verdict = tuple[Outcome, str]  # and its reason
P = ParamSpec("P")
T = TypeVar("T")

MAX_REASON = 200  # characters
_VALUES: dict[Outcome, float | None] = {"correct": 1.0, "timeout": None, "error": None}


def score(outcome: Outcome, extracted: str | None, reason: str) -> Score:
    """A Score with the value that its outcome stands for."""
    return Score(_VALUES.get(outcome, 0.0), extracted, outcome, reason)


def attempt(failed: Callable[[str], T], grade: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """What `grade` gives; where it raises, what `failed` makes of the exception's type and message."""
    try:
        return grade(*arguments, **keywords)
    except Exception as failure:  # the other broad except: an answer may make the mathematics raise anything
        return failed("".join(traceback.format_exception_only(failure)).strip()[:MAX_REASON])


def error(reason: str) -> Verdict:
    return "error", reason
