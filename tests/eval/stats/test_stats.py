"""Statistics of graded generations, against their definitions."""

import itertools
import json
import random
from statistics import fmean

import pytest

from eval.stats.intervals import clustered
from eval.stats.stats import avg_at_k, maj_at_k, pass_at_k, summary, unbiased_pass_at_k
from tests.generations import failed, generation, graded


def test_avg_at_k_weighs_problems_alike_whatever_their_samples():
    # problem means 1/2, 1/4 and 1: (0.5 + 0.25 + 1) / 3
    found = avg_at_k(graded("10", "1000", "1"))
    assert found is not None
    assert found.value == pytest.approx(7 / 12)
    assert (found.low, found.high) == clustered([0.5, 0.25, 1.0])


def test_what_failed_or_could_not_be_graded_is_in_no_average():
    assert avg_at_k(graded("1x", "0?", "??", "xx")) == avg_at_k(graded("1", "0"))
    assert avg_at_k(graded("??", "x")) is None
    assert avg_at_k([]) is None


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n):
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [1] * right + [0] * (n - right)
        share = fmean(any(subset) for subset in itertools.combinations(samples, k))
        assert unbiased_pass_at_k(n, right, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow():
    # C(1999, 1000) / C(2000, 1000) = 1000 / 2000
    assert unbiased_pass_at_k(2000, 1, 1000) == pytest.approx(0.5)


def test_pass_at_k_is_undefined_below_k_samples():
    assert unbiased_pass_at_k(4, 4, 5) is None
    assert pass_at_k(graded("1111", "1010"), 5) is None
    with pytest.raises(ValueError, match="expected 1 or more"):
        unbiased_pass_at_k(4, 4, 0)


def test_a_problem_in_twenty_may_lack_samples_and_is_left_out():
    most = graded(*["10"] * 38, "1x", "x0")  # 2 of 40
    assert pass_at_k(most, 2) == pass_at_k(graded(*["10"] * 38), 2)
    assert pass_at_k(graded(*["10"] * 37, "1x", "x0", "?1"), 2) is None  # 3 of 40
    assert summary(most, 2)["n_defined"] == {"1": 40, "2": 38}


def test_maj_at_k_by_hand():
    # first problem: right twice, two different wrong answers: all 4 samples vote right, 3 of 4 have 2 rights or draw
    samples = [
        generation(0, 0),
        generation(0, 1),
        generation(0, 2, 0.0, extracted="9"),
        generation(0, 3, 0.0, extracted="7"),
    ]
    assert maj_at_k(samples, 4).value == 1.0
    # subsets of 3: {R R 9}, {R R 7} are right, {R 9 7} twice a draw of three
    assert maj_at_k(samples, 3).value == pytest.approx((1 + 1 + 1 / 3 + 1 / 3) / 4)


def test_no_answer_and_malformed_ones_do_not_vote():
    silent = [generation(0, i, 0.0, outcome="no_answer", extracted=None) for i in (1, 2)]
    garbled = [generation(0, i, 0.0, outcome="malformed", extracted="9 or 10") for i in (3, 4)]
    assert maj_at_k([generation(0, 0), *silent, *garbled], 5).value == 1.0
    assert maj_at_k(silent, 2).value == 0.0


def test_maj_at_k_is_undefined_where_right_answers_were_not_extracted():
    assert maj_at_k([generation(0, 0), generation(1, 0, extracted=None)], 1) is None


def test_duplicates_are_refused():
    with pytest.raises(ValueError, match="sample 0 of gsm8k/test/0 is there twice"):
        summary([generation(), generation()], 2)


# -- Summary -------------------------------------------------------------------------------------------------------


def measured() -> list:
    """Four problems of two samples: lengths 10 to 80, one truncated, one without answer, one ungraded, one failed."""
    easy, hard = {"subject": "Algebra", "level": "1"}, {"subject": "Geometry", "level": "5"}
    return [
        generation(0, 0, tokens=10, **easy),
        generation(0, 1, tokens=20, **easy),
        generation(1, 0, tokens=30, **easy),
        generation(1, 1, 0.0, outcome="no_answer", extracted=None, tokens=80, finish_reason="length", **easy),
        generation(2, 0, 0.0, tokens=40, **hard),
        generation(2, 1, None, tokens=50, **hard),
        generation(3, 0, 0.0, tokens=60, **hard),
        failed(3, 1, "server", **hard),
    ]


def test_summary_counts_everything_once():
    found = summary(measured(), samples=2)
    assert (found["n_problems"], found["n_graded"], found["n_samples"], found["n_generations"]) == (4, 4, 2, 7)
    assert found["failed"] == {"server": 1}
    assert found["outcomes"] == {"correct": 3, "no_answer": 1, "wrong": 2, "timeout": 1}
    assert sum(found["outcomes"].values()) + sum(found["failed"].values()) == 8


def test_summary_of_the_parts():
    found = summary(measured(), samples=2)
    assert found["accuracy"]["value"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert found["by"]["subject"]["Algebra"]["accuracy"]["value"] == 0.75
    assert found["by"]["level"]["5"] == {**found["by"]["subject"]["Geometry"]}
    assert found["by"]["subject"]["Geometry"]["n_problems"] == 2


def test_rates_are_means_over_problems_of_what_came():
    found = summary(measured(), samples=2)
    assert found["truncated"]["value"] == pytest.approx((0 + 1 / 2 + 0 + 0) / 4)
    assert found["no_answer"]["value"] == pytest.approx((0 + 1 / 2 + 0 + 0) / 4)
    assert 0 < found["truncated"]["low"] < 1 / 8 < found["truncated"]["high"]


def test_lengths_by_outcome():
    length = summary(measured(), samples=2)["length"]
    # of 10, 20, ..., 60 and 80: mean 290 / 7, median 40, 90% at place 5.4 of 6: 60 + 0.4 * 20
    assert (length["mean"], length["p50"], length["p90"], length["max"]) == pytest.approx((290 / 7, 40, 68, 80))
    assert length["by_outcome"]["correct"] == {"n": 3, "mean": 20.0, "p50": 20.0, "p90": 28.0}


def test_what_is_not_known_is_none():
    found = summary([generation(tokens=None, finish_reason=None)], samples=1)
    assert found["length"] == {"mean": None, "p50": None, "p90": None, "max": None, "by_outcome": {}}
    assert found["truncated"] is None
    assert found["by"] == {"subject": {}, "level": {}}


def test_an_evaluation_that_failed_as_a_whole_has_no_accuracy():
    found = summary([failed(0), failed(1, cause="refused")], samples=1)
    assert found["failed"] == {"timeout": 1, "refused": 1}
    assert (found["accuracy"], found["pass_at_k"], found["maj_at_k"]) == (None, {"1": None}, {"1": None})
    assert (found["n_problems"], found["n_graded"], found["n_generations"]) == (2, 0, 0)


def test_k_runs_over_the_powers_of_two_and_all_samples():
    assert list(summary(graded("101010"), samples=6)["pass_at_k"]) == ["1", "2", "4", "6"]
    assert list(summary(graded("1"), samples=1)["pass_at_k"]) == ["1"]


@pytest.mark.parametrize("seed", range(5))
def test_pass_at_1_and_maj_at_1_are_the_accuracy(seed):
    chance = random.Random(seed)
    generations = graded(*["".join(chance.choices("100?x", k=6)) for _ in range(30)])
    found = summary(generations, samples=6)
    assert found["pass_at_k"]["1"] == pytest.approx(found["accuracy"])
    assert found["maj_at_k"]["1"] == pytest.approx(found["accuracy"])


def test_pass_at_k_never_falls_with_k():
    chance = random.Random(1)
    found = summary(graded(*["".join(chance.choices("10", k=16)) for _ in range(50)]), samples=16)["pass_at_k"]
    values = [found[str(k)]["value"] for k in (1, 2, 4, 8, 16)]
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_summary_is_json():
    found = summary(measured(), samples=2)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
