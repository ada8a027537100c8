"""The interval around an accuracy."""

import pytest

from eval.stats import clustered, wilson


def test_wilson_interval_by_hand():
    # p = 0.5, n = 100: centre 0.5, half-width 1.96 / (1 + 0.0384) * sqrt(0.0025 + 0.0000960) = 0.0962
    low, high = wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_extreme_counts_keep_an_interval_of_positive_width_inside_0_1():
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0
    assert 0.1 < wilson(0, 20)[1] < 0.2


def test_nothing_measured_means_nothing_known():
    assert wilson(0, 0) == (0.0, 1.0)


def test_several_answers_a_problem_narrow_the_interval_only_as_far_as_problems_differ():
    # 40 problems answered 8 times: if each is always or never solved, 8 answers say no more than 1
    always_or_never = clustered([1.0] * 20 + [0.0] * 20)
    assert always_or_never == pytest.approx(wilson(20, 40), abs=0.003)
    # if every problem is solved half of the time, the problems do not differ at all
    alike = clustered([0.5, 0.625, 0.375, 0.5] * 10)
    assert alike.high - alike.low < 0.25 * (always_or_never.high - always_or_never.low)
