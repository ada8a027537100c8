"""Find a reward function by its name, entry point, file or module, and call what users wrote with errors that help."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rewards.builtin.accuracy import accuracy
from rewards.builtin.choice import multiple_choice
from rewards.builtin.countdown import countdown
from rewards.builtin.format import format, format_graded
from rewards.builtin.language import language_consistency
from rewards.builtin.length import cosine_length, soft_overlong
from rewards.builtin.number import number
from rewards.builtin.repetition import repetition_penalty
from rewards.chat import CompletionForm
from rewards.graded import Graded
from rewards.types import RewardError, Score

ENTRY_POINTS = "zero.rewards"  # the group in which a package names its rewards
BUILT_IN: Mapping[str, Callable[..., Any]] = {
    "accuracy": accuracy,
    "cosine_length": cosine_length,
    "countdown": countdown,
    "format": format,
    "format_graded": format_graded,
    "language_consistency": language_consistency,
    "multiple_choice": multiple_choice,
    "number": number,
    "repetition_penalty": repetition_penalty,
    "soft_overlong": soft_overlong,
}
_GRADERS: Mapping[str, Graded] = {
    "math": accuracy,
    "countdown": countdown,
    "multiple_choice": multiple_choice,
    "number": number,
}


class RewardSettings(BaseModel):
    """One reward of a recipe. Example: {name: my_rewards.py:brevity, weight: 0.1, args: {limit: 200}}"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # a built-in's name, an installed entry point's, path/to/file.py:function, or package.module:function
    weight: float = Field(default=1.0, allow_inf_nan=False)
    args: dict[str, Any] = Field(default_factory=dict)  # keyword arguments, beside the columns
    columns: dict[str, str] = Field(default_factory=dict)  # argument: column it is to take, such as solution: answer
    completions: CompletionForm | None = None  # None: as its annotation says, else as the template has them
    timeout: float = Field(default=120.0, gt=0)  # seconds for one call in training, of a reward that is not built in


def load_reward(spec: str, base_dir: Path | None = None) -> Callable[..., Any]:
    """The function that `spec` names. Paths are relative to `base_dir` (default: the current folder).

    Raises RewardError, with the nearest valid name, if there is none.
    """
    if ":" in spec:
        return load_function(spec, base_dir)
    return BUILT_IN[spec] if spec in BUILT_IN else _load_installed(spec)


def load_function(spec: str, base_dir: Path | None = None, kind: str = "reward") -> Callable[..., Any]:
    """The function of path/to/file.py:function or package.module:function; `kind` is what errors call it.

    Raises RewardError, with the nearest valid name, if there is none.
    """
    place, _, name = spec.rpartition(":")
    base = (base_dir or Path()).resolve()
    load = _load_file if place.endswith(".py") else _load_module
    module = load(spec, place, base, kind)
    function = getattr(module, name, None)
    if not callable(function):
        public = [other for other in dir(module) if not other.startswith("_")]
        raise RewardError(f"{kind} {spec!r}: {place} has no function {name!r}{_nearest(name, public)}")
    return function


def installed_rewards() -> dict[str, list[EntryPoint]]:
    """The entry points of the group `zero.rewards`, by name; more than one where packages disagree.

    One with a built-in's name is listed but never used: no package that is installed along changes what a recipe means.
    """
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value)):
        if point.value not in [other.value for other in found.setdefault(point.name, [])]:
            found[point.name].append(point)
    return found


def grader(name: str, **args: Any) -> Callable[[str, Mapping[str, Any]], Score]:
    """What an evaluation grades with: (completion, row of columns) -> Score.

    Names: math, countdown, multiple_choice, number. `args` as for the reward of the same kind, such as
    read=("boxed",). Raises RewardError on an unknown name.
    """
    if name not in _GRADERS:
        raise RewardError(f"no grader {name!r}{_nearest(name, _GRADERS)}; there are {', '.join(_GRADERS)}")
    reward = _GRADERS[name]

    def grade(completion: str, row: Mapping[str, Any]) -> Score:
        return reward.scores([completion], **{column: [value] for column, value in row.items()}, **args)[0]

    return grade


@contextlib.contextmanager
def user_code(name: str, function: Callable[..., Any] | None, doing: str, kind: str = "reward") -> Iterator[None]:
    """Turn whatever code of the user raises into a RewardError with its type, message, file and line."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as failure:  # a broad except: code that is not ours may raise anything, even SystemExit
        raise RewardError(
            f"{kind} {name!r} raised {type(failure).__name__}: {failure}, while {doing} ({_where(failure, function)})",
            problem="raises",
        ) from failure


def _where(failure: BaseException, function: Callable[..., Any] | None) -> str:
    """File and line: of the syntax error, else the last in the function's own file, else where it was raised."""
    if isinstance(failure, SyntaxError) and failure.filename:
        return f"{failure.filename}:{failure.lineno}"
    frames = list(traceback.extract_tb(failure.__traceback__))
    code = getattr(inspect.unwrap(function), "__code__", None) if function else None
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _load_installed(name: str) -> Callable[..., Any]:
    installed = installed_rewards()
    points = installed.get(name, [])
    if not points:
        names = [*BUILT_IN, *(other for other in installed if other not in BUILT_IN)]
        raise RewardError(
            f"reward {name!r}: no built-in and no installed entry point has this name{_nearest(name, names) or '.'} "
            f"Give one of {', '.join(names)}, path/to/file.py:function or package.module:function"
        )
    if len(points) > 1:
        values = " and ".join(point.value for point in points)
        raise RewardError(f"reward {name!r}: several packages install it, {values}: give one of these in its place")
    with user_code(name, None, "being imported"):
        function = points[0].load()
    if not callable(function):
        raise RewardError(f"reward {name!r}: the entry point {points[0].value} is no function, got {function!r}")
    return function


def _load_file(spec: str, place: str, base: Path, kind: str) -> ModuleType:
    path = base / place
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise RewardError(f"{kind} {spec!r}: there is no file {path}{_nearest(path.name, beside)}")
    module_spec = importlib.util.spec_from_file_location(f"zero_{kind.replace('.', '_')}_{path.stem}", path)
    assert module_spec  # the name ends in .py
    assert module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickle look their module up
    _importable(path.parent)
    with user_code(spec, None, "being imported", kind):
        module_spec.loader.exec_module(module)
    return module


def _load_module(spec: str, name: str, base: Path, kind: str) -> ModuleType:
    _importable(base)
    with user_code(spec, None, "being imported", kind):
        return importlib.import_module(name)


def _importable(folder: Path) -> None:
    """Modules beside the recipe or the file can be imported; those that are installed come first."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
