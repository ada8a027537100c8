"""`zero compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.errors import exit_codes


def compare(
    folder_a: Annotated[Path, typer.Argument(metavar="DIR_A", help="The folder of an evaluation, or of a run.")],
    folder_b: Annotated[Path, typer.Argument(metavar="DIR_B", help="Another, of the same benchmarks; or its control.")],
    any_protocol: Annotated[
        bool, typer.Option("--any-protocol", help="Also where the two were asked, sampled or graded differently.")
    ] = False,
) -> None:
    """Whether two models differ: the paired difference, its p-value, and the problems that flipped.

    Of a training run and its control (the same recipe with train.control): the gain over the control.
    """
    with exit_codes():
        if _runs(folder_a, folder_b):
            from recipes.jobs.controls import gain
            from recipes.jobs.controls import render as render_gain

            typer.echo(render_gain(gain(folder_a, folder_b)))
            return
        from eval.stats.compare import compare_folders, unshared
        from eval.stats.compare_text import render

        for comparison in compare_folders(folder_a, folder_b, any_protocol):
            typer.echo(render(comparison))
        for names, side in zip(unshared(folder_a, folder_b), ("A", "B"), strict=True):
            if names:
                typer.echo(f"only in {side}: {', '.join(names)}")


def _runs(a: Path, b: Path) -> bool:
    """Whether both folders are of training runs."""
    from eval.stats.compare import CompareError
    from recipes.jobs.controls import is_run

    if is_run(a) != is_run(b):
        run, other = (a, b) if is_run(a) else (b, a)
        raise CompareError(
            f"{run} is a training run, {other} is not; give a run and its control, or two evaluations (zero eval of "
            f"{run / 'checkpoints'}, for one)"
        )
    return is_run(a)
