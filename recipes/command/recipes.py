"""`zero recipes`."""

from __future__ import annotations


def recipes() -> None:
    """List the built-in recipes."""
    from rich.console import Console
    from rich.table import Table

    from recipes.schema.load import builtin_recipes

    table = Table("recipe", "what it is for", box=None)
    for name, (_, comment) in builtin_recipes().items():
        table.add_row(name, comment)
    Console().print(table)
