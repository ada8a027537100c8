"""Guess a number between two bounds; after each guess the environment says which numbers are left."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from grpo.types import Episode
from rewards.types import Score

_NUMBER = re.compile(r"-?\d+")


class GuessNumber:
    """The last number of a reply is the guess; a reply without one, or out of the bounds, is a turn that is lost.

    Halving what is left finds one of 2^k - 1 numbers in k guesses. Whoever pays no heed to what is said has at most
    k distinct guesses, and finds a share of k / (high - low + 1).

    Args:
        guesses: after which the game is lost.
        near: what a lost game is worth for each share of the numbers that was ruled out; below 1, for 1 is success.
        first, higher, lower: what is said; {guess} and the bounds {low} and {high} of what is left are replaced.
    """

    def __init__(
        self,
        low: int = 1,
        high: int = 10,
        guesses: int = 4,
        near: float = 0.0,
        first: str = "Guess my number between {low} and {high}.",
        higher: str = "It is higher than {guess}.",
        lower: str = "It is lower than {guess}.",
        unread: str = "Guess a number between {low} and {high}.",
    ) -> None:
        if low >= high or guesses < 1:
            raise ValueError(f"got low {low}, high {high}, guesses {guesses}; expected low < high, and a guess or more")
        if not 0 <= near < 1:
            raise ValueError(f"near: got {near}, expected a number from 0 up to below 1")
        self._bounds, self._guesses, self._near = (low, high), guesses, near
        self._first, self._higher, self._lower, self._unread = first, higher, lower, unread

    def start(self, row: Mapping[str, Any]) -> str:
        self._low, self._high = self._bounds
        self._secret = random.Random(row["seed"]).randint(self._low, self._high)
        self._made, self._found = 0, False
        return self._say(self._first)

    def step(self, reply: str) -> str | None:
        self._made += 1
        guess = read_guess(reply)
        self._found = guess == self._secret
        said = self._unread
        if guess is not None and self._low <= guess < self._secret:
            self._low, said = guess + 1, self._higher
        elif guess is not None and self._secret < guess <= self._high:
            self._high, said = guess - 1, self._lower
        return None if self._found or self._made >= self._guesses else self._say(said, guess)

    def score(self, episode: Episode) -> Score:
        guesses = ", ".join(str(read_guess(reply)) for reply in episode.replies)
        if self._found:
            return Score(1.0, guesses, "correct", f"{self._secret} found by {guesses}")
        left = (self._high - self._low + 1) / (self._bounds[1] - self._bounds[0] + 1)
        return Score(self._near * (1 - left), guesses, "wrong", f"{self._secret} not found by {guesses}")

    def _say(self, what: str, guess: int | None = None) -> str:
        return what.format(guess=guess, low=self._low, high=self._high)


def read_guess(reply: str) -> int | None:
    """The last number of the reply; what is too long to be meant is none."""
    found = _NUMBER.findall(reply)
    return int(found[-1]) if found and len(found[-1]) <= 18 else None
