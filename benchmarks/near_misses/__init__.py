"""Near misses of a gold answer: what a verifier must not accept, however little it differs."""

from benchmarks.near_misses import expressions, guesses, lists, numbers, units

__all__ = ["expressions", "guesses", "lists", "numbers", "units"]
