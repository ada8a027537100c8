"""`zero report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.command.loading import working
from recipes.errors import exit_codes


def report(run_dir: Annotated[Path, typer.Argument(help="A run's directory, finished or not.")]) -> None:
    """Write report.html and learning_curve.png of a run, and draw its curve."""
    with exit_codes():
        from recipes.schema.load import RecipeError

        if not (run_dir / "recipe.yaml").is_file():
            raise RecipeError(f"{run_dir} has no recipe.yaml; expected a run's directory")
        with working(f"writing the page of {run_dir}"):
            from grpo.record.report import terminal_curve, write_report
            from grpo.record.run import read_run

            path = write_report(run_dir)
        known = read_run(run_dir)
        for sentence in known.unread:
            typer.echo(sentence, err=True)
        typer.echo(terminal_curve(known, 100))
        typer.echo(f"report: {path}")
