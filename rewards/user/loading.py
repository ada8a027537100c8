"""Load a function that a user wrote, from a file or a module, and call it with errors that help.

Rewards, losses and advantages come this way. The user's folder goes to the end of sys.path, after our own packages: a
`rewards.py`, `eval.py`, `grpo.py` or `recipes.py` that stands there hides none of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rewards.nearest import did_you_mean

PACKAGES = ("rewards", "grpo", "eval", "recipes")  # ours, as a file of the user may be called, too
ROOT = str(Path(__file__).resolve().parents[2])  # of our packages


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a function is for, in messages, and the error to raise. Example: Purpose("train.loss", LossError)"""

    name: str
    error: Callable[[str], Exception]


def load_function(spec: str, purpose: Purpose, base_dir: Path | None = None) -> Callable[..., Any]:
    """The function of path/to/file.py:function or package.module:function.

    Paths are relative to `base_dir` (default: the current folder). Raises `purpose.error`, with the nearest valid
    name, if there is none.
    """
    place, _, name = spec.rpartition(":")
    base = (base_dir or Path()).resolve()
    module = (_load_file if place.endswith(".py") else _load_module)(spec, place, base, purpose)
    function = getattr(module, name, None)
    if not callable(function):
        public = [other for other in dir(module) if not other.startswith("_")]
        file = base / f"{place}.py"
        hidden = f"; for the function of {file} give {place}.py:{name}" if _is_another(module, file) else ""
        raise purpose.error(
            f"{purpose.name} {spec!r}: {place} has no function {name!r}{did_you_mean(name, public)}{hidden}"
        )
    return function


@contextlib.contextmanager
def user_code(name: str, function: Callable[..., Any] | None, doing: str, purpose: Purpose) -> Iterator[None]:
    """Turn whatever code of the user raises into `purpose.error` with its type, message, file and line."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as failure:  # a broad except: code that is not ours may raise anything, even SystemExit
        raised, where = f"{type(failure).__name__}: {failure}", _where(failure, function)
        raise purpose.error(f"{purpose.name} {name!r} raised {raised}, while {doing} ({where})") from failure


def search_path() -> str:
    """PYTHONPATH for a process that is to import what this one does; the working folder, and a script's, are last."""
    here = [os.getcwd()] if "" in sys.path else []
    paths = [path for path in sys.path if path]
    theirs = [path for path in paths if any((Path(path) / f"{name}.py").is_file() for name in PACKAGES)]
    return os.pathsep.join(dict.fromkeys([*(path for path in paths if path not in theirs), ROOT, *theirs, *here]))


def _where(failure: BaseException, function: Callable[..., Any] | None) -> str:
    """File and line: of the syntax error, else the last in the function's own file, else where it was raised."""
    if isinstance(failure, SyntaxError) and failure.filename:
        return f"{failure.filename}:{failure.lineno}"
    frames = list(traceback.extract_tb(failure.__traceback__))
    code = getattr(inspect.unwrap(function), "__code__", None) if function else None
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _load_file(spec: str, place: str, base: Path, purpose: Purpose) -> ModuleType:
    path = base / place
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise purpose.error(f"{purpose.name} {spec!r}: there is no file {path}{did_you_mean(path.name, beside)}")
    name = f"zero_{purpose.name.replace('.', '_')}_{path.stem}"  # not the file's own, which may be one of ours
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec  # the name ends in .py
    assert module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickle look their module up
    _importable(path.parent)
    with user_code(spec, None, "being imported", purpose):
        module_spec.loader.exec_module(module)
    return module


def _load_module(spec: str, name: str, base: Path, purpose: Purpose) -> ModuleType:
    _importable(base)
    with user_code(spec, None, "being imported", purpose):
        return importlib.import_module(name)


def _importable(folder: Path) -> None:
    """Modules beside the recipe or the file can be imported; ours and those that are installed come first."""
    for one in (ROOT, str(folder)):  # where ours are installed as editable, their folder may not be on the path
        if one not in sys.path:
            sys.path.append(one)


def _is_another(module: ModuleType, file: Path) -> bool:
    return file.is_file() and getattr(module, "__file__", None) != str(file)
