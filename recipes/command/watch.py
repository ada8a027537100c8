"""`zero watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.errors import exit_codes


def watch(
    run_dir: Annotated[Path, typer.Argument(help="Of a run or a chain: finished, running, or not yet begun.")],
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: 8642, or the next one that is free. 0: any.")
    ] = None,
) -> None:
    """A page on 127.0.0.1 that follows a run as it goes on; it only reads the run's directory. Ctrl-C ends it."""
    with exit_codes():
        from recipes.jobs.watch import serve_page

        serve_page(run_dir, port, lambda sentence: typer.echo(sentence))
