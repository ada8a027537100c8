"""Importing our packages where the user's folder, which Python puts first, has files of the same names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
OURS = ("rewards", "grpo", "eval")


def import_ours(name: str) -> ModuleType:
    """The module `name` of ours; a `rewards.py` or `eval.py` in the working folder hides no package of ours.

    Raises ImportError if the program has already imported such a file itself: one name cannot be both.
    """
    sys.path.insert(0, str(ROOT))
    try:
        for package in OURS:
            found = importlib.import_module(package)
            if not hasattr(found, "__path__") or Path(found.__path__[0]).resolve() != ROOT / package:
                raise ImportError(
                    f"`{package}` is {found.__file__} in this program, not the package of Zero in {ROOT}: "
                    f"rename that file, or import `recipes` before it and name its functions as {package}.py:function"
                )
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT))
