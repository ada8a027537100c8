"""Rewards of length: DAPO's punishment against TRL's, the cosine by its values at the ends and between."""

from __future__ import annotations

from typing import Any

import pytest
from trl.rewards import get_soft_overlong_punishment

from rewards import RewardError, RewardSettings, RewardSum, Score
from rewards.builtin import length as rewards_of_length
from rewards.builtin.length import cosine_length, soft_overlong
from rewards.types import Outcome

RIGHT, WRONG, NO_ANSWER = "\\boxed{42}", "\\boxed{41}", "42"


def tokens(*lengths: int) -> list[list[int]]:
    return [[7] * length for length in lengths]


def cosine(text: str, length: int, **args: Any) -> float | None:
    return cosine_length([text], answer=["42"], completion_ids=tokens(length), **{"max_length": 100, **args})[0]


@pytest.mark.parametrize(("max_length", "buffer"), [(100, 20), (100, 0), (100, 1), (100, 100), (1, 0), (1, 1), (7, 3)])
def test_soft_overlong_equals_trls_at_every_length(max_length: int, buffer: int) -> None:
    ids = tokens(*range(3 * max_length))
    theirs = get_soft_overlong_punishment(max_completion_len=max_length, soft_punish_cache=buffer)
    assert soft_overlong(completion_ids=ids, max_length=max_length, buffer=buffer) == theirs(completion_ids=ids)


def test_soft_overlong_falls_over_the_buffer_and_stays() -> None:
    # 256 - 64 = 192 is free; (192 - 193) / 64, (192 - 224) / 64, (192 - 256) / 64; then -1
    lengths, values = [0, 192, 193, 224, 256, 257, 1000], [0.0, 0.0, -1 / 64, -0.5, -1.0, -1.0, -1.0]
    assert soft_overlong(tokens(*lengths), max_length=256, buffer=64) == values
    rewards = RewardSum([RewardSettings(name="soft_overlong", args={"max_length": 256, "buffer": 64}, weight=2)])
    scored = rewards.score(["x"] * len(lengths), {"completion_ids": tokens(*lengths)})
    assert [reward.value for reward in scored] == [2 * value for value in values]


@pytest.mark.parametrize(
    ("text", "length", "value"),
    [
        (RIGHT, 0, 1.0),
        (RIGHT, 50, 0.75),  # cos(pi/2) = 0: half-way
        (RIGHT, 25, 0.5 + 0.5 * (1 + 0.5**0.5) / 2),  # cos(pi/4) = sqrt(1/2)
        (RIGHT, 99, 0.5 + 0.5 * (1 - 0.99950656) / 2),  # cos(0.99 pi) = -0.99950656
        (WRONG, 0, -1.0),
        (WRONG, 50, -0.75),
        (WRONG, 25, -0.5 - 0.5 * (1 + 0.5**0.5) / 2),
        (NO_ANSWER, 50, -0.75),
        (RIGHT, 100, -1.0),  # it was cut off
        (WRONG, 100, -1.0),
        (RIGHT, 150, -1.0),  # open-r1's cosine would be back at 0.75 here
        (RIGHT, 200, -1.0),
    ],
)
def test_cosine_has_its_ends_and_its_middle(text: str, length: int, value: float) -> None:
    assert cosine(text, length) == pytest.approx(value)


def test_the_papers_values_are_reached_by_arguments() -> None:
    paper = {"correct_short": 2, "correct_long": 1, "wrong_short": -10, "wrong_long": 0, "exceeded": -10}
    ends = [cosine(text, length, **paper) for text in (RIGHT, WRONG) for length in (0, 50, 100)]
    assert ends == pytest.approx([2, 1.5, -10, -10, -5, -10])


def test_short_correct_beats_long_correct_beats_long_wrong_beats_short_wrong() -> None:
    correct, wrong = ([cosine(text, length) for length in range(100)] for text in (RIGHT, WRONG))
    assert correct == sorted(correct, reverse=True)
    assert wrong == sorted(wrong)
    assert len({*correct, *wrong}) == 200
    assert min(correct) > max(wrong)


def test_the_length_is_that_of_the_tokens_and_the_text_may_be_a_chat() -> None:
    chat = [{"role": "assistant", "content": RIGHT + " padding" * 100}]
    assert cosine_length([chat], ["42"], tokens(50), max_length=100) == pytest.approx([0.75])


@pytest.mark.parametrize("outcome", ["timeout", "error"])
@pytest.mark.parametrize("length", [10, 1000])
def test_a_failed_verdict_has_no_value_and_fails_the_sum(
    outcome: Outcome, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards_of_length, "verify_all", lambda *_, **__: [Score(None, "x", outcome, "by the test")])
    rewards = RewardSum([RewardSettings(name="cosine_length", args={"max_length": 100}), RewardSettings(name="format")])
    (reward,) = rewards.score(["x"], {"answer": ["42"], "completion_ids": tokens(length)})
    assert (reward.value, reward.parts["cosine_length"]) == (None, None)
    assert reward.score == Score(None, "x", outcome, "by the test")


def test_an_empty_gold_answer_is_a_failure() -> None:
    assert cosine_length([RIGHT], [""], tokens(10), max_length=100) == [None]


def test_the_log_keeps_the_verdict() -> None:
    rewards = RewardSum([RewardSettings(name="cosine_length", args={"max_length": 100, "read": ["boxed"]})])
    right, wrong = rewards.score([RIGHT, WRONG], {"answer": ["42"] * 2, "completion_ids": tokens(50, 50)})
    assert (right.value, wrong.value) == pytest.approx((0.75, -0.75))
    assert right.score is not None
    assert wrong.score is not None
    assert (right.score.outcome, wrong.score.outcome, wrong.score.extracted) == ("correct", "wrong", "41")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("soft_overlong", {"max_length": 0, "buffer": 0}, "max_length: got 0, expected a number of tokens, at least 1"),
        ("soft_overlong", {"max_length": -5, "buffer": 0}, "max_length: got -5"),
        ("soft_overlong", {"max_length": 1.5, "buffer": 0}, "max_length: got 1.5"),
        ("soft_overlong", {"max_length": 9, "buffer": -1}, "buffer: got -1, expected .* from 0 to max_length, 9"),
        ("soft_overlong", {"max_length": 9, "buffer": 10}, "buffer: got 10"),
        ("soft_overlong", {"max_length": 9, "buffer": "3"}, "buffer: got '3'"),
        ("soft_overlong", {"max_length": 9}, "needs .*'buffer'"),
        ("soft_overlong", {"max_length": 9, "bufer": 3}, "no argument bufer"),
        ("cosine_length", {"max_length": 0}, "max_length: got 0"),
        ("cosine_length", {"max_length": "9"}, "max_length: got '9'"),
        ("cosine_length", {"max_length": 9, "wrong_long": 0.5}, r"exceeded = \(-1.0, 0.5, -1.0\) and"),
        ("cosine_length", {"max_length": 9, "exceeded": 2}, "those of wrong answers below those of correct ones"),
        ("cosine_length", {"max_length": 9, "correct_long": float("nan")}, "expected finite numbers"),
        ("cosine_length", {"max_length": 9, "wrong_short": "-1"}, "expected finite numbers"),
    ],
)
def test_a_bad_argument_is_one_clear_error(name: str, args: dict, message: str) -> None:
    columns = {"answer": ["42"], "completion_ids": tokens(3)}
    with pytest.raises(RewardError, match=message):
        RewardSum([RewardSettings(name=name, args=args)]).score([RIGHT], columns)
