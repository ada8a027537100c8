"""Intervals of 95% for what is a mean over problems, each of which is answered once or several times.

    mean          Wilson's interval (JASA 1927) with
                      z = the t quantile with n - 1 degrees of freedom
                      n = the effective number of answers, p (1 - p) n / variance of the problems' means
    difference    of two models on the same problems: MOVER, from the two intervals above and their correlation

The problems are the independent units and stand for all problems of their kind (arXiv 2411.00640, section 2), so a
ninth answer to the same problem adds less than an answer to another one. Of the intervals for clustered proportions
that Franco, Little, Louis and Slud compare (Journal of Survey Statistics and Methodology 7, 2019), Wilson's is what
they recommend; `python -m benchmarks.coverage` measures how often both of ours hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eval.stats import student

Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its 95% interval. Example: Estimate(value=0.25, low=0.18, high=0.34)"""

    value: float
    low: float
    high: float


def wilson(successes: float, n: float, z: float = Z95) -> Interval:
    """95% interval of a binomial proportion (Wilson, JASA 1927). n = 0 gives (0, 1): nothing is known."""
    if n == 0:
        return Interval(0.0, 1.0)
    p, z2 = successes / n, z**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At p = 0 and p = 1 the bound is exactly 0 and 1; rounding must not move it.
    return Interval(0.0 if successes == 0 else center - half, 1.0 if successes == n else center + half)


def clustered(means: Sequence[float], most: float = math.inf) -> Interval:
    """95% interval of the mean of the problems' means, each in 0 to 1. Fewer than two problems say nothing: (0, 1).

    The effective number of answers is what a binomial proportion with this variance would have been measured on, and
    no more than `most`. Where all problems have the same mean, which says nothing about how they vary, it is the
    number of problems.
    """
    n = len(means)
    if n < 2:
        return Interval(0.0, 1.0)
    p, spread = _mean(means), _product(means, means) / (n - 1)
    effective = min(n * p * (1 - p) / spread, most) if spread > 0 and 0 < p < 1 else float(n)
    return wilson(p * effective, effective, student.quantile(0.975, n - 1))


def estimate(means: Sequence[float], most: float = math.inf) -> Estimate | None:
    """The mean of the problems' means with its interval; None without problems."""
    return Estimate(_mean(means), *clustered(means, most)) if means else None


def paired_difference(a: Sequence[float], b: Sequence[float], samples: float = 1) -> Interval:
    """95% interval of mean(b) - mean(a), where a[i] and b[i] are two models' means on problem i, of `samples` answers.

    MOVER (Zou and Donner, Statistics in Medicine 27, 2008; with one answer a problem, method 10 of Newcombe,
    Statistics in Medicine 17, 1998): each bound combines the distances to the bounds of the two means as the standard
    errors of correlated means combine. The correlation gets Newcombe's continuity correction of half an answer, so
    that two models that never differed do not differ by exactly 0. Fewer than two problems say nothing: (-1, 1).
    """
    if len(a) < 2:
        return Interval(-1.0, 1.0)
    mean_a, mean_b, (low_a, high_a), (low_b, high_b) = _mean(a), _mean(b), clustered(a), clustered(b)
    together, scale = _product(a, b), math.sqrt(_product(a, a) * _product(b, b))
    if together > 0:
        together = max(together - 0.5 / samples, 0.0)
    correlation = together / scale if scale > 0 else 0.0
    below = _combined(mean_b - low_b, high_a - mean_a, correlation)
    above = _combined(high_b - mean_b, mean_a - low_a, correlation)
    return Interval(mean_b - mean_a - below, mean_b - mean_a + above)


def independent_difference(a: Estimate, b: Estimate) -> Interval:
    """95% interval of b - a, measured on different problems: `paired_difference` without any correlation."""
    difference = b.value - a.value
    below = _combined(b.value - b.low, a.high - a.value, 0.0)
    above = _combined(b.high - b.value, a.value - a.low, 0.0)
    return Interval(difference - below, difference + above)


def _combined(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _product(one: Sequence[float], other: Sequence[float]) -> float:
    """Sum over problems of the product of the deviations from the two means."""
    mean, other_mean = _mean(one), _mean(other)
    return math.fsum((x - mean) * (y - other_mean) for x, y in zip(one, other, strict=True))
