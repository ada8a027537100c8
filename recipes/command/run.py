"""`zero run`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.command.complete import recipe_names
from recipes.command.loading import loading
from recipes.errors import exit_codes
from recipes.hub import give_up_unless_reachable, hub_names
from recipes.jobs.processes import as_rank, launch, rank, restarted
from recipes.jobs.resumed import changed_otherwise, in_words
from recipes.jobs.run_dir import check_unused, trained_nothing

if TYPE_CHECKING:
    from recipes.schema.recipe import Recipe


def run(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe's file, or a built-in's name (see `zero recipes`).", autocompletion=recipe_names),
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, such as train.steps=50.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The run's directory. Default: runs/RECIPE-TIMESTAMP.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint in --output; --set train.steps=N may extend it."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, the prompts and what rewards pay; start nothing.")
    ] = False,
) -> None:
    """Train a model as a recipe says."""
    with as_rank(), exit_codes():
        if dry_run:
            _dry_run(recipe, overrides or [], output, resume)
            raise typer.Exit
        if rank():
            from recipes.jobs.learner import follow
            from recipes.schema.load import load_recipe

            follow(load_recipe(recipe, overrides or []))
            raise typer.Exit
        # All ranks are started again when one is lost; the leader has the output's name from the launcher.
        resume = resume or bool(restarted() and output and (output / "recipe.yaml").is_file())
        settings, folder = _prepare(recipe, overrides or [], output, resume)
        if settings.train.processes > 1 and rank() is None:
            code = _launch(settings, recipe, folder, resume, overrides or [])
        else:
            if said := give_up_unless_reachable(hub_names(settings)):
                typer.echo(said, err=True)
            with loading("recipes.jobs.train"):
                from recipes.jobs.train import run as run_recipe

            code = run_recipe(settings, recipe, folder, resume, overrides or [])
        raise typer.Exit(code)


def _dry_run(recipe: str, overrides: list[str], output: Path | None, resume: bool) -> None:
    from recipes.schema.load import RecipeError, load_recipe

    if resume:
        raise RecipeError("--resume: a dry run is of a new run; leave one of the two out")
    settings = load_recipe(recipe, overrides)
    said = give_up_unless_reachable(hub_names(settings))
    with loading("recipes.jobs.dry_run"):
        from rich.console import Console

        from recipes.jobs.dry_run import dry_run
    dry_run(settings, recipe, output, Console(), said)


def _launch(settings: Recipe, recipe: str, folder: Path, resume: bool, overrides: list[str]) -> int:
    arguments = ["run", recipe, *(part for override in overrides for part in ("--set", override))]
    arguments += ["--output", str(folder), *(["--resume"] if resume else [])]
    return launch(arguments, settings.train.processes, settings.train.max_restarts, folder / "logs" / "ranks")


def _prepare(spec: str, overrides: list[str], output: Path | None, resume: bool) -> tuple[Recipe, Path]:
    """The recipe to run and the directory to run it in."""
    from recipes.schema.load import RecipeError, differences, load_recipe

    recipe = load_recipe(spec, overrides)
    if not resume:
        folder = output or Path("runs") / f"{Path(spec).stem}-{datetime.now():%Y%m%d-%H%M%S}"
        check_unused(folder)
        return recipe, folder
    if output is None or not (output / "recipe.yaml").is_file():
        found = "no --output is given" if output is None else f"{output} has no recipe.yaml"
        raise RecipeError(f"--resume: {found}; expected --output with the directory of the run to go on with")
    stored = load_recipe(str(output / "recipe.yaml"))
    changed = changed_otherwise(differences(stored.model_dump(), recipe.model_dump()), overrides, recipe.rollout.engine)
    if changed and not trained_nothing(output):  # else it begins anew, and may be another
        lines = "; ".join(f"{key} is {there!r} there, {here!r} here" for key, (there, here) in changed.items())
        raise RecipeError(
            f"--resume: {output} runs another recipe: {lines}. Give the RECIPE and --set of its start, or "
            f"{output / 'recipe.yaml'}; only {in_words()} may be changed"
        )
    return recipe, output
