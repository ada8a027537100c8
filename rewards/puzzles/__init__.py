"""Grading the puzzles of the reasoning-gym package."""
