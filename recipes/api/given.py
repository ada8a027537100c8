"""A recipe that a program gives as data, written where the command and a later `--resume` find it.

RUN/.given/recipe.yaml     the recipe; a name that begins with a dot leaves the folder free for a run
          /rewards.py      the functions of it that were defined in a notebook
"""

from __future__ import annotations

import builtins
import copy
import dis
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from types import CodeType
from typing import Any

import yaml
from pydantic import BaseModel

from grpo.record.atomic import write_atomic, writing
from recipes.errors import InputError
from recipes.schema.load import anchor_files, validated

GIVEN = ".given"
PLACE = "recipe"  # how messages call it


def write_given(recipe: Mapping[str, Any] | BaseModel, output: Path) -> Path:
    """The recipe's file. Raises RecipeError for what the schema refuses, InputError for a function that cannot go.

    A reward may be a function: one of a module is named by its file, one of a notebook is written into a file.
    """
    plain = recipe.model_dump(mode="json", exclude_unset=True) if isinstance(recipe, BaseModel) else dict(recipe)
    plain = copy.deepcopy(plain)
    anchor_files(plain, Path.cwd(), {(): PLACE})  # not beside the file that is written here
    sources: dict[str, str] = {}
    if isinstance(plain.get("rewards"), list | tuple):
        plain["rewards"] = [_named(reward, output, sources) for reward in plain["rewards"]]
    if "stages" not in plain:  # of a chain, the command says what is wrong with it
        validated(plain, {(): PLACE})
    folder = output / GIVEN
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if sources:
        write_atomic(folder / "rewards.py", "\n\n".join(sources.values()))
    path = folder / "recipe.yaml"
    try:
        write_atomic(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    except yaml.YAMLError as error:
        raise InputError(f"{PLACE}: {error}; expected text, numbers, lists and mappings") from error
    return path


def _named(reward: Any, output: Path, sources: dict[str, str]) -> Any:
    """The reward with a name in the place of a function."""
    if isinstance(reward, Mapping):
        return {**reward, "name": _named(reward.get("name"), output, sources)}
    if not callable(reward):
        return reward
    return _spec(reward, output, sources)


def _spec(function: Callable[..., Any], output: Path, sources: dict[str, str]) -> str:
    name, module = getattr(function, "__name__", ""), getattr(function, "__module__", None)
    code = getattr(function, "__code__", None)
    if code is None or name != getattr(function, "__qualname__", None) or not name.isidentifier():
        raise InputError(
            f"rewards: {function!r} is no function of a module; define it with `def` outside of any other, "
            "or give file.py:function"
        )
    if module != "__main__" and getattr(sys.modules.get(str(module)), name, None) is function:
        return f"{Path(code.co_filename).resolve()}:{name}"
    if outside := sorted({*code.co_freevars, *_globals(code)} - {*dir(builtins), name}):
        raise InputError(
            f"rewards: {name} uses {', '.join(outside)}, which its own process would not have; import or define that "
            "within the function, or write both into a file and give file.py:function"
        )
    try:
        sources[name] = dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise InputError(
            f"rewards: the source of {name} is not known ({error}); write it into a file, and give file.py:function"
        ) from error
    return f"{(output / GIVEN / 'rewards.py').resolve()}:{name}"


def _globals(code: CodeType) -> set[str]:
    """What the code looks up in its module, in the functions and comprehensions within, too."""
    loads = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return loads.union(*(_globals(inner) for inner in code.co_consts if isinstance(inner, CodeType)))
