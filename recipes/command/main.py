"""The `zero` command, one file a subcommand; what each error means to it is in recipes/errors.py.

Nothing heavy is imported here: `zero --help` must answer at once.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from grpo.rollout.cores import rest_early
from recipes.command.compare import compare
from recipes.command.doctor import doctor
from recipes.command.evaluate import evaluate
from recipes.command.filter import filter_problems
from recipes.command.import_gguf import import_gguf
from recipes.command.recipes import recipes
from recipes.command.report import report
from recipes.command.rewards import rewards
from recipes.command.run import run
from recipes.command.score import score
from recipes.command.serve import serve
from recipes.command.watch import watch

main = typer.Typer(
    name="zero",
    help="Post-train a language model to reason, DeepSeek-R1-Zero style.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
main.add_typer(rewards)
main.add_typer(recipes)


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


main.command()(run)
main.command("eval")(evaluate)
main.command()(compare)
main.command()(score)
main.command()(doctor)
main.command("filter")(filter_problems)
main.command()(serve)
main.command()(report)
main.command()(watch)
main.command()(import_gguf)
