"""`zero run`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.errors import exit_codes
from recipes.jobs.processes import as_rank, launch, rank, restarted
from recipes.jobs.run_dir import check_unused

if TYPE_CHECKING:
    from recipes.schema.recipe import Recipe

# Where a run trains, not what.
WHERE = ("train.processes", "train.replicas", "train.gpus", "train.threads", "train.max_restarts")


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's file, or a built-in's name (see `zero recipes`).")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, such as train.steps=50.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The run's directory. Default: runs/RECIPE-TIMESTAMP.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint in --output; --set train.steps=N may extend it."),
    ] = False,
) -> None:
    """Train a model as a recipe says."""
    with as_rank(), exit_codes():
        if rank():
            from recipes.jobs.learner import follow
            from recipes.schema.load import load_recipe

            follow(load_recipe(recipe, overrides or []))
            raise typer.Exit
        # All ranks are started again when one is lost; the leader has the output's name from the launcher.
        resume = resume or bool(restarted() and output and (output / "recipe.yaml").is_file())
        settings, folder = _prepare(recipe, overrides or [], output, resume)
        if settings.cluster.address and rank() is None:
            from recipes.jobs.cluster import launch_on_cluster

            code = launch_on_cluster(settings, _arguments(recipe, folder.resolve(), resume, overrides or []), folder)
        elif settings.train.processes > 1 and rank() is None:
            code = _launch(settings, recipe, folder, resume, overrides or [])
        else:
            from recipes.jobs.train import run as run_recipe

            code = run_recipe(settings, recipe, folder, resume, overrides or [])
        raise typer.Exit(code)


def _launch(settings: Recipe, recipe: str, folder: Path, resume: bool, overrides: list[str]) -> int:
    arguments = _arguments(recipe, folder, resume, overrides)
    return launch(arguments, settings.train.processes, settings.train.max_restarts, folder / "logs" / "ranks")


def _arguments(recipe: str, folder: Path, resume: bool, overrides: list[str]) -> list[str]:
    """Of a rank."""
    arguments = ["run", recipe, *(part for override in overrides for part in ("--set", override))]
    return [*arguments, "--output", str(folder), *(["--resume"] if resume else [])]


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
    changed = differences(stored.model_dump(), recipe.model_dump())
    for key in [key for key in changed if key.startswith(("rollout.server.", "cluster.")) or key in WHERE]:
        del changed[key]  # whichever servers sample, and however many processes train
    if any(override.startswith("train.steps=") for override in overrides):
        changed.pop("train.steps", None)
    if changed:
        lines = "; ".join(f"{key} is {there!r} there, {here!r} here" for key, (there, here) in changed.items())
        raise RecipeError(
            f"--resume: {output} runs another recipe: {lines}. Give the RECIPE and --set of its start, or "
            f"{output / 'recipe.yaml'}; only train.steps, by --set, rollout.server, cluster and {', '.join(WHERE)} may "
            "be changed"
        )
    return recipe, output
