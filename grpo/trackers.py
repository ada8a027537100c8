"""TensorBoard, Weights & Biases and Trackio by name, through accelerate's trackers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.atomic import write_atomic
from grpo.flatten import flatten

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "zero-rl"
NAMES = ("tensorboard", "wandb", "trackio")  # of the package, of pip's extra and of accelerate's tracker alike


class TrackerError(ValueError):
    """A tracker cannot be used. The message says what there is, or what to install."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises TrackerError for an unknown name, or a package that is not installed."""
    for name in names:
        if name not in NAMES:
            raise TrackerError(f"train.trackers: got {name!r}, expected one of {', '.join(NAMES)}")
        if find_spec(name) is None:
            raise TrackerError(f"train.trackers: {name} is not installed; run: pip install 'zero-rl[{name}]'")


class Trackers:
    """The trackers of one run; after a resume they go on with the run that they had.

    TensorBoard forgets the steps beyond `resume_step`. The other two cannot: of a step that is computed again,
    Weights & Biases keeps the first values and Trackio both.

    One that fails takes no part any more, and `take_failures` says so once.

    Raises: TrackerError as `check_trackers`, before any is started.
    """

    def __init__(self, names: Sequence[str], run_dir: Path, recipe: Mapping[str, Any], resume_step: int) -> None:
        check_trackers(names)
        self._running: dict[str, GeneralTracker] = {}
        self._failures: list[str] = []
        run_id = _run_id(run_dir, resume_step) if names else ""
        settings = _scalars(recipe)
        for name in names:
            self._try(name, self._start, name, run_dir, run_id, resume_step, settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, tracker in list(self._running.items()):
            self._try(name, tracker.log, values, step)

    def take_failures(self) -> list[str]:
        """A sentence for each tracker that failed since the last call."""
        taken, self._failures = self._failures, []
        return taken

    def close(self) -> None:
        """May be called twice."""
        for name, tracker in list(self._running.items()):
            self._try(name, tracker.finish)
            self._running.pop(name, None)

    def _start(self, name: str, run_dir: Path, run_id: str, resume_step: int, settings: Mapping[str, Any]) -> None:
        tracker = _tracker(name, run_dir, run_id, resume_step)
        tracker.start()
        if not resume_step:
            tracker.store_init_configuration(dict(settings))
        self._running[name] = tracker

    def _try(self, name: str, call: Callable[..., object], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:  # others' code that talks to a server may raise anything, and no step depends on it
            self._running.pop(name, None)
            self._failures.append(
                f"train.trackers: {name} failed ({type(error).__name__}: {error}); the run goes on without it"
            )


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
