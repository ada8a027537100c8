"""`zero report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.command.loading import working
from recipes.errors import exit_codes


def report(run_dir: Annotated[Path, typer.Argument(help="A run's or a chain's directory, finished or not.")]) -> None:
    """Write report.html and learning_curve.png of a run, and draw its curve; of a chain, the table of its stages."""
    with exit_codes():
        from recipes.schema.load import RecipeError

        if (run_dir / "chain.yaml").is_file():
            _report_chain(run_dir)
            return
        if not (run_dir / "recipe.yaml").is_file():
            raise RecipeError(f"{run_dir} has no recipe.yaml; expected a run's or a chain's directory")
        with working(f"writing the page of {run_dir}"):
            from grpo.record.report import terminal_curve, write_report
            from grpo.record.run import read_run

            path = write_report(run_dir)
        known = read_run(run_dir)
        for sentence in known.unread:
            typer.echo(sentence, err=True)
        typer.echo(terminal_curve(known, 100))
        typer.echo(f"report: {path}")


def _report_chain(folder: Path) -> None:
    with working(f"writing the pages of {folder}"):
        from rich.console import Console

        from grpo.record.report import write_report
        from recipes.stages.summary import write_page

        for metrics in sorted((folder / "stages").glob("*/metrics.jsonl")):
            write_report(metrics.parent)
    write_page(folder, Console())
