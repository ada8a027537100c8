"""Which of reasoning-gym's generators can be trusted, and how an answer to each is graded.

    exact       one answer is right: it is compared as text (exact.py), and nothing is evaluated
    scorer      many are: its own scorer decides, in a worker (worker.py), and only its full mark counts
    countdown   an expression over given numbers: our own exact arithmetic
    refused     many answers are right, and its scorer does not tell them from wrong ones, or no gold answer is there

trust.json holds what `python -m benchmarks.puzzles --write` measured; docs/puzzles.md shows it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

How = Literal["exact", "scorer", "countdown", "refused"]
FILE = Path(__file__).with_name("trust.json")


@dataclass(frozen=True, slots=True)
class Trust:
    """What was measured of one generator.

    Example: Trust("exact", levels=11, golds=20, passed=20, near_misses=900, accepted=0, scorer_accepted=0,
    milliseconds=0.1, reason="")
    """

    graded: How
    levels: int  # of its own curriculum; 0: it has none
    golds: int  # gold answers asked
    passed: int  # of these, by our grading
    near_misses: int  # wrong answers asked
    accepted: int  # of these, by our grading
    scorer_accepted: int  # of these, that its own scorer gives its full mark
    milliseconds: float  # to make one puzzle
    reason: str = ""  # why it is refused


@functools.cache
def trusted() -> Mapping[str, Trust]:
    """Generator's name -> what was measured of it, of every one that there is."""
    return {name: Trust(**entry) for name, entry in _file()["generators"].items()}


def _file() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))
