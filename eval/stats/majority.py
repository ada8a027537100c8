"""maj@k: how often the majority vote of k answers is right (self-consistency, arXiv 2203.11171).

    maj@k = mean over the subsets of k of the n samples of
            (share of right answers among those with the most votes)

Equal answers are one vote, however they are spelled, so that "1/2" and "0.5" do not split it. Samples without an
answer are drawn too, but do not vote; a subset without a vote is wrong. The mean over the subsets is computed exactly:
the counts of a random subset are binomial counts given that they sum to k, so the subsets are never listed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from rewards.verifier.equality import same_answer
from rewards.verifier.latex import depth
from rewards.verifier.numeric import quantity
from rewards.verifier.spelling import tidy
from rewards.verifier.verdict import attempt

MAX_RIVALS = 8  # an answer is compared with so many others, those with the most votes; equal numbers always meet
MAX_LENGTH, MAX_DEPTH = 400, 20  # characters, nested brackets; beyond, only the same text is the same answer

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Vote:
    """An answer, how many samples gave it, and their mean value. Example: Vote(answer="1/2", count=5, value=1.0)"""

    answer: str
    count: int
    value: float


def tally(answers: Sequence[tuple[str, float]]) -> list[Vote]:
    """The votes among (answer, value), most votes first; of equal counts, first given first."""
    keyed: dict[Fraction | str, list[tuple[str, float]]] = {}
    for answer, value in answers:
        keyed.setdefault(_key(answer), []).append((answer, value))
    groups: list[tuple[Fraction | str, list[tuple[str, float]]]] = []
    for key, given in sorted(keyed.items(), key=lambda item: -len(item[1])):
        same = next((group for group in groups[:MAX_RIVALS] if _equal(key, group[0])), None)
        if same:
            same[1].extend(given)
        else:
            groups.append((key, given))
    votes = [Vote(given[0][0], len(given), math.fsum(v for _, v in given) / len(given)) for _, given in groups]
    return sorted(votes, key=lambda vote: -vote.count)


def _key(answer: str) -> Fraction | str:
    """The value of a number without unit and base, which says which others it equals; else the tidied text."""
    spelling = attempt(lambda failure: answer, tidy, answer)
    number = attempt(lambda failure: None, quantity, spelling)
    return number.value if number and not number.unit and not number.base else spelling


def _equal(one: Fraction | str, other: Fraction | str) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    texts = str(one), str(other)
    if any(len(text) > MAX_LENGTH or depth(text) > MAX_DEPTH for text in texts):
        return False
    return attempt(lambda failure: False, same_answer, *texts)


def majority(votes: Sequence[Vote], n: int, k: int) -> float | None:
    """The expected value of the majority vote of k samples drawn from n without replacement; None for k > n.

    n counts the samples that do not vote too. Ties are drawn by lot, in expectation. Raises ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, expected 1 or more")
    if k > n:
        return None
    chances = []
    for place, vote in enumerate(votes):
        if vote.value:
            others = tuple(sorted(other.count for other in [*votes[:place], *votes[place + 1 :]]))
            chances.append(vote.value * _wins(vote.count, others, n, k))
    return min(math.fsum(chances), 1.0)


@functools.lru_cache(maxsize=65536)  # problems with the same counts are many
def _wins(count: int, others: tuple[int, ...], n: int, k: int) -> float:
    """The probability that the answer with `count` votes wins, a draw between t + 1 counting 1 / (t + 1)."""
    if k == n:
        return 0.0 if max(others, default=0) > count else 1 / (1 + others.count(count))
    blank = n - count - sum(others)
    total = 0.0
    for most in range(1, min(count, k) + 1):  # the winner's votes in the subset
        rivals = [other for other in others if other >= most]
        free = blank + sum(other for other in others if other < most)  # can neither win nor draw
        left = k - most
        if free + most * len(rivals) < left:  # somebody has more
            continue
        ways = _at_most(most, rivals, left, k / n)
        chosen = _binomial(free, k / n)[: left + 1]
        drawn = chosen @ ways[left - len(chosen) + 1 :][::-1]
        total += _binomial(count, k / n)[most] * float(drawn @ (1 / np.arange(1, ways.shape[1] + 1)))
    return total / float(_binomial(n, k / n)[k])


def _at_most(most: int, rivals: Sequence[int], left: int, share: float) -> Array:
    """[s, t]: the probability that the rivals have s votes together, none more than `most`, and t of them `most`."""
    ways = np.zeros((left + 1, min(len(rivals), left // most) + 1))
    ways[0, 0] = 1.0
    for rival in rivals:
        chances, before = _binomial(rival, share), ways
        ways = np.zeros_like(before)
        for votes in range(min(most, left + 1)):
            ways[votes:] += chances[votes] * before[: left + 1 - votes]
        if most <= left:
            ways[most:, 1:] += chances[most] * before[: left + 1 - most, :-1]
    return ways


@functools.lru_cache(maxsize=4096)
def _binomial(n: int, share: float) -> Array:
    """[x]: the probability of x among n, 0 < share < 1."""
    x = np.arange(n + 1)
    logs = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in x])
    return np.exp(logs + x * math.log(share) + (n - x) * math.log1p(-share))
