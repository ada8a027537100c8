"""Multiple choice: a table of answers, gold answers and choices, and the column forms that data sets have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewards import RewardSettings, RewardSum, grader
from rewards.builtin.choice import multiple_choice, verify_choice
from rewards.types import FAILURES

CASES = [json.loads(line) for line in (Path(__file__).parents[2] / "cases" / "choice.jsonl").open(encoding="utf-8")]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['answer'][:20]!r}-{case['gold']!r}-{len(case.get('choices', []))}"
)
def test_grades_as_the_table_says(case: dict) -> None:
    score = verify_choice(f"<think>t</think><answer>{case['answer']}</answer>", case["gold"], case.get("choices"))
    assert score.outcome == case["outcome"], score.reason
    assert score.value == {"correct": 1.0, "error": None}.get(case["outcome"], 0.0)


def test_each_row_has_its_own_choices_or_none() -> None:
    completions = ["\\boxed{Paris}", "\\boxed{A}", [{"role": "assistant", "content": "\\boxed{(A)}"}]]
    choices = [["Rome", "Paris"], ["Rome", "Paris"], None]
    assert multiple_choice(completions, answer=[1, 1, "A"], choices=choices) == [1.0, 0.0, 1.0]


def test_letters_in_the_thinking_and_letters_that_differ_earn_nothing() -> None:
    assert verify_choice("<think><answer>B</answer>", "B").outcome == "no_answer"
    assert verify_choice("<answer>A</answer> <answer>B</answer>", "B").outcome == "malformed"
    assert verify_choice("B", "B").outcome == "no_answer"
    assert verify_choice("The answer is (B).", "B", read=("phrase",)).outcome == "correct"


def test_a_gold_answer_that_names_no_choice_is_a_failure_and_no_zero() -> None:
    rewards = RewardSum([RewardSettings(name="multiple_choice"), RewardSettings(name="format")])
    (reward,) = rewards.score(["<think>t</think><answer>B</answer>"], {"answer": ["E"], "choices": [["x", "y"]]})
    assert reward.value is None
    assert reward.score is not None
    assert reward.score.outcome in FAILURES
    assert reward.score.reason == "the gold answer 'E' names no option of ['x', 'y']"


def test_a_recipe_and_an_evaluation_find_it_by_name() -> None:
    rewards = RewardSum([RewardSettings(name="multiple_choice", args={"read": ["boxed"]})])
    assert [r.value for r in rewards.score(["\\boxed{B}", "\\boxed{A}"], {"answer": ["B", "B"]})] == [1.0, 0.0]
    assert grader("multiple_choice")("<answer>b</answer>", {"answer": 1, "choices": ["x", "y"]}).outcome == "correct"


@pytest.mark.parametrize("unit", ["(", "B) ", "B or ", "A,", "x ", "**", "\\text{", "B)B)", "a"])
def test_a_megabyte_gets_a_verdict(unit: str) -> None:
    answer = unit * (1_000_000 // len(unit))
    assert verify_choice(f"<answer>{answer}</answer>", "B", ["x", "y"]).outcome == "malformed"
    assert verify_choice(answer, "B", ["x", "y"]).outcome == "no_answer"
    assert verify_choice(f"{answer}</think>\\boxed{{B}}", "B", ["x", "y"]).outcome == "correct"
