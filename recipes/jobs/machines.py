"""Whether a machine of a cluster can do its part in a run: what it has to see, and what has to be the same."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpo.policy.folder import is_folder
from grpo.record.atomic import writing
from grpo.rollout.fleet.host import Seen, versions
from recipes.schema.load import model_settings
from recipes.schema.recipe import Recipe

TRAINER, SERVER = "trainer process", "server"  # a machine's part


@dataclass(frozen=True, slots=True)
class Nonce:
    """A file in the run's folder that was never there before: who reads its text sees the folder."""

    file: str
    text: str


@contextmanager
def nonce_in(folder: Path) -> Iterator[Nonce]:
    text = secrets.token_hex(16)
    file = folder / f".seen-{text[:8]}"
    with writing(file):
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    try:
        yield Nonce(str(file), text)
    finally:
        file.unlink(missing_ok=True)


def files_of(recipe: Recipe, nonce: Nonce, part: str) -> dict[str, str | None]:
    """What the machine has to see where this one has it, for `Host.look`."""
    server, model = recipe.rollout.server, model_settings(recipe)
    files: dict[str, str | None] = {model.path: None} if is_folder(model.path) else {}
    if part == TRAINER:
        files |= {nonce.file: nonce.text, os.getcwd(): None}
    if server.weight_transfer == "files" and server.weight_dir:
        files[server.weight_dir] = None
    elif server.weight_transfer == "files":
        files[nonce.file] = nonce.text
    return files


def complaint(seen: Seen, part: str, folder: Path) -> str:
    """Why it cannot do its part; "" if it can. `folder`: the run's."""
    here, there = versions(), seen.versions
    if differ := [name for name in here if name in there and here[name] != there[name]]:
        names = "; ".join(f"{name} is {there[name]} there and {here[name]} here" for name in differ)
        return f"{seen.address} has other versions ({names}); install the same on all nodes"
    for path in seen.missing:
        if Path(path).parent == folder:
            return (
                f"{seen.address}, where a {part} is to run, does not see the run's folder {folder}: every trainer "
                "process writes its part of a checkpoint there, and weight_transfer: files the weights. Give an "
                "--output on a file system that all nodes mount"
            )
        return (
            f"{seen.address}, where a {part} is to run, has no {path}, which is here; it has to be at the same path on "
            "all nodes"
        )
    return ""
