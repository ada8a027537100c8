"""The p-value of a paired comparison, exactly.

If two models are equally good on every problem, each difference between them could as well have had the other sign.
The p-value is the share of all 2^n choices of signs whose sum is at least as far from 0 as the observed one (Fisher's
permutation test). With one answer a problem this is McNemar's exact test. No choice is listed: the distribution of
the sum is built up one problem at a time, on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

GRID = 1_000_000  # points that the sum may have; bounds memory, and the time for many problems


def sign_flip(differences: Sequence[Fraction]) -> float:
    """Two-sided p-value that the differences, each in -1 to 1, are symmetric around 0; 1.0 where none differs.

    They lie on the grid of their common denominator. If that is too fine, because the problems have different numbers
    of samples, they are rounded to a coarser one: the test of what was rounded is exact too.
    """
    changed = [difference for difference in differences if difference]
    if not changed:
        return 1.0
    unit = min(math.lcm(*(difference.denominator for difference in changed)), GRID // len(changed))
    steps = [round(difference * unit) for difference in changed]
    total, observed = sum(map(abs, steps)), abs(sum(steps))
    chances = np.zeros(total + 1)  # of the sum of the positive steps; the sum of all is twice that, less the total
    chances[0], top = 1.0, 0
    for step in map(abs, steps):
        moved = 0.5 * chances[: top + 1]
        chances[: top + 1] = moved
        chances[step : top + step + 1] += moved
        top += step
    sums = 2 * np.arange(total + 1) - total
    return min(float(chances[np.abs(sums) >= observed].sum()), 1.0)
