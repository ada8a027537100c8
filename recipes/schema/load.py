"""Reading and writing recipes. Whatever is wrong with one is said at once, a line for each problem."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from grpo.config import ModelSettings
from grpo.policy.folder import is_folder
from grpo.record.atomic import write_atomic
from grpo.record.flatten import flatten
from recipes.errors import InputError
from recipes.schema.recipe import Recipe
from rewards.nearest import did_you_mean

FOLDER = Path(__file__).parents[1]
TINY = FOLDER / "tiny" / "model"
Key = tuple[str | int, ...]


class RecipeError(InputError):
    """A recipe cannot be used. One line a problem: file and line, key, value, what is allowed, the nearest name."""


def load_recipe(spec: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file `spec`, or the built-in of that name, with `key=value` overrides applied.

    Raises:
        RecipeError: no such recipe, no YAML, or anything in it that the schema refuses.
    """
    path = _find(spec)
    data, where = _parse(path)
    for override in overrides:
        _override(data, where, override)
    _anchor_files(data, path.parent, where)
    try:
        # JSON in strict mode: true is not 1 and "5" is not 5, while a list may become a tuple.
        return Recipe.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(error, data, where))) from error


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every setting, defaults included; `load_recipe` of the file gives an equal recipe."""
    write_atomic(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120))


def builtin_recipes() -> dict[str, tuple[Path, str]]:
    """Each built-in recipe's name, file, and the first line of the comment that it opens with."""
    found = {}
    for path in sorted((FOLDER / "builtin").glob("*.yaml")):
        first_line = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.stem] = (path, first_line.removeprefix("#").strip())
    return found


def model_settings(recipe: Recipe) -> ModelSettings:
    """The recipe's model, with the built-in `tiny` resolved to its folder and `lora.sync: auto` to what it means."""
    lora, rollout = recipe.model.lora, recipe.rollout
    if lora and lora.sync == "auto":
        # A server that runs already may not have been started for adapters.
        ours = not rollout.server.urls and not recipe.cluster.address  # on other machines the folder may not be there
        servable = rollout.engine == "vllm" and ours and not lora.not_served
        lora = lora.model_copy(update={"sync": "adapter" if servable else "merged"})
    return recipe.model.model_copy(update={"path": resolve_model(recipe.model.path), "lora": lora})


def resolve_model(path: str) -> str:
    """The built-in `tiny` as its folder, ~ expanded; a hub id as it is."""
    if path == "tiny":
        return str(TINY)
    return str(Path(path).expanduser()) if is_folder(path) else path


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value there, value here) wherever two recipes, as plain data, differ; None where there is none."""
    a, b = flatten(there), flatten(here)
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


# -- YAML ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML whose floats are those of YAML 1.2: 1e-6 is a number, not a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def yaml_value(text: str) -> Any:
    """The value of KEY=VALUE on the command line. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def names_recipe(spec: str) -> bool:
    """Whether a command that takes a model or a recipe is given a recipe."""
    return Path(spec).expanduser().is_file() or spec in builtin_recipes()


def _find(spec: str) -> Path:
    path = Path(spec).expanduser()
    if path.is_file():
        return path
    builtins = builtin_recipes()
    if spec in builtins:
        return builtins[spec][0]
    hint = did_you_mean(spec, builtins)
    raise RecipeError(f"{spec}: no such file and no built-in recipe{hint}. Built-in: {', '.join(builtins)}")


def _parse(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    """The file's content, and `file:line` of each key."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, _Loader)
        data = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a text file in YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a mapping with model, task and rewards, got {_show(data)}")
    where: dict[Key, str] = {(): str(path)}
    if repeated := list(_locate(node, (), str(path), where)):
        raise RecipeError("\n".join(repeated))
    return data, where


def _locate(node: yaml.Node | None, key: Key, path: str, where: dict[Key, str]) -> Iterator[str]:
    """Fill `where`; yield a message for every key that a mapping has twice."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            child, line = (*key, name.value), f"{path}:{name.start_mark.line + 1}"
            if child in where:
                yield f"{line}: {_dotted(child)}: given twice, first in {where[child]}; keep one"
            where[child] = line
            yield from _locate(value, child, path, where)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            where[(*key, i)] = f"{path}:{value.start_mark.line + 1}"
            yield from _locate(value, (*key, i), path, where)


def _override(data: dict[str, Any], where: dict[Key, str], override: str) -> None:
    """Apply one `a.b=value`; the value is YAML."""
    source = f"--set {override}"
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"{source}: expected key=value, such as train.steps=50")
    try:
        value = yaml_value(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: {text!r} is not a YAML value; quote it") from error
    key: Key = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
    parent: Any = data
    for depth, part in enumerate(key[:-1]):
        parent = _enter(parent, part, source, key[:depth])
    _enter(parent, key[-1], source, key[:-1])
    parent[key[-1]] = value
    where[key] = source


def _enter(parent: Any, part: str | int, source: str, key: Key) -> Any:
    if isinstance(parent, list):
        if not isinstance(part, int) or part >= len(parent):
            raise RecipeError(f"{source}: {_dotted(key)} is a list of {len(parent)}; expected a number below that")
        return parent[part]
    if not isinstance(parent, dict):
        raise RecipeError(f"{source}: {_dotted(key)} is {_show(parent)}, which has no keys")
    if parent.get(part) is None:
        parent[part] = {}
    return parent[part]


def _anchor_files(data: dict[str, Any], folder: Path, where: Mapping[Key, str]) -> None:
    """Make file names absolute, so that the stored recipe works from anywhere: next to the recipe, else from here."""
    rewards = data.get("rewards")
    for i, reward in enumerate(rewards if isinstance(rewards, list) else []):
        name = reward.get("name") if isinstance(reward, dict) else None
        if not isinstance(name, str) or ".py:" not in name:
            continue
        reward["name"] = _anchored(name, folder, _source(where, ("rewards", i, "name")), f"rewards.{i}.name")
    train = data.get("train")
    for key in ("advantage", "loss"):
        if isinstance(train, dict) and ".py:" in str(train.get(key)):
            train[key] = _anchored(train[key], folder, _source(where, ("train", key)), f"train.{key}")
    task = data.get("task")
    for key in ("path", "dataset"):
        if isinstance(task, dict) and isinstance(task.get(key), str):
            task[key] = str(_existing(task[key], folder) or task[key])  # what does not exist may be a hub id


def _anchored(name: str, folder: Path, source: str, key: str) -> str:
    """file.py:function with the file's whole path."""
    file, _, function = name.rpartition(":")
    if (found := _existing(file, folder)) is None:
        raise RecipeError(f"{source}: {key}: no file {file}, neither in {folder} nor in {Path.cwd()}")
    return f"{found}:{function}"


def _existing(name: str, folder: Path) -> Path | None:
    path = Path(name).expanduser()
    return next((place.resolve() for place in (folder / path, path) if place.exists()), None)


# -- Errors -------------------------------------------------------------------------------------------------------

EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "too_short": "a list of at least {min_length}",
}


