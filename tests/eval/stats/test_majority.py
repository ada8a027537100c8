"""Majority votes: which answers are one vote, and the exact mean over all subsets."""

import itertools
import random
from fractions import Fraction

import pytest

from eval.stats.majority import Vote, majority, tally


def every_subset(labels: list[str | None], values: dict[str, float], k: int) -> Fraction:
    """maj@k by its definition."""
    won = [Fraction(0)]
    subsets = list(itertools.combinations(labels, k))
    for subset in subsets:
        counts = {label: subset.count(label) for label in subset if label is not None}
        first = [label for label, count in counts.items() if count == max(counts.values())]
        won += [Fraction(values[label]) / len(first) for label in first]
    return sum(won) / len(subsets)


@pytest.mark.parametrize("seed", range(40))
def test_majority_is_the_mean_over_every_subset(seed):
    chance = random.Random(seed)
    answers = "abcdef"[: chance.randint(1, 6)]
    labels = [chance.choice([None, *answers]) for _ in range(chance.randint(1, 10))]
    values = {answer: chance.choice([0.0, 1.0, 0.5]) for answer in answers}
    votes = [Vote(answer, labels.count(answer), values[answer]) for answer in answers if answer in labels]
    for k in range(1, len(labels) + 1):
        assert majority(votes, len(labels), k) == pytest.approx(float(every_subset(labels, values, k)), abs=1e-12)


def test_a_draw_counts_in_expectation():
    assert majority([Vote("a", 2, 1.0), Vote("b", 2, 0.0)], n=4, k=4) == 0.5
    assert majority([Vote("a", 1, 1.0), Vote("b", 1, 0.0), Vote("c", 1, 0.0)], n=3, k=3) == pytest.approx(1 / 3)


def test_samples_without_an_answer_are_drawn_but_do_not_vote():
    # of the three pairs of (right, nothing, nothing) two hold the right one, which wins alone
    assert majority([Vote("18", 1, 1.0)], n=3, k=2) == pytest.approx(2 / 3)
    assert majority([], n=3, k=2) == 0.0


def test_a_single_vote_is_the_share_of_right_answers():
    votes = [Vote("a", 5, 0.0), Vote("b", 2, 1.0), Vote("c", 3, 0.0)]
    assert majority(votes, n=16, k=1) == pytest.approx(2 / 16)


def test_a_thousand_samples_are_exact_too():
    # two answers of 500 each: by symmetry either wins as often
    assert majority([Vote("a", 500, 1.0), Vote("b", 500, 0.0)], n=1000, k=501) == pytest.approx(0.5, abs=1e-9)


def test_below_k_samples_there_is_no_majority():
    assert majority([Vote("a", 2, 1.0)], n=2, k=3) is None
    with pytest.raises(ValueError, match="expected 1 or more"):
        majority([Vote("a", 2, 1.0)], n=2, k=0)


@pytest.mark.parametrize(
    "spellings",
    [
        ("1/2", "0.5", r"\frac{1}{2}", r"$\dfrac12$"),
        ("1,000", "1000", "1000.0"),
        ("18", "18 apples", "$18"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("(1, 2)", "(1,2)"),
        ("x=5", "5"),
        ("Evelyn", "evelyn"),
    ],
)
def test_spellings_of_one_answer_are_one_vote(spellings):
    votes = tally([(spelling, 1.0) for spelling in spellings])
    assert votes == [Vote(spellings[0], len(spellings), 1.0)]


def test_answers_that_differ_are_votes_of_their_own_the_most_given_first():
    votes = tally([(answer, 0.0) for answer in ("1", "2", "x+1", "2", "x-1", "2.5", "x+1", "2")])
    assert [(vote.answer, vote.count) for vote in votes] == [("2", 3), ("x+1", 2), ("1", 1), ("x-1", 1), ("2.5", 1)]


def test_a_vote_has_the_mean_value_of_its_samples():
    # a verifier that reads "0.5" as wrong where the question asks for a fraction
    assert tally([("1/2", 1.0), ("0.5", 0.0)]) == [Vote("1/2", 2, 0.5)]


@pytest.mark.parametrize("answer", ["(" * 5000, "9" * 5000, r"\frac{" * 300, "", "9^{9^{9^9}}", "\\"])
def test_hostile_answers_are_counted_and_take_no_time(answer):
    votes = tally([(answer, 0.0), ("1", 1.0), (answer, 0.0)])
    assert [(vote.answer, vote.count) for vote in votes] == [(answer, 2), ("1", 1)]
