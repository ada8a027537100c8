"""Advantages: what each completion of a step is worth, next to the others of its group or of the whole step.

    group_std         A = c / (std of the group's r + e)            GRPO, DeepSeekMath (arXiv 2402.03300), eq. 3
    group_mean        A = c                                         Dr. GRPO (arXiv 2503.20783)
    leave_one_out     A = r - mean of the group's other r           RLOO (arXiv 2402.14740), eq. 8
    batch_std         A = c / (std of all c of the step + e)        REINFORCE++ with baseline (arXiv 2501.03262)
    batch_reward_std  A = c / (std of all r of the step + e)        Lite PPO (arXiv 2508.08221)
    gdpo              A = s / (std of all s of the step + e)        GDPO (arXiv 2601.05242)
                      s = sum over rewards k of weight_k * group_std of reward k alone
    teacher           A = log p_teacher - log p of each token       on-policy distillation (GKD, arXiv 2306.13649, at
                      lambda = 1 with the reverse KL; MiniLLM, arXiv 2306.08543)

with r the reward, c = r - mean of the group's r, and e = 1e-4. Means and stds are over completions, the stds unbiased
(divided by n - 1), e and both as in TRL, whose scale_rewards="batch" is batch_reward_std.

Departures from the papers: a completion whose reward is None (it could not be scored) is left out of every mean and
std, and its advantage is None, so that it is not trained on. REINFORCE++ and GDPO subtract the step's mean before the
last division: it is 0, because the c of each group sum to 0, and leaving it out keeps a 0 exact.

Degenerate cases: a group with one scored completion, or with all scored alike, has exactly 0 for each of them; a step
of such groups alone is 0 throughout; a group that failed as a whole has no advantages. For gdpo this holds of each
reward; one that does not apply to a completion adds nothing to its s.
"""

from __future__ import annotations

import math
import numbers
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo.types import RewardsOfGroup
from rewards.user.loading import Purpose, load_function, user_code

STD_FLOOR = 1e-4  # TRL's; keeps a group of nearly equal rewards from exploding

Values = Sequence[float | None]  # one a completion of a group; None: not scored
Advantages = list[list[float | None]]  # one a completion, a list a group
Advantage = Callable[[Sequence[RewardsOfGroup]], Advantages]


class AdvantageError(ValueError):
    """An advantage function of one's own cannot be loaded, or broke its contract."""


def group_std(groups: Sequence[RewardsOfGroup]) -> Advantages:
    return [_standardised(group.total_G) for group in groups]


def group_mean(groups: Sequence[RewardsOfGroup]) -> Advantages:
    return [_centred(group.total_G) for group in groups]


def leave_one_out(groups: Sequence[RewardsOfGroup]) -> Advantages:
    """With n scored completions, r - (sum - r) / (n - 1) = c n / (n - 1)."""
    return [_scaled(_centred(group.total_G), _others_share(group.total_G)) for group in groups]


def batch_std(groups: Sequence[RewardsOfGroup]) -> Advantages:
    centred = group_mean(groups)
    return _over_std(centred, of=centred)


def batch_reward_std(groups: Sequence[RewardsOfGroup]) -> Advantages:
    return _over_std(group_mean(groups), of=[group.total_G for group in groups])


def gdpo(groups: Sequence[RewardsOfGroup]) -> Advantages:
    sums = [_sum_of_parts(group) for group in groups]
    return _over_std(sums, of=sums)


ADVANTAGES: Mapping[str, Advantage] = {
    function.__name__: function
    for function in (group_std, group_mean, leave_one_out, batch_std, batch_reward_std, gdpo)
}


def group_advantages(rewards_G: Values, kind: str = "group_std") -> list[float | None]:
    """Advantages of one group's completions, in order, as if it were the whole step; None where the reward is None.

    kind: of `ADVANTAGES`.
    """
    return ADVANTAGES[kind]([RewardsOfGroup(tuple(rewards_G), {"reward": tuple(rewards_G)}, {"reward": 1.0})])[0]


# -- Parts of the formulas ----------------------------------------------------------------------------------------


def _scored(values_G: Values) -> list[float]:
    return [value for value in values_G if value is not None]


