"""`zero score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from recipes.command.loading import loading
from recipes.errors import exit_codes


def score(
    data: Annotated[
        Path,
        typer.Option(
            help="FILE.jsonl or .csv with `completion`, `answer` and the reward's columns; or a run's directory."
        ),
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
        with loading("recipes.jobs.score", "the rewards"):
            from recipes.jobs.score import score as score_data

        typer.echo(score_data(reward, data, output, weight or [], arg or [], column or [], completions))
