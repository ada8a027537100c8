"""`zero run`."""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
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
    from grpo.config import TrainSettings
    from recipes.schema.load import AnyRecipe

JOBS = {"grpo": "recipes.jobs.train", "sft": "recipes.jobs.sft", "sample": "recipes.jobs.sample"}  # by kind


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
            from recipes.schema.load import load_trained

            follow(load_trained(recipe, overrides or []))
            raise typer.Exit
        if _is_chain(recipe, overrides or []):
            raise typer.Exit(_run_chain(recipe, overrides or [], output, resume))
        # All ranks are started again when one is lost; the leader has the output's name from the launcher.
        resume = resume or bool(restarted() and output and (output / "recipe.yaml").is_file())
        settings, folder = _prepare(recipe, overrides or [], output, resume)
        train = getattr(settings, "train", None)  # a run that only samples has none
        if settings.kind == "grpo" and settings.cluster.address and rank() is None:
            typer.echo(f"loading Ray, to connect to {settings.cluster.address}", err=True)
            from recipes.jobs.cluster import launch_on_cluster

            code = launch_on_cluster(settings, _arguments(recipe, folder.resolve(), resume, overrides or []), folder)
        elif train and train.processes > 1 and rank() is None:
            code = _launch(train, recipe, folder, resume, overrides or [])
        else:
            code = _run_here(settings, recipe, folder, resume, overrides or [])
        raise typer.Exit(code)


def _run_here(settings: AnyRecipe, recipe: str, folder: Path, resume: bool, overrides: list[str]) -> int:
    if said := give_up_unless_reachable(hub_names(settings)):
        typer.echo(said, err=True)
    with loading(JOBS[settings.kind]):
        job = import_module(JOBS[settings.kind])
    return job.run(settings, recipe, folder, resume, overrides)


def _is_chain(recipe: str, overrides: list[str]) -> bool:
    from recipes.schema.chain import is_chain

    return is_chain(recipe, overrides)


def _run_chain(recipe: str, overrides: list[str], output: Path | None, resume: bool) -> int:
    from rich.console import Console

    from recipes.schema.chain import load_chain

    chain = load_chain(recipe, overrides)
    with loading("recipes.stages.run"):
        from recipes.stages.artifact import StageError
        from recipes.stages.run import run_chain
    if resume and output is None:
        raise StageError("--resume: no --output is given; expected --output with the directory of the chain")
    return run_chain(chain, output or _default_output(recipe), resume, overrides, Console())


def _default_output(recipe: str) -> Path:
    return Path("runs") / f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"


def _dry_run(recipe: str, overrides: list[str], output: Path | None, resume: bool) -> None:
    from recipes.schema.load import RecipeError, load_recipe

    if resume:
        raise RecipeError("--resume: a dry run is of a new run; leave one of the two out")
    if _is_chain(recipe, overrides):
        from recipes.schema.chain import load_chain

        chain = load_chain(recipe, overrides)
        with loading("recipes.stages.check"):
            from recipes.stages.check import check, in_words
        typer.echo(in_words(chain, check(chain), {}, ()))
        return
    settings = load_recipe(recipe, overrides)
    said = give_up_unless_reachable(hub_names(settings))
    with loading("recipes.jobs.dry_run"):
        from rich.console import Console

        from recipes.jobs.dry_run import dry_run
    dry_run(settings, recipe, output, Console(), said)


def _launch(train: TrainSettings, recipe: str, folder: Path, resume: bool, overrides: list[str]) -> int:
    arguments = _arguments(recipe, folder, resume, overrides)
    typer.echo(f"loading PyTorch, to start {train.processes} trainer processes", err=True)
    return launch(arguments, train.processes, train.max_restarts, folder / "logs" / "ranks")


def _arguments(recipe: str, folder: Path, resume: bool, overrides: list[str]) -> list[str]:
    """Of a rank."""
    arguments = ["run", recipe, *(part for override in overrides for part in ("--set", override))]
    return [*arguments, "--output", str(folder), *(["--resume"] if resume else [])]


def _prepare(spec: str, overrides: list[str], output: Path | None, resume: bool) -> tuple[AnyRecipe, Path]:
    """The recipe to run and the directory to run it in."""
    from recipes.schema.load import RecipeError, differences, load_run

    recipe = load_run(spec, overrides)
    if not resume:
        folder = output or _default_output(spec)
        check_unused(folder)
        return recipe, folder
    if output is None or not (output / "recipe.yaml").is_file():
        found = "no --output is given" if output is None else f"{output} has no recipe.yaml"
        raise RecipeError(f"--resume: {found}; expected --output with the directory of the run to go on with")
    stored = load_run(str(output / "recipe.yaml"))
    engine = recipe.rollout.engine
    changed = changed_otherwise(differences(stored.model_dump(), recipe.model_dump()), overrides, engine)
    if changed and not trained_nothing(output):  # else it begins anew, and may be another
        lines = "; ".join(f"{key} is {there!r} there, {here!r} here" for key, (there, here) in changed.items())
        raise RecipeError(
            f"--resume: {output} runs another recipe: {lines}. Give the RECIPE and --set of its start, or "
            f"{output / 'recipe.yaml'}; only {in_words()} may be changed"
        )
    return recipe, output
