"""Group-relative advantages.

    group_std   A_i = (r_i - mean(r)) / (std(r) + 1e-4)      GRPO, DeepSeekMath (arXiv 2402.03300), eq. 3
    group_mean  A_i =  r_i - mean(r)                         Dr. GRPO (arXiv 2503.20783)

Departure from the papers: a completion whose reward is None (it could not be scored) is left out of
mean and std, and its advantage is None, so that it is not trained on. The std is the unbiased one
(divided by G - 1), as in TRL.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

STD_FLOOR = 1e-4  # TRL's; keeps a group of nearly equal rewards from exploding

Kind = Literal["group_std", "group_mean"]


def group_advantages(rewards_G: Sequence[float | None], kind: Kind = "group_std") -> list[float | None]:
    """Advantages of one group's completions, in order; None where the reward is None.

    Degenerate groups: one scored completion, or all scored alike, gives exactly 0 for each of them.
    """
    scored = [r for r in rewards_G if r is not None]
    if len(set(scored)) <= 1:
        return [None if r is None else 0.0 for r in rewards_G]
    mean = statistics.fmean(scored)
    scale = statistics.stdev(scored) + STD_FLOOR if kind == "group_std" else 1.0
    return [None if r is None else (r - mean) / scale for r in rewards_G]
