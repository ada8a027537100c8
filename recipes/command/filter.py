"""`zero filter`. Exit codes: 0 done, 1 sampling or grading failed; others as in errors.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.command.complete import recipe_names
from recipes.command.loading import loading
from recipes.errors import exit_codes
from recipes.hub import give_up_unless_reachable, hub_names


def filter_problems(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe's file, or a built-in's name (see `zero recipes`).", autocompletion=recipe_names),
    ],
    output: Annotated[
        Path, typer.Option(metavar="FILE.jsonl", help="Gets one JSON line a training problem, as it is graded.")
    ],
    samples: Annotated[int, typer.Option(min=1, help="Completions a problem.")] = 8,
    low: Annotated[float, typer.Option(help="Below this pass rate a problem is too hard.")] = 0.1,
    high: Annotated[float, typer.Option(help="Above this pass rate it is too easy.")] = 0.9,
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Gets the recipe's held-out problems. As test.jsonl beside an --output train.jsonl, the folder is a "
            "whole dataset.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the recipe.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first training problems.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --output, with the same arguments: what is there is kept.")
    ] = False,
) -> None:
    """Measure how often the recipe's model solves each training problem, and keep those in between.

    The output is a dataset. Train on what was kept with

    task: {dataset: FILE.jsonl, columns: {question: question, answer: answer}}
    """
    with exit_codes():
        from rich.console import Console

        from recipes.schema.load import load_recipe

        settings = load_recipe(recipe, overrides or [])
        if said := give_up_unless_reachable(hub_names(settings)):
            typer.echo(said, err=True)
        with loading("recipes.jobs.filter"):
            from recipes.jobs.filter import FilterRequest, filter_task
        request = FilterRequest(output, samples, low, high, held_out, limit, resume)
        code = filter_task(settings, request, Console())
    raise typer.Exit(code)
