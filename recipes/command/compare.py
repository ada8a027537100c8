"""`zero compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from recipes.command.loading import loading
from recipes.errors import exit_codes


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR_A DIR_B ...", help="Folders of evaluations, or of runs; a chain is its stages."),
    ],
    any_protocol: Annotated[
        bool, typer.Option("--any-protocol", help="Also where the two were asked, sampled or graded differently.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="The page of several runs. Default: compare.html beside the first one.")
    ] = None,
) -> None:
    """Whether models differ: the paired difference, its p-value, and the problems that flipped.

    Of training runs: their curves, recipes and last evaluations on one page; of a run and its control (the same recipe
    with train.control) also the gain over the control. Several evaluations are each compared with the first.
    """
    with exit_codes():
        with loading("recipes.jobs.controls", "the statistics of comparisons"):
            from recipes.jobs.controls import is_run
            from recipes.jobs.watch_chain import runs_of

        runs = [run for folder in folders for run in runs_of(folder)]
        _check(folders, runs)
        if is_run(runs[0]):
            _compare_runs(runs, output or runs[0].resolve().parent / "compare.html")
        else:
            _compare_evaluations(runs, any_protocol)


def _compare_runs(runs: Sequence[Path], page: Path) -> None:
    from eval.stats.compare import CompareError
    from recipes.jobs.compare_runs import pairs_of, read_members, render, write_comparison
    from recipes.jobs.controls import gain
    from recipes.jobs.controls import render as render_gain

    gained, refused = False, ""
    if len(runs) == 2:
        try:
            typer.echo(render_gain(gain(*runs)))
            gained = True
        except CompareError as error:
            refused = str(error)
    try:
        members = read_members(runs)
    except CompareError as error:
        if not gained:
            raise
        typer.echo(f"no page of both: {error}")
        return
    if refused and any((one.recipe.get("train") or {}).get("control", "none") != "none" for one in members):
        typer.echo(f"not compared as a run and its control: {refused}")
    pairs = pairs_of(members)
    typer.echo(render(members, pairs))
    typer.echo(f"page: {write_comparison(members, pairs, page)}")


def _compare_evaluations(folders: Sequence[Path], any_protocol: bool) -> None:
    from eval.stats.compare import compare_folders, unshared
    from eval.stats.compare_text import render

    first, *others = folders
    for other in others:
        if len(others) > 1:
            typer.echo(f"A {first}, B {other}")
        for comparison in compare_folders(first, other, any_protocol):
            typer.echo(render(comparison))
        for names, side in zip(unshared(first, other), ("A", "B"), strict=True):
            if names:
                typer.echo(f"only in {side}: {', '.join(names)}")


def _check(folders: Sequence[Path], runs: Sequence[Path]) -> None:
    """Raises CompareError unless there are several, all of runs or all of evaluations."""
    from eval.stats.compare import CompareError
    from recipes.jobs.controls import is_run

    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise CompareError(f"{missing[0]} does not exist; expected the folder of an evaluation, or of a run")
    if len(runs) < 2:
        given = f"{folders[0]} alone" if len(folders) == 1 else f"{', '.join(map(str, folders))}, with one run in all"
        raise CompareError(f"got {given}; expected two folders or more, of evaluations or of runs")
    kinds = [is_run(one) for one in runs]
    if len(set(kinds)) == 2:
        run, other = runs[kinds.index(True)], runs[kinds.index(False)]
        raise CompareError(
            f"{run} is a training run, {other} is not; give runs, such as a run and its control, or evaluations "
            f"(zero eval of {run / 'checkpoints'}, for one)"
        )
