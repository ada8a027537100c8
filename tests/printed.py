"""What commands print, as tests compare it."""

from __future__ import annotations


def without_loading(errors: str) -> str:
    """Less the line that says, where there is no terminal, what is being imported."""
    return "".join(line for line in errors.splitlines(keepends=True) if not line.startswith("loading "))
