"""Student's t distribution with a whole number of degrees of freedom, without scipy.

P(|T| < t) = the finite series of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4,
in angle = atan(t / sqrt(df)).
"""

from __future__ import annotations

import functools
import math


def within(t: float, df: int) -> float:
    """P(|T| < t) for t >= 0. Raises ValueError below one degree of freedom."""
    if df < 1:
        raise ValueError(f"df: got {df}, expected 1 or more")
    angle = math.atan(t / math.sqrt(df))
    sine, cosine2 = math.sin(angle), math.cos(angle) ** 2
    odd = df % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(1 + odd, df, 2):
        total += term
        term *= cosine2 * power / (power + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@functools.cache
def quantile(probability: float, df: int) -> float:
    """The t below which T falls with this probability, 0.5 <= probability < 1. Example: quantile(0.975, 29) = 2.045"""
    inside, low, high = 2 * probability - 1, 0.0, 1.0
    while within(high, df) < inside:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, df) < inside else (low, middle)
    return high
