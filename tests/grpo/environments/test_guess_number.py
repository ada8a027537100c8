"""The number-guessing game: what it says and pays, and that whoever does not heed what it says loses most games."""

from __future__ import annotations

from itertools import permutations

import pytest

from grpo.environments.builtin.guess_number import GuessNumber
from grpo.types import Episode
from recipes.schema.load import load_recipe
from rewards.types import Score


def played(game: GuessNumber, seed: int, *replies: str) -> tuple[list[str | None], Score]:
    """What the game says, from the first word on, and the score once the replies are given or it is over."""
    said: list[str | None] = [game.start({"seed": seed})]
    messages = []
    for reply in replies:
        messages.append({"role": "assistant", "content": reply})
        said.append(game.step(reply))
        if said[-1] is None:
            break
    return said, game.score(Episode(tuple(messages), "done"))


def seed_of(secret: int, low: int = 1, high: int = 10) -> int:
    for seed in range(1000):
        game = GuessNumber(low, high)
        game.start({"seed": seed})
        if game._secret == secret:
            return seed
    raise AssertionError(secret)


def test_what_is_said_is_what_is_left_and_a_number_that_is_ruled_out_or_none_loses_the_turn():
    said, score = played(
        GuessNumber(first="{low}-{high}", higher="> {guess} {low}-{high}", lower="< {guess} {low}-{high}"),
        seed_of(4), "I say 2", "9?", "2", "4",
    )  # fmt: skip
    assert said == ["1-10", "> 2 3-10", "< 9 3-8", "Guess a number between 3 and 8.", None]
    assert score == Score(1.0, "2, 9, 2, 4", "correct", "4 found by 2, 9, 2, 4")
    assert played(GuessNumber(), seed_of(4), "none", "-4")[1].extracted == "None, -4"


def test_a_lost_game_is_worth_what_it_ruled_out_and_never_a_success():
    said, score = played(GuessNumber(near=0.5), seed_of(4), "2", "9", "5", "3")
    assert said[-1] is None
    assert score == Score(0.5 * 0.9, "2, 9, 5, 3", "wrong", "4 not found by 2, 9, 5, 3")  # one of ten is left
    assert played(GuessNumber(near=0.5), seed_of(4), "x", "77", "0", "")[1].value == 0.0
    assert played(GuessNumber(), seed_of(4), "2", "9", "5", "3")[1].value == 0.0
    with pytest.raises(ValueError, match="near: got 1"):
        GuessNumber(near=1)


def test_in_the_recipes_game_no_fixed_guesses_find_more_than_four_of_ten_and_halving_finds_all():
    environment = load_recipe("guess_number_cpu").task.environment
    assert environment
    config = environment.config
    game, secrets = GuessNumber(**config), range(config["low"], config["high"] + 1)
    assert len(secrets) == 10
    seeds = [seed_of(secret, config["low"], config["high"]) for secret in secrets]
    found = {
        sum(played(game, seed, *map(str, guesses))[1].outcome == "correct" for seed in seeds)
        for guesses in permutations(secrets, 4)
    }
    assert found == {4}

    def halving(seed: int) -> str:
        said, replies = game.start({"seed": seed}), []
        assert said == "0 + 0"  # which says nothing of the number
        low, high = config["low"], config["high"]
        while said is not None:
            replies.append({"role": "assistant", "content": f"{(low + high) // 2}</answer>"})
            if (said := game.step(replies[-1]["content"])) is not None:
                low, high = map(int, said.split(" + "))
        return game.score(Episode(tuple(replies), "done")).outcome

    assert [halving(seed) for seed in seeds] == ["correct"] * 10
