"""Graded generations for tests of statistics."""

from __future__ import annotations

from typing import Any

from eval.types import Generation


def generation(problem: int | str = 0, sample: int = 0, value: float | None = 1.0, **changes: Any) -> Generation:
    """A right answer, 18; a wrong one, 9; or one that could not be graded."""
    outcome = {1.0: "correct", 0.0: "wrong", None: "timeout"}[value]
    record = {
        "benchmark": "gsm8k",
        "problem_id": f"gsm8k/test/{problem}",
        "sample": sample,
        "question": "What is 2 * 9?",
        "answer": "18",
        "completion": "...",
        "value": value,
        "outcome": outcome,
        "extracted": "18" if value else "9",
        "reason": "",
        "tokens": 100,
        "finish_reason": "stop",
    }
    return Generation(**{**record, **changes})


def failed(problem: int | str = 0, sample: int = 0, cause: str = "timeout", **changes: Any) -> Generation:
    """One that never came."""
    nothing = {"outcome": None, "extracted": None, "tokens": None, "finish_reason": None}
    return generation(problem, sample, None, completion="", failure=cause, **{**nothing, **changes})


def graded(*values: str, **changes: Any) -> list[Generation]:
    """One problem a word, one sample a letter: 1 right, 0 wrong, ? not graded, x failed. Example: graded("11", "10")"""
    return [
        failed(problem, sample, **changes)
        if letter == "x"
        else generation(problem, sample, {"1": 1.0, "0": 0.0, "?": None}[letter], **changes)
        for problem, letters in enumerate(values)
        for sample, letter in enumerate(letters)
    ]
