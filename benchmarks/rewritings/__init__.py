"""Equivalent rewritings of a gold answer: what a careful grader must accept."""

from benchmarks.rewritings import expressions, latex, lists, numbers, units

__all__ = ["expressions", "latex", "lists", "numbers", "units"]
