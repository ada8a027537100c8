"""`zero doctor`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from recipes.errors import FAILED, exit_codes

MARKS = {True: "shown", False: "FAILED", None: "not shown"}


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Prove it, with the built-in model: some minutes.")] = False,
) -> None:
    """Say what this machine has and lacks, and what mends it. Exit code 1: a run cannot work."""
    with exit_codes():
        from recipes.jobs.doctor.machine import examine

        lacks = False
        for finding in examine():
            lacks |= bool(finding.mend and finding.needed)
            typer.echo(f"{finding.what:<20} {finding.found}" + (f"  ->  {finding.mend}" if finding.mend else ""))
        if deep and not lacks:
            typer.echo("")
            lacks = not _proven()
        raise typer.Exit(FAILED if lacks else 0)


def _proven() -> bool:
    from recipes.jobs.doctor.proof import prove

    folder = Path(tempfile.mkdtemp(prefix="zero-doctor-"))
    failed = False
    for shown in prove(folder):
        failed |= shown.ok is False
        typer.echo(f"{MARKS[shown.ok]:<10} {shown.what:<44} {shown.found}")
    if failed:
        typer.echo(f"what the failed runs left: {folder}")
    else:
        shutil.rmtree(folder)
    return not failed
