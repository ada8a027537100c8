"""The `zero` command; its exit codes are in errors.py.

Nothing heavy is imported here: `zero --help` must answer at once.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from grpo.rollout.cores import rest_early
from recipes.command import evaluate as eval_cli
from recipes.command import filter as filter_cli
from recipes.command.rewards import rewards
from recipes.errors import exit_codes, run_async
from recipes.jobs.run_dir import check_unused

if TYPE_CHECKING:
    from recipes.schema.recipe import Recipe

main = typer.Typer(
    name="zero",
    help="Post-train a language model to reason, DeepSeek-R1-Zero style.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
main.add_typer(rewards)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("zero-rl"))
        raise typer.Exit


@main.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    rest_early(os.environ)


@main.command()
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
    with exit_codes():
        settings, folder = _prepare(recipe, overrides or [], output, resume)
        from recipes.jobs.train import run as run_recipe

        code = run_recipe(settings, recipe, folder, resume, overrides or [])
    raise typer.Exit(code)


@main.command()
def recipes() -> None:
    """List the built-in recipes."""
    from rich.console import Console
    from rich.table import Table

    from recipes.schema.load import builtin_recipes

    table = Table("recipe", "what it is for", box=None)
    for name, (_, comment) in builtin_recipes().items():
        table.add_row(name, comment)
    Console().print(table)


@main.command()
def score(
    data: Annotated[
        Path,
        typer.Option(help="FILE.jsonl with `completion`, `answer` and the reward's columns; or a run's directory."),
    ],
    reward: Annotated[
        list[str],
        typer.Option(metavar="SPEC", help="A built-in's or an installed name, file.py:function, module:function."),
    ],
    output: Annotated[Path | None, typer.Option(help="Gets one JSON line a completion, in order.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="One for each --reward, in their order.")] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An argument of the reward; of several: NAME.KEY=VALUE."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="ARGUMENT=COLUMN", help="Which column an argument of the reward takes.")
    ] = None,
    completions: Annotated[
        Literal["text", "messages"] | None, typer.Option(help="What the rewards are given, whatever the data has.")
    ] = None,
) -> None:
    """Score completions of a file, or of a run again under another reward."""
    with exit_codes():
        from recipes.jobs.score import score as score_data

        typer.echo(score_data(reward, data, output, weight or [], arg or [], column or [], completions))


main.command("eval")(eval_cli.evaluate)
main.command("compare")(eval_cli.compare)
main.command("filter")(filter_cli.filter_problems)


@main.command()
def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_RECIPE", help="A model's folder, its hub id, or tiny; or a recipe.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
) -> None:
    """Serve a model for runs that name this server in rollout.server.urls; a recipe's, with its settings."""
    with exit_codes():
        from grpo.rollout.vllm.serve import serve as serve_model
        from recipes.schema.load import load_recipe, model_settings, names_recipe, resolve_model

        if not names_recipe(model):
            serve_model(resolve_model(model), port, run=run_async)
            return
        recipe = load_recipe(model)
        settings = model_settings(recipe).model_copy(update={"lora": None})  # by url, weights go merged
        serve_model(settings.path, port, model=settings, rollout=recipe.rollout, run=run_async)


@main.command()
def report(run_dir: Annotated[Path, typer.Argument(help="A run's directory, finished or not.")]) -> None:
    """Write report.html and learning_curve.png of a run, and draw its curve."""
    with exit_codes():
        from grpo.record.report import read_run, terminal_curve, write_report
        from recipes.schema.load import RecipeError

        if not (run_dir / "recipe.yaml").is_file():
            raise RecipeError(f"{run_dir} has no recipe.yaml; expected a run's directory")
        path = write_report(run_dir)
        known = read_run(run_dir)
        for sentence in known.unread:
            typer.echo(sentence, err=True)
        typer.echo(terminal_curve(known, 100))
        typer.echo(f"report: {path}")


@main.command()
def import_gguf(
    file: Annotated[Path, typer.Argument(help="A model in GGUF format.")],
    folder: Annotated[Path, typer.Argument(help="Where the transformers checkpoint goes; a new folder.")],
) -> None:
    """Turn a GGUF file into a transformers checkpoint, for machines that reach no hub."""
    with exit_codes():
        from recipes.jobs.import_gguf import import_gguf as convert

        typer.echo(f"{folder}: {convert(file, folder) / 1e6:.0f}M parameters")


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
    if any(override.startswith("train.steps=") for override in overrides):
        changed.pop("train.steps", None)
    if changed:
        lines = "; ".join(f"{key} is {there!r} there, {here!r} here" for key, (there, here) in changed.items())
        raise RecipeError(
            f"--resume: {output} runs another recipe: {lines}. Give the RECIPE and --set of its start, or "
            f"{output / 'recipe.yaml'}; only train.steps may be changed, by --set"
        )
    return recipe, output
