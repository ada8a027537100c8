"""Numbers within an exact tolerance."""

from __future__ import annotations

import pytest

from rewards import RewardError, RewardSettings, RewardSum, grader
from rewards.builtin.number import number

CASES = [
    # answer, gold, tolerances, outcome; without a tolerance as `accuracy`
    ("5", "5", {}, "correct"),
    ("5.0", "5", {}, "correct"),
    ("$5", "5", {}, "correct"),
    ("1,200", "1200", {}, "correct"),
    ("3/4", 0.75, {}, "correct"),
    ("\\frac{3}{4}", "0.75", {}, "correct"),
    ("1e-7", 1e-07, {}, "correct"),
    ("50%", "0.5", {}, "correct"),
    ("6", "5", {}, "wrong"),
    ("0.333", "1/3", {}, "wrong"),
    ("3 m", "3 cm", {}, "wrong"),
    ("1" + "0" * 30, "1" + "0" * 29 + "1", {}, "wrong"),
    # |1.01 - 1| = 0.01, the bound itself; in floats it is 0.010000000000000009
    ("1.01", "1", {"abs_tol": 0.01}, "correct"),
    ("0.99", "1", {"abs_tol": 0.01}, "correct"),
    ("1.010000000000000000001", "1", {"abs_tol": 0.01}, "wrong"),
    # 1% of 100 is 1
    ("101", "100", {"rel_tol": 0.01}, "correct"),
    ("99", "100", {"rel_tol": "0.01"}, "correct"),
    ("98.9", "100", {"rel_tol": 0.01}, "wrong"),
    # of the gold alone: 5% of 100 is 5; of the answer, as math.isclose has it, it would be 5.25
    ("105.2", "100", {"rel_tol": 0.05}, "wrong"),
    # |2.998e8 - 299792458| = 7542; 1e-4 of 299792458 is 29979.2458, 1e-5 is 2997.92458
    ("2.998 \\times 10^8", "299792458", {"rel_tol": "1e-4"}, "correct"),
    ("2.998 \\times 10^8", "299792458", {"rel_tol": "1e-5"}, "wrong"),
    # the larger of both counts: max(0.1 * 2, 1) = 1
    ("3", "2", {"rel_tol": 0.1, "abs_tol": 1}, "correct"),
    ("3.1", "2", {"rel_tol": 0.1, "abs_tol": 1}, "wrong"),
    ("0.001", "0", {"rel_tol": 0.5}, "wrong"),
    ("-5", "5", {"rel_tol": 0.5}, "wrong"),
    # units hold within a tolerance, too
    ("3.1 cm", "3 cm", {"abs_tol": "0.1"}, "correct"),
    ("3.1", "3 cm", {"abs_tol": "0.1"}, "correct"),
    ("3.1 kg", "3 cm", {"abs_tol": "0.1"}, "wrong"),
    # 49% is 0.49, within 0.05 * 0.5 = 0.025 of 0.5; 47% is not
    ("49%", "0.5", {"rel_tol": 0.05}, "correct"),
    ("47%", "0.5", {"rel_tol": 0.05}, "wrong"),
    ("five", "5", {}, "malformed"),
    ("about 5", "5", {}, "malformed"),
    ("5 or 6", "5", {}, "malformed"),
    ("2+3", "5", {}, "malformed"),
    ("inf", "5", {"abs_tol": 1}, "malformed"),
    ("nan", "5", {"abs_tol": 1}, "malformed"),
    ("9" * 1000, "5", {"abs_tol": 1}, "malformed"),
    ("", "5", {}, "no_answer"),
    ("5", "five", {}, "error"),
    ("5", "", {}, "error"),
    ("5", None, {}, "error"),
]


@pytest.mark.parametrize(("answer", "gold", "tolerances", "outcome"), CASES)
def test_grades_as_the_table_says(answer: str, gold: object, tolerances: dict, outcome: str) -> None:
    (score,) = number.scores([f"<think>t</think><answer>{answer}</answer>"], [gold], **tolerances)
    assert score.outcome == outcome, score.reason
    assert score.value == {"correct": 1.0, "error": None}.get(outcome, 0.0)


@pytest.mark.parametrize("value", [-0.1, "-1e-3", "a tenth", float("nan"), float("inf"), None])
@pytest.mark.parametrize("name", ["rel_tol", "abs_tol"])
def test_a_tolerance_that_is_none_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}: got .* expected a number that is not negative"):
        number(["\\boxed{5}"], ["5"], **{name: value})


def test_a_recipe_and_an_evaluation_find_it_by_name() -> None:
    rewards = RewardSum([RewardSettings(name="number", args={"rel_tol": 0.01, "read": ["boxed"]})])
    chat = [{"role": "assistant", "content": "\\boxed{3.15}"}]
    # |3.15 - 3.14159| = 0.00841, within 0.0314159; |3.2 - 3.14159| = 0.05841 is not
    scored = rewards.score(["\\boxed{3.15}", "\\boxed{3.2}", chat], {"answer": ["3.14159"] * 3})
    assert [reward.value for reward in scored] == [1.0, 0.0, 1.0]
    assert grader("number", abs_tol=1)("<answer>6</answer>", {"answer": 5}).outcome == "correct"
    with pytest.raises(RewardError, match="rel_tol: got -1, expected a number that is not negative"):
        RewardSum([RewardSettings(name="number", args={"rel_tol": -1})]).score(["5"], {"answer": ["5"]})


@pytest.mark.parametrize("unit", ["9", "1,", "\\frac{", "1/", "-", " 1"])
def test_a_megabyte_gets_a_verdict(unit: str) -> None:
    answer = unit * (1_000_000 // len(unit))
    assert number([f"<answer>{answer}</answer>", f"{answer}</think>\\boxed{{5}}"], ["5", "5"]) == [0.0, 1.0]
