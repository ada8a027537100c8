"""Recipes, and the Python interface to them: `recipes.run`, `recipes.evaluate`, and their folders as objects.

Each name is imported when it is first used: the `zero` command imports this package, too, and must answer at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.api.calls import evaluate as evaluate
    from recipes.api.calls import run as run
    from recipes.api.child import RunFailedError as RunFailedError
    from recipes.api.folders import Evaluation as Evaluation
    from recipes.api.folders import Run as Run
    from recipes.errors import InputError as InputError

_HOMES = {
    "Evaluation": "recipes.api.folders",
    "InputError": "recipes.errors",
    "Run": "recipes.api.folders",
    "RunFailedError": "recipes.api.child",
    "evaluate": "recipes.api.calls",
    "run": "recipes.api.calls",
}
__all__ = ["Evaluation", "InputError", "Run", "RunFailedError", "evaluate", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recipes' has no attribute {name!r}")
    from recipes.packages import import_ours

    return getattr(import_ours(_HOMES[name]), name)
