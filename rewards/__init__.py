"""Rule-based rewards: read an answer, grade it, and combine rewards of our own and of the user."""

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