def _scaled(values_G: Values, factor: float) -> list[float | None]:
    return [None if value is None else value * factor for value in values_G]


def _centred(values_G: Values) -> list[float | None]:
    scored = _scored(values_G)
    if len(set(scored)) <= 1:
        return [None if value is None else 0.0 for value in values_G]
    mean = statistics.fmean(scored)
    return [None if value is None else value - mean for value in values_G]


def _others_share(values_G: Values) -> float:
    n = len(_scored(values_G))
    return n / (n - 1) if n > 1 else 0.0


def _standardised(values_G: Values) -> list[float | None]:
    return _scaled(_centred(values_G), 1 / (_std(values_G) + STD_FLOOR))


def _std(values: Values) -> float:
    scored = _scored(values)
    return statistics.stdev(scored) if len(scored) > 1 else 0.0


def _over_std(advantages: Advantages, of: Sequence[Values]) -> Advantages:
    factor = 1 / (_std([value for values_G in of for value in values_G]) + STD_FLOOR)
    return [_scaled(advantages_G, factor) for advantages_G in advantages]


def _sum_of_parts(group: RewardsOfGroup) -> list[float | None]:
    """GDPO's s. What could not be scored as a whole is left out of the parts' baselines, too."""
    failed_G = [total is None for total in group.total_G]
    sums = [0.0] * len(failed_G)
    for name, values_G in group.parts.items():
        scored_G = [None if failed else value for failed, value in zip(failed_G, values_G, strict=True)]
        for i, value in enumerate(_standardised(scored_G)):
            sums[i] += group.weights[name] * (value or 0.0)
    return [None if failed else value for failed, value in zip(failed_G, sums, strict=True)]


# -- One's own ----------------------------------------------------------------------------------------------------


def of_teacher(groups: Sequence[RewardsOfGroup]) -> Advantages:
    """1 for each scored completion: all are trained on. What a token is worth follows in losses/objective.py."""
    return [[None if total is None else 1.0 for total in group.total_G] for group in groups]


def load_advantage(name: str) -> Advantage:
    """The function of `ADVANTAGES`, or one's own of path/to/file.py:function or package.module:function.

    One's own is called with the step's groups and returns a number for each completion, in lists like theirs; None
    leaves a completion out of training, and must be there for one whose reward is None.

    Raises AdvantageError, here if there is none, and from the call if it raises or returns anything else.
    """
    if name in ADVANTAGES:
        return ADVANTAGES[name]
    if name == "teacher":
        return of_teacher
    label = f"train.advantage {name!r}"
    purpose = Purpose("train.advantage", AdvantageError)
    function = load_function(name, purpose)

    def own(groups: Sequence[RewardsOfGroup]) -> Advantages:
        with user_code(name, function, f"given {len(groups)} groups", purpose):
            returned = _plain(function(groups))
        return _checked(label, returned, groups)

    return own


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists, at any depth."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _checked(label: str, returned: Any, groups: Sequence[RewardsOfGroup]) -> Advantages:
    expected = f"one list for each of the {len(groups)} groups, with one number for each completion"
    if not isinstance(returned, list):
        raise AdvantageError(f"{label}: got {type(returned).__name__}, expected {expected}")
    if len(returned) != len(groups):
        raise AdvantageError(f"{label}: got {len(returned)} lists, expected {expected}")
    for number, (advantages_G, group) in enumerate(zip(returned, groups, strict=True)):
        if not isinstance(advantages_G, list) or len(advantages_G) != len(group.total_G):
            raise AdvantageError(
                f"{label}: got {advantages_G!r} for group {number}, expected a list of {len(group.total_G)} numbers"
            )
        for i, (advantage, total) in enumerate(zip(advantages_G, group.total_G, strict=True)):
            if problem := _problem(advantage, total):
                raise AdvantageError(f"{label}: completion {i} of group {number}: got {advantage!r}, {problem}")
    return [[None if one is None else float(one) for one in advantages_G] for advantages_G in returned]


def _problem(advantage: Any, total: float | None) -> str | None:
    if advantage is None:
        return None
    if total is None:
        return "expected None: its reward is None, it could not be scored"
    if not isinstance(advantage, numbers.Real) or not math.isfinite(advantage):
        return "expected a finite number, or None to leave it out of training"
    return None
