"""The intervals around an accuracy and a difference of two: formulas, and how often they hold the truth."""

import random

import mpmath
import numpy as np
import pytest

from benchmarks.coverage import DIFFICULTIES, WEAKEST, of_accuracy, of_difference, of_pass_at_k, shares_right
from eval.stats import student
from eval.stats.intervals import clustered, estimate, paired_difference, wilson

pytestmark = pytest.mark.slow


def test_wilson_interval_by_hand():
    # p = 0.5, n = 100: centre 0.5, half-width 1.96 / (1 + 0.0384) * sqrt(0.0025 + 0.0000960) = 0.0962
    low, high = wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_extreme_counts_keep_an_interval_of_positive_width_inside_0_1():
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0
    assert 0.1 < wilson(0, 20)[1] < 0.2
    assert clustered([1.0] * 30) == wilson(30, 30, student.quantile(0.975, 29))


def test_nothing_measured_means_nothing_known():
    assert wilson(0, 0) == (0.0, 1.0)
    assert clustered([]) == clustered([1.0]) == (0.0, 1.0)
    assert estimate([]) is None
    assert paired_difference([0.0], [1.0]) == (-1.0, 1.0)


def test_clustered_interval_by_hand():
    # means 0, 0.5, 0.5, 1: p = 0.5, variance 1/6, effective n = 4 * 0.25 * 6 = 6, t with 3 degrees = 3.182
    # centre 0.5, half-width 3.182 / (1 + 10.127/6) * sqrt(0.25/6 + 10.127/144) = 0.3963
    assert clustered([0.0, 0.5, 0.5, 1.0]) == pytest.approx((0.1037, 0.8963), abs=1e-4)
    # at most 4 answers: half-width 3.182 / (1 + 10.127/4) * sqrt(0.25/4 + 10.127/64) = 0.4234
    assert clustered([0.0, 0.5, 0.5, 1.0], most=4) == pytest.approx((0.0766, 0.9234), abs=1e-4)


def test_several_answers_a_problem_narrow_the_interval_only_as_far_as_problems_differ():
    # 40 problems answered 8 times: if each is always or never solved, 8 answers say no more than 1
    always_or_never = clustered([1.0] * 20 + [0.0] * 20)
    assert tuple(always_or_never) == pytest.approx(tuple(wilson(20, 40)), abs=0.01)
    # if every problem is solved half of the time, the problems do not differ at all
    alike = clustered([0.5, 0.625, 0.375, 0.5] * 10)
    assert alike.high - alike.low < 0.25 * (always_or_never.high - always_or_never.low)


@pytest.mark.parametrize(
    ("probability", "df", "printed"),  # of any table of the distribution
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 29, 2.045), (0.975, 120, 1.980), (0.8, 1, 1.376), (0.8, 10, 0.879)],
)
def test_quantiles_of_t_are_those_of_printed_tables(probability, df, printed):
    assert student.quantile(probability, df) == pytest.approx(printed, abs=5e-4)


def test_the_t_distribution_is_the_incomplete_beta_function():
    for df in (1, 2, 3, 8, 29, 100, 499):
        for t in (0.0, 0.3, 1.7, 6.0):
            tail = float(mpmath.betainc(df / 2, 0.5, 0, df / (df + t * t), regularized=True))
            assert student.within(t, df) == pytest.approx(1 - tail, abs=1e-12)


# -- Differences ---------------------------------------------------------------------------------------------------


