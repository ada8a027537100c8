"""`zero recipes` and `zero recipes show NAME`."""

from __future__ import annotations

from typing import Annotated

import typer

from recipes.command.complete import recipe_names
from recipes.errors import exit_codes

recipes = typer.Typer(name="recipes", help="List the built-in recipes, or show one.", invoke_without_command=True)


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    """List the built-in recipes."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from recipes.schema.load import builtin_recipes

    table = Table("recipe", "what it is for", box=None)
    for name, (_, comment) in builtin_recipes().items():
        table.add_row(name, comment)
    Console().print(table)


@recipes.command()
def show(
    name: Annotated[str, typer.Argument(help="A built-in's name, or a file.", autocompletion=recipe_names)],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, as `zero run` does.")
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every setting, defaults included, instead of the file as it stands.")
    ] = False,
) -> None:
    """Print a recipe, to read it or to begin one's own with: zero recipes show NAME > mine.yaml"""
    with exit_codes():
        from recipes.schema.load import as_yaml, load_recipe, recipe_text

        recipe = load_recipe(name, overrides or [])
        typer.echo(as_yaml(recipe) if resolved or overrides else recipe_text(name), nl=False)
