"""Rule-based rewards: read an answer, grade it, and combine rewards of our own and of the user.

Each name is imported when it is first used, so that `from rewards import verify` takes no more than the verifier does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.combine import RewardSum
    from rewards.registry import RewardSettings, grader, load_reward
    from rewards.types import Reward, RewardError, Score
    from rewards.verifier.math import compare, verify

__all__ = [
    "Reward",
    "RewardError",
    "RewardSettings",
    "RewardSum",
    "Score",
    "compare",
    "grader",
    "load_reward",
    "verify",
]
_HOMES = {
    "rewards.combine": ("RewardSum",),
    "rewards.registry": ("RewardSettings", "grader", "load_reward"),
    "rewards.types": ("Reward", "RewardError", "Score"),
    "rewards.verifier.math": ("compare", "verify"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'rewards' has no attribute {name!r}")
