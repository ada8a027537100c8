"""Countdown: an evaluator that executes nothing and takes each number exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewards.builtin.countdown import countdown, verify_countdown

CASES = [json.loads(line) for line in (Path(__file__).parents[2] / "cases" / "countdown.jsonl").open(encoding="utf-8")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["expression"][:40]))
def test_grades_as_the_table_says(case: dict) -> None:
    completion = f"<think>t</think><answer>{case['expression']}</answer>"
    score = verify_countdown(completion, case["numbers"], case["target"])
    assert score.outcome == case["outcome"], score.reason


def test_values_follow_the_rows() -> None:
    completions = ["<answer>1+2</answer>", "<answer>1+2</answer>", "1+2"]
    assert countdown(completions, numbers=[[1, 2], [1, 3], [1, 2]], target=[3, 4, 3]) == [1.0, 0.0, 0.0]


def test_only_what_follows_the_thinking_is_graded() -> None:
    assert verify_countdown("<think><answer>1+2</answer>", [1, 2], 3).outcome == "no_answer"
