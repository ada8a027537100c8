"""Try a reward function before a GPU is spent on it."""

from rewards.check.report import CheckReport, KindSummary
from rewards.check.run import check_reward

__all__ = ["CheckReport", "KindSummary", "check_reward"]
