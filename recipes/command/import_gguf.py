"""`zero import-gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.command.loading import working
from recipes.errors import exit_codes


def import_gguf(
    file: Annotated[Path, typer.Argument(help="A model in GGUF format.")],
    folder: Annotated[Path, typer.Argument(help="Where the transformers checkpoint goes; a new folder.")],
) -> None:
    """Turn a GGUF file into a transformers checkpoint, for machines that reach no hub."""
    with exit_codes():
        from recipes.jobs.import_gguf import import_gguf as convert

        with working(f"reading {file.name}, and writing it in bf16"):
            parameters = convert(file, folder)
        typer.echo(f"{folder}: {parameters / 1e6:.0f}M parameters")
