"""What a finished stage leaves for others, and `stage.json`, which says so and is written last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo.policy.checkpoint import CHECKSUMS, STATE, checkpoints
from grpo.record.atomic import write_atomic, write_folder
from recipes.errors import InputError
from recipes.jobs.sample import DATA
from recipes.schema.load import AnyRecipe, resolve_model
from recipes.schema.sample import SampleRecipe

STAGE = "stage.json"


class StageError(InputError):
    """A chain cannot be run as asked. The message names the stage, and says what to do."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished stage. Paths are relative to its folder."""

    identity: str
    kind: str
    model: str | None  # a transformers folder
    data: str | None  # a Parquet file of examples
    summary: Mapping[str, Any]  # of its run


def read_artifact(folder: Path) -> Artifact | None:
    """None where the stage is not finished. Raises StageError for a file that is damaged."""
    file = folder / STAGE
    if not file.is_file():
        return None
    try:
        return Artifact(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise StageError(f"{file} is damaged ({error}); delete the file, and the stage is finished again") from error


def finish(folder: Path, identity: str, kind: str, recipe: AnyRecipe) -> Artifact:
    """Makes the artifact of a run that has ended: an adapter is merged, so that every stage may start from it."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if isinstance(recipe, SampleRecipe):
        artifact = Artifact(identity, kind, None, str(DATA), summary)
    else:
        artifact = Artifact(identity, kind, _model(folder, recipe), None, summary)
    write_atomic(folder / STAGE, json.dumps(asdict(artifact), indent=2))
    return artifact


def _model(folder: Path, recipe: AnyRecipe) -> str:
    newest = checkpoints(folder)[-1][1]
    merged = folder / "model"

    def write(partial: Path) -> None:
        if recipe.model.adapted:
            _merge(recipe, newest, partial)
            return
        for file in newest.iterdir():
            if file.name not in (STATE, CHECKSUMS, "trainer.json"):
                partial.joinpath(file.name).hardlink_to(file)

    if merged.exists():
        shutil.rmtree(merged)
    write_folder(merged, write)
    return merged.name


def _merge(recipe: AnyRecipe, adapter: Path, folder: Path) -> None:
    from peft import PeftModel

    from grpo.policy.load import load_model, load_tokenizer

    settings = recipe.model.model_copy(update={"path": resolve_model(recipe.model.path)})
    model = PeftModel.from_pretrained(load_model(settings), str(adapter)).merge_and_unload()
    model.save_pretrained(folder)
    load_tokenizer(settings).save_pretrained(folder)
