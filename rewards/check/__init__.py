"""Try a reward function before a GPU is spent on it."""

from rewards.check.run import CheckReport, Row, check_reward

__all__ = ["CheckReport", "Row", "check_reward"]