def newcombe(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """Method 10 of Newcombe 1998 for b - a on a table of counts, as published."""
    n = both + only_a + only_b + neither
    a, b = both + only_a, both + only_b
    (low_a, high_a), (low_b, high_b), (p_a, p_b) = wilson(a, n), wilson(b, n), (a / n, b / n)
    cross = both * neither - only_a * only_b
    cross = max(cross - n / 2, 0) if cross > 0 else cross
    phi = cross / (a * (n - a) * b * (n - b)) ** 0.5
    below = (p_b - low_b) ** 2 - 2 * phi * (p_b - low_b) * (high_a - p_a) + (high_a - p_a) ** 2
    above = (high_b - p_b) ** 2 - 2 * phi * (high_b - p_b) * (p_a - low_a) + (p_a - low_a) ** 2
    return p_b - p_a - below**0.5, p_b - p_a + above**0.5


@pytest.mark.parametrize("table", [(400, 300, 500, 800), (1500, 20, 60, 420), (10, 700, 900, 390), (3, 40, 5, 1952)])
def test_with_one_answer_a_problem_the_difference_has_newcombes_interval(table):
    cells = [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    a, b = zip(*[cell for cell, count in zip(cells, table, strict=True) for _ in range(count)], strict=True)
    assert paired_difference(a, b) == pytest.approx(newcombe(*table), abs=2e-4)  # t with 1,999 degrees is nearly z


def test_the_difference_the_other_way_round_has_the_opposite_interval():
    chance = random.Random(0)
    a, b = ([chance.randrange(9) / 8 for _ in range(30)] for _ in range(2))
    low, high = paired_difference(a, b, 8)
    assert paired_difference(b, a, 8) == pytest.approx((-high, -low))


def test_models_that_never_differed_have_an_interval_of_positive_width_around_0():
    for shares in ([0.0] * 30, [1.0] * 30, [0.0, 1.0] * 15):
        low, high = paired_difference(shares, shares)
        assert -0.15 < low < -0.02 < 0.02 < high < 0.15


def test_a_difference_is_never_beyond_1():
    low, high = paired_difference([0.0] * 5, [1.0] * 5)
    assert 0 < low < high == 1.0


# -- Coverage ------------------------------------------------------------------------------------------------------

USUAL = [difficulty for difficulty in DIFFICULTIES if difficulty != WEAKEST]


@pytest.mark.parametrize("difficulty", USUAL)
def test_accuracy_of_30_problems_by_8_samples_is_covered_as_often_as_it_says(difficulty):
    assert 0.93 <= of_accuracy(difficulty, problems=30, samples=8, replications=10_000).share <= 0.97


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_accuracy_of_500_problems_by_1_sample_is_covered_as_often_as_it_says(difficulty):
    assert 0.93 <= of_accuracy(difficulty, problems=500, samples=1, replications=4_000).share <= 0.97


def test_the_weakest_spot_is_a_few_solved_problems_among_30():
    # three are expected; whether it is one or six, few of them tell how the rest would do
    assert 0.92 <= of_accuracy(WEAKEST, problems=30, samples=8, replications=10_000).share < 0.94


def test_counting_every_sample_as_a_problem_would_cover_far_too_seldom():
    rng, (draw, truth) = np.random.default_rng(0), DIFFICULTIES["beta(0.5, 0.5)"]
    means = shares_right(rng, draw(rng, (2_000, 30)), 8).mean(axis=1)
    intervals = [wilson(240 * mean, 240) for mean in means.tolist()]
    assert sum(low <= truth <= high for low, high in intervals) / len(intervals) < 0.75


@pytest.mark.parametrize(("problems", "samples", "k"), [(30, 8, 4), (30, 8, 8), (30, 64, 32), (500, 4, 2)])
@pytest.mark.parametrize("difficulty", USUAL)
def test_pass_at_k_is_covered_often_enough(difficulty, problems, samples, k):
    assert of_pass_at_k(difficulty, problems, samples, k, replications=2_000).share >= 0.92


@pytest.mark.parametrize(("problems", "samples"), [(30, 1), (30, 8), (200, 1)])
@pytest.mark.parametrize("change", ["the same", "better"])
@pytest.mark.parametrize("difficulty", USUAL)
def test_a_difference_is_covered_often_enough(difficulty, change, problems, samples):
    assert of_difference(difficulty, change, problems, samples, replications=2_000).share >= 0.93
