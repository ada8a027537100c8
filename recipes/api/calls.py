"""`recipes.run` and `recipes.evaluate`: the commands `zero run` and `zero eval`, with their folders as objects.

import recipes
run = recipes.run("tiny_arithmetic_cpu", output="runs/mine")
run.completions.to_pandas()
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recipes.api.child import zero
from recipes.api.folders import Evaluation, Run
from recipes.api.given import write_given
from recipes.errors import InputError
from rewards.nearest import did_you_mean

NOT_OPTIONS = ("model", "benchmark", "generations", "run", "output", "resume")


def run(
    recipe: str | Path | Mapping[str, Any] | BaseModel,
    output: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a model as a recipe says, as `zero run` does, and wait for it.

    Args:
        recipe: a file, a built-in's name, or the recipe as a mapping; rewards in that may be functions.
        output: the run's directory; default: runs/RECIPE-TIMESTAMP.
        settings: of the recipe, by dotted key. Example: {"train.steps": 50}
        resume: go on from the last checkpoint in `output`.
        quiet: show nothing of what the command prints.

    Raises:
        InputError: what was given cannot be used; the message says what to change.
        RunFailedError: the run failed; `Run(output)` has what there is of it.
        KeyboardInterrupt: it was interrupted, has kept a checkpoint, and left no process: go on with `resume=True`.
    """
    if resume and output is None:
        raise InputError("resume: no output is given; expected the directory of the run to go on with")
    folder = Path(output or _default_output(recipe))
    if isinstance(recipe, Mapping | BaseModel):
        _refuse_used(folder, resume)
        spec = str(write_given(recipe, folder))
    else:
        spec = str(recipe)
    sets = [part for key, value in (settings or {}).items() for part in ("--set", f"{key}={_yaml(value)}")]
    try:
        zero(["run", spec, *sets, "--output", str(folder), *(["--resume"] if resume else [])], quiet)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped. Go on with recipes.run(..., output={str(folder)!r}, resume=True), the rest as before"
        ) from None
    return Run(folder)


def evaluate(
    model: str | Path | None = None,
    benchmarks: str | Sequence[str] = (),
    *,
    run: str | Path | Run | None = None,
    generations: str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Evaluation:
    """Evaluate a model, or what a run has trained, as `zero eval` does, and wait for it.

    Args:
        model: a folder, a hub id, or a built-in model such as "tiny".
        benchmarks: one, or several: built-in names or .yaml files.
        run: a run's directory, in place of a model; with `checkpoint=N` or "all".
        generations: a file of completions to grade, in place of a model.
        options: those of `zero eval`, with _ for -. Example: samples=4, max_tokens=512, base_url="http://..."

    Raises as `run` does; RunFailedError where a part is missing: `Evaluation(output)` has the rest.
    """
    folder = Path(output or Path("runs") / f"eval-{datetime.now():%Y%m%d-%H%M%S}")
    place = run.folder if isinstance(run, Run) else run
    given = {"model": model, "run": place, "generations": generations}
    arguments = [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]
    for name in [benchmarks] if isinstance(benchmarks, str) else benchmarks:
        arguments += ["--benchmark", str(name)]
    for name, value in options.items():
        arguments += _option(name, value)
    zero(["eval", *arguments, "--output", str(folder), *(["--resume"] if resume else [])], quiet)
    return Evaluation(folder)


def _option(name: str, value: Any) -> list[str]:
    from recipes.command.evaluate import evaluate as command

    known = [one for one in inspect.signature(command).parameters if one not in NOT_OPTIONS]
    if name not in known:
        raise InputError(f"{name}: no option of zero eval{did_you_mean(name, known)}; there are {', '.join(known)}")
    if value is None:
        return []
    if name == "read" and not isinstance(value, str):
        value = ",".join(value)
    values = value if isinstance(value, list | tuple) else [value]
    return [f"--{name.replace('_', '-')}={one}" for one in values]


def _yaml(value: Any) -> str:
    """JSON is YAML, but for numbers: a recipe reads 1e-06."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"settings: {value!r}: {error}; expected text, numbers, lists and mappings") from error


def _default_output(recipe: Any) -> Path:
    name = "run" if isinstance(recipe, Mapping | BaseModel) else Path(recipe).stem
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _refuse_used(folder: Path, resume: bool) -> None:
    """Before the recipe of a run that is there is written over."""
    from recipes.jobs.run_dir import check_unused

    if not resume:
        check_unused(folder)
    elif not folder.is_dir():
        raise InputError(f"resume: there is no {folder}; expected the directory of the run to go on with")
