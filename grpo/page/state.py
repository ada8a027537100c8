"""What the page of a run shows beside its completions, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from grpo.record.run import Run, parsed_recipe

LOG_BYTES = 16_000  # of the end of run.log


def state_of(run: Run, run_dir: Path, status: str) -> dict[str, Any]:
    """Everything of `Run`, ready to be shown; `status`: finished, running, stopped or waiting."""
    return {
        "title": run.title,
        "folder": str(run_dir),
        "status": status,
        "facts": run.facts,
        "total": _total(run.recipe),
        "steps": run.steps,
        "evaluations": [{key: value for key, value in row.items() if key != "problems"} for row in run.evaluations],
        "notes": run.notes,
        "unread": run.unread,
        "recipe": run.recipe,
        "log": log_tail(run_dir / "logs" / "run.log"),
    }


def recipe_of(text: str) -> dict[str, Any]:
    """A resolved recipe as plain data; {} if it cannot be read."""
    try:
        recipe = parsed_recipe(text)
    except yaml.YAMLError:
        return {}
    return recipe if isinstance(recipe, dict) else {}


def model_of(text: str) -> str | None:
    model = recipe_of(text).get("model")
    path = model.get("path") if isinstance(model, dict) else None
    return path if isinstance(path, str) else None


def log_tail(path: Path) -> list[str]:
    """The last lines of a log; [] if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - LOG_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines[1:] if size > LOG_BYTES else lines  # the first one is cut


def _total(text: str) -> int | None:
    train = recipe_of(text).get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    return steps if isinstance(steps, int) else None
