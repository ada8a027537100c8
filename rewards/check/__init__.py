"""Try a reward function before a GPU is spent on it."""

from rewards.check.run import CheckReport, KindSummary, check_reward

__all__ = ["CheckReport", "KindSummary", "check_reward"]
