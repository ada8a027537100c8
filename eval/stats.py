"""Intervals for accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import NamedTuple

Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile


class Interval(NamedTuple):
    low: float
    high: float


def wilson(successes: float, n: float) -> Interval:
    """95% interval of a binomial proportion (Wilson, JASA 1927). n = 0 gives (0, 1): nothing is known."""
    if n == 0:
        return Interval(0.0, 1.0)
    p, z2 = successes / n, Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At p = 0 and p = 1 the bound is exactly 0 and 1; rounding must not move it.
    return Interval(0.0 if successes == 0 else center - half, 1.0 if successes == n else center + half)


def clustered(means: Sequence[float]) -> Interval:
    """95% interval of the mean over problems, each of which is answered several times.

    Problems are the independent units, so the variance is taken over their means. Wilson's interval is then
    formed with the number of independent answers that would have this variance: it stays within 0 and 1, and
    with one answer a problem it is the plain Wilson interval (to a factor (n - 1) / n of the variance).
    """
    n = len(means)
    if n < 2:
        return wilson(sum(means), n)
    p, spread = fmean(means), variance(means)
    effective = n * p * (1 - p) / spread if spread > 0 and 0 < p < 1 else float(n)
    return wilson(p * effective, effective)
