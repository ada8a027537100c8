"""`zero import-gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.errors import exit_codes


def import_gguf(
    file: Annotated[Path, typer.Argument(help="A model in GGUF format.")],
    folder: Annotated[Path, typer.Argument(help="Where the transformers checkpoint goes; a new folder.")],
) -> None:
    """Turn a GGUF file into a transformers checkpoint, for machines that reach no hub."""
    with exit_codes():
        from recipes.jobs.import_gguf import import_gguf as convert

        typer.echo(f"{folder}: {convert(file, folder) / 1e6:.0f}M parameters")