def _explain(error: ValidationError, data: dict[str, Any], where: Mapping[Key, str]) -> list[str]:
    """One line a problem, in this project's words."""
    wrong: dict[Key, tuple[Any, list[str]]] = {}  # the alternatives of a union are one problem
    lines = []
    for problem in error.errors(include_url=False):
        key, context = _real_key(problem["loc"], data), problem.get("ctx", {})
        source, name = _source(where, key), _dotted(key)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: {name}: unknown key{_unknown(key)}")
        elif problem["type"] == "missing":
            lines.append(f"{source}: {_dotted((*key, problem['loc'][-1]))}: required, but absent")
        elif problem["type"] == "value_error":
            lines += [_explain_conflict(key, text, where) for text in str(context["error"]).split("\n")]
        else:
            expected = EXPECTED.get(problem["type"], problem["msg"]).format(**context)
            if problem["type"] == "literal_error" and isinstance(problem["input"], str):
                expected += did_you_mean(problem["input"], re.findall(r"'([^']*)'", expected))
            wrong.setdefault(key, (problem["input"], []))[1].append(expected)
    for key, (value, expected_list) in wrong.items():
        lines.append(
            f"{_source(where, key)}: {_dotted(key)}: got {_show(value)}, expected {' or '.join(expected_list)}"
        )
    return lines


def _explain_conflict(key: Key, text: str, where: Mapping[Key, str]) -> str:
    """A validator's own words. A whole section's validator starts with the keys, relative to the section."""
    if _model_at(key) is None:
        return f"{_source(where, key)}: {_dotted(key)}: {text}"
    first = tuple(text.partition(":")[0].split(" ")[0].split("."))
    return f"{_source(where, (*key, *first))}: {_dotted((*key, text))}"


def _real_key(loc: Key, data: Any) -> Key:
    """`loc` without what pydantic adds to it: the names of a union's alternatives, a key that is absent."""
    key: list[str | int] = []
    for part in loc:
        present = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if not present:
            break
        key.append(part)
        data = data[part]
    return tuple(key)


def _unknown(key: Key) -> str:
    """The nearest key where it stands, else the place where a key of that name belongs, and what is allowed."""
    model = _model_at(key[:-1])
    allowed = list(model.model_fields) if model else []
    hint = did_you_mean(str(key[-1]), allowed)
    if not hint:
        elsewhere = [place for place in _all_keys(Recipe, ()) if place[-1] == key[-1]]
        hint = f" (did you mean {_dotted(elsewhere[0])!r}?)" if elsewhere else ""
    return f"{hint}; allowed here: {', '.join(allowed)}"


def _all_keys(model: type[BaseModel], prefix: Key) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        inner = _inner_model(field.annotation)
        if inner and typing.get_origin(field.annotation) is not list:
            yield from _all_keys(inner, (*prefix, name))


def _model_at(key: Key) -> type[BaseModel] | None:
    """The settings class that the schema has at `key`, None where it has a plain value."""
    model: type[BaseModel] | None = Recipe
    for part in key:
        if isinstance(part, str):
            field = model.model_fields.get(part) if model else None
            model = _inner_model(field.annotation) if field else None
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next(filter(None, map(_inner_model, typing.get_args(annotation))), None)


def _source(where: Mapping[Key, str], key: Key) -> str:
    """Where `key`, or what it stands in, was given."""
    return next(where[key[:n]] for n in range(len(key), -1, -1) if key[:n] in where)


def _dotted(key: Sequence[Any]) -> str:
    return ".".join(map(str, key))


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)
