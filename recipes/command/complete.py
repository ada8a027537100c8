"""What the shell completes where a recipe is expected."""

from __future__ import annotations

from pathlib import Path


def recipe_names(incomplete: str) -> list[str]:
    """The built-in recipes, and the YAML files and the folders that begin like it."""
    from recipes.schema.load import builtin_recipes

    files = Path().glob(f"{incomplete}*") if not Path(incomplete).is_absolute() else []
    there = [f"{path}/" if path.is_dir() else str(path) for path in files if path.is_dir() or path.suffix == ".yaml"]
    return [name for name in [*builtin_recipes(), *sorted(there)] if name.startswith(incomplete)]
