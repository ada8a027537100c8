"""The share of repeated n-grams, by hand and against TRL's version on the words' numbers."""

from __future__ import annotations

import random

import pytest
from trl.rewards import get_repetition_penalty_reward

from rewards import RewardError, RewardSettings, RewardSum
from rewards.builtin.repetition import MAX_WORD, repetition_penalty

CASES = [
    # text, n, share of n-grams that repeat one
    ("a b c d e", 3, 0.0),  # abc bcd cde
    ("a b a b a", 2, 1 - 2 / 4),  # ab ba ab ba
    ("a b a b a", 3, 1 - 2 / 3),  # aba bab aba
    ("no no no no", 1, 1 - 1 / 4),
    ("no no no no", 4, 0.0),  # one 4-gram
    ("No, no, NO,", 1, 1 - 1 / 3),  # capitals do not matter
    ("a b", 3, 0.0),  # too short
    ("", 1, 0.0),
    (" \n\t ", 1, 0.0),
    ("a b\nc\ta  b", 2, 1 - 3 / 4),  # any blanks: ab bc ca ab
    ("因为因为因为", 2, 1 - 2 / 5),  # characters: 因为 为因 因为 为因 因为
    ("因为它大所以对", 2, 0.0),
    ("はいはい", 1, 1 - 2 / 4),
    ("ครับครับ", 4, 1 - 4 / 5),  # 4 characters twice, the vowel sign among them: the last of 5 4-grams is the first
    ("so因为so因为", 2, 1 - 3 / 5),  # so 因 为 so 因 为: so因 因为 为so so因 因为
    ("9" * (MAX_WORD + 1), 1, 1 - 1 / (MAX_WORD + 1)),  # a long run counts by its characters
    ("9" * MAX_WORD, 1, 0.0),  # a short one is one word
]


@pytest.mark.parametrize(("text", "n", "share"), CASES)
def test_the_penalty_is_the_share_of_repeated_ngrams(text: str, n: int, share: float) -> None:
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]
    assert repetition_penalty([text, chat], n=n) == pytest.approx([-share, -share])
    assert repetition_penalty([text], n=n, max_penalty=-0.2) == pytest.approx([-0.2 * share])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_equals_trls_version_where_a_word_is_a_token(n: int) -> None:
    draw = random.Random(n)
    ids = [[draw.randrange(6) for _ in range(draw.randrange(60))] for _ in range(200)]
    texts = [" ".join(f"w{token}" for token in one) for one in ids]
    assert repetition_penalty(texts, n=n) == get_repetition_penalty_reward(ngram_size=n)(completion_ids=ids)
    assert len(set(repetition_penalty(texts, n=n))) > 10


def test_no_repetition_is_a_plain_zero() -> None:
    assert str(repetition_penalty(["a b c", ""], max_penalty=-1)) == "[0.0, 0.0]"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"n": 0}, "n: got 0, expected a whole number of words, at least 1"),
        ({"n": -1}, "n: got -1"),
        ({"n": 1.5}, "n: got 1.5"),
        ({"max_penalty": 0.5}, "max_penalty: got 0.5, expected a finite number that is not positive"),
        ({"max_penalty": float("-inf")}, "max_penalty: got -inf"),
        ({"max_penalty": float("nan")}, "max_penalty: got nan"),
        ({"max_penalty": "-1"}, "max_penalty: got '-1'"),
    ],
)
def test_a_bad_argument_is_one_clear_error(args: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repetition_penalty(["a b c"], **args)
    with pytest.raises(RewardError, match=message):
        RewardSum([RewardSettings(name="repetition_penalty", args=args)]).score(["a b c"], {})


def test_a_recipe_finds_it_by_name() -> None:
    rewards = RewardSum([RewardSettings(name="repetition_penalty", weight=0.5, args={"n": 2, "max_penalty": -2})])
    # ab ba ab ba: half of them repeat; 0.5 * -2 * 0.5
    assert [reward.value for reward in rewards.score(["a b a b a", "a b c"], {})] == [-0.5, 0.0]


@pytest.mark.parametrize("unit", ["ha", "ha ", "因", "0 1 2 3 4 5 6 7 8 9 "])
def test_a_looping_megabyte_is_penalised_in_full(unit: str) -> None:
    assert repetition_penalty([unit * (1_000_000 // len(unit))]) == pytest.approx([-1.0], abs=1e-3)
