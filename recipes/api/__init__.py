"""Calling `zero` from a program or a notebook."""
