"""TensorBoard, Weights & Biases and Trackio by name, through accelerate's trackers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.atomic import write_atomic
from grpo.flatten import flatten

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "zero-rl"
NAMES = ("tensorboard", "wandb", "trackio")  # of the package, of pip's extra and of accelerate's tracker alike


def start_trackers(
    names: Sequence[str], run_dir: Path, recipe: Mapping[str, Any], resume_step: int
) -> list[GeneralTracker]:
    """Start the trackers `names`; after a resume they go on with the run that they had.

    TensorBoard forgets the steps beyond `resume_step`. The other two cannot: of a step that is computed again,
    Weights & Biases keeps the first values and Trackio both.

    Raises: ValueError for an unknown name or a package that is not installed, before any is started.
    """
    for name in names:
        if name not in NAMES:
            raise ValueError(f"train.trackers: got {name!r}, expected one of {', '.join(NAMES)}")
        if find_spec(name) is None:
            raise ValueError(f"train.trackers: {name} is not installed; run: pip install 'zero-rl[{name}]'")
    if not names:
        return []
    run_id = _run_id(run_dir, resume_step)
    trackers = [_tracker(name, run_dir, run_id, resume_step) for name in names]
    for tracker in trackers:
        tracker.start()
        if not resume_step:
            tracker.store_init_configuration(_scalars(recipe))
    return trackers


def _tracker(name: str, run_dir: Path, run_id: str, resume_step: int) -> GeneralTracker:
    from accelerate import PartialState, tracking

    PartialState()  # accelerate's trackers log through it
    if name == "tensorboard":
        purge = {"purge_step": resume_step + 1} if resume_step else {}
        return tracking.TensorBoardTracker("tensorboard", logging_dir=run_dir, **purge)
    title = f"{run_dir.name}-{run_id}"
    if name == "wandb":
        return tracking.WandBTracker(PROJECT, name=title, id=run_id, resume="allow", dir=str(run_dir))
    return tracking.TrackioTracker(PROJECT, name=title, resume="allow")


def _run_id(run_dir: Path, resume_step: int) -> str:
    """What a tracker knows this run by: new for a new run, the same after a resume."""
    path = run_dir / "logs" / "tracker-id"
    if not (resume_step and path.exists()):
        write_atomic(path, uuid.uuid4().hex[:8])
    return path.read_text()


def _scalars(values: Mapping[str, Any]) -> dict[str, str | float | bool]:
    """{"a": {"b": 1}} -> {"a.b": 1}: trackers take scalars only."""
    flat = flatten(values)
    return {key: value if isinstance(value, str | int | float) else str(value) for key, value in flat.items()}
