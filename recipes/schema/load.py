"""Reading and writing recipes. Whatever is wrong with one is said at once, a line for each problem."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from grpo.config import ModelSettings
from grpo.policy.folder import is_folder
from grpo.record.atomic import write_atomic
from grpo.record.flatten import flatten
from recipes.errors import InputError
from recipes.schema.explain import Key, dotted, explain, show, source_of
from recipes.schema.recipe import Recipe
from recipes.schema.sample import SampleRecipe
from recipes.schema.sft import SFTRecipe
from rewards.nearest import did_you_mean

FOLDER = Path(__file__).parents[1]
TINY = FOLDER / "tiny" / "model"
BUILTIN_MODELS = {
    "tiny": TINY,
    "tiny_diffusion": FOLDER / "tiny" / "diffusion_model",
    "tiny_bilingual": FOLDER / "tiny" / "bilingual_model",
    "tiny_student": FOLDER / "tiny" / "student_model",
}
AnyRecipe = Recipe | SFTRecipe | SampleRecipe
KINDS: Mapping[str, type[AnyRecipe]] = {"grpo": Recipe, "sft": SFTRecipe, "sample": SampleRecipe}


class RecipeError(InputError):
    """A recipe cannot be used. One line a problem: file and line, key, value, what is allowed, the nearest name."""


def load_recipe(spec: str, overrides: Sequence[str] = ()) -> Recipe:
    """The GRPO recipe in the file `spec`, or the built-in of that name, with `key=value` overrides applied.

    Raises:
        RecipeError: no such recipe, no YAML, another kind, or anything in it that the schema refuses.
    """
    recipe = load_run(spec, overrides)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{spec}: a recipe of kind {recipe.kind}; expected one of kind grpo")
    return recipe


def load_run(spec: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """As `load_recipe`, of any kind; not of a chain."""
    data, where = parsed(spec, overrides)
    if "stages" in data:
        raise RecipeError(f"{source_of(where, ('stages',))}: stages: a chain; expected the recipe of one run")
    return validated(data, where)


def load_trained(spec: str, overrides: Sequence[str] = ()) -> Recipe | SFTRecipe:
    """As `load_run`, of a kind that trains."""
    recipe = load_run(spec, overrides)
    if isinstance(recipe, SampleRecipe):
        raise RecipeError(f"{spec}: a recipe of kind sample, which trains nothing; expected one of kind grpo or sft")
    return recipe


def parsed(spec: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], dict[Key, str]]:
    """The recipe as plain data with its overrides, and where each key was given."""
    path = _find(spec)
    data, where = _parse(path)
    for override in overrides:
        _override(data, where, override)
    anchor_files(data, path.parent, where)
    return data, where


def anchor_files(data: dict[str, Any], folder: Path, where: Mapping[Key, str]) -> None:
    """Make the file names of a recipe, or of a chain, absolute: what is meant is next to `folder`, else from here."""
    stages = data.get("stages")
    for key, part in [((), data), *((("stages", name), stage) for name, stage in _mappings(stages))]:
        _anchor_files(part, folder, where, key)


def _mappings(stages: Any) -> list[tuple[str, dict[str, Any]]]:
    return [one for one in stages.items() if isinstance(one[1], dict)] if isinstance(stages, dict) else []


def validated(data: dict[str, Any], where: Mapping[Key, str]) -> AnyRecipe:
    """Raises RecipeError: whatever the schema of its kind refuses."""
    root = _kind_of(data, where)
    try:
        # JSON in strict mode: true is not 1 and "5" is not 5, while a list may become a tuple.
        return root.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError("\n".join(explain(error, data, where, root))) from error


def _kind_of(data: Mapping[str, Any], where: Mapping[Key, str]) -> type[AnyRecipe]:
    kind = data.get("kind", "grpo")
    if kind not in KINDS:
        raise RecipeError(
            f"{source_of(where, ('kind',))}: kind: got {show(kind)}, expected {' or '.join(KINDS)}"
            + did_you_mean(str(kind), KINDS)
        )
    return KINDS[kind]


def save_recipe(recipe: AnyRecipe, path: Path) -> None:
    """Write every setting, defaults included; `load_recipe` of the file gives an equal recipe."""
    write_atomic(path, as_yaml(recipe))


def as_yaml(recipe: AnyRecipe) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def recipe_text(spec: str) -> str:
    """The recipe's file as it stands, comments included. Raises RecipeError if there is none."""
    return _find(spec).read_text(encoding="utf-8")


def builtin_recipes() -> dict[str, tuple[Path, str]]:
    """Each built-in recipe's name, file, and the first line of the comment that it opens with."""
    found = {}
    for path in sorted((FOLDER / "builtin").glob("*.yaml")):
        first_line = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.stem] = (path, first_line.removeprefix("#").strip())
    return found


def model_settings(recipe: Recipe) -> ModelSettings:
    """The recipe's model, with a built-in one resolved to its folder and `lora.sync: auto` to what it means."""
    lora, rollout = recipe.model.lora, recipe.rollout
    if lora and lora.sync == "auto":
        # A server that runs already may not have been started for adapters.
        ours = not rollout.server.urls and not recipe.cluster.address  # on other machines the folder may not be there
        servable = rollout.engine == "vllm" and ours and not lora.not_served
        lora = lora.model_copy(update={"sync": "adapter" if servable else "merged"})
    return recipe.model.model_copy(update={"path": resolve_model(recipe.model.path), "lora": lora})


def resolve_model(path: str) -> str:
    """A built-in model as its folder, ~ expanded; a hub id as it is."""
    if path in BUILTIN_MODELS:
        return str(BUILTIN_MODELS[path])
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
    there = [str(one) for one in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    hint = did_you_mean(spec, [*builtins, *there])
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
        raise RecipeError(f"{path}: expected a mapping with model, task and rewards, got {show(data)}")
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
                yield f"{line}: {dotted(child)}: given twice, first in {where[child]}; keep one"
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
            raise RecipeError(f"{source}: {dotted(key)} is a list of {len(parent)}; expected a number below that")
        return parent[part]
    if not isinstance(parent, dict):
        raise RecipeError(f"{source}: {dotted(key)} is {show(parent)}, which has no keys")
    if parent.get(part) is None:
        parent[part] = {}
    return parent[part]


def _anchor_files(data: dict[str, Any], folder: Path, where: Mapping[Key, str], key: Key = ()) -> None:
    """Make file names absolute, so that the stored recipe works from anywhere: next to the recipe, else from here."""
    rewards = data.get("rewards")
    for i, reward in enumerate(rewards if isinstance(rewards, list) else []):
        if isinstance(reward, str):  # a name alone
            assert isinstance(rewards, list)
            reward = rewards[i] = {"name": reward}
        name = reward.get("name") if isinstance(reward, dict) else None
        if not isinstance(name, str) or ".py:" not in name:
            continue
        reward["name"] = _anchored(name, folder, source_of(where, (*key, "rewards", i, "name")), f"rewards.{i}.name")
    train = data.get("train")
    for name in ("advantage", "loss"):
        if isinstance(train, dict) and ".py:" in str(train.get(name)):
            train[name] = _anchored(train[name], folder, source_of(where, (*key, "train", name)), f"train.{name}")
    if isinstance(train, dict) and isinstance(train.get("chat_template"), str):
        train["chat_template"] = str(_existing(train["chat_template"], folder) or train["chat_template"])
    _anchor_environment(data.get("task"), folder, source_of(where, (*key, "task", "environment")))
    sources = data.get("data")
    tasks = [task for _, task in _mappings(data.get("tasks"))]
    for section in (data.get("task"), *tasks, *(sources if isinstance(sources, list) else [])):
        for name in ("path", "dataset"):
            if isinstance(section, dict) and isinstance(section.get(name), str):
                section[name] = str(_existing(section[name], folder) or section[name])  # else it may be a hub id


def _anchor_environment(task: Any, folder: Path, source: str) -> None:
    """`environment: NAME`, or `environment: {name: NAME, ...}`."""
    given = task.get("environment") if isinstance(task, dict) else None
    of, key = (given, "name") if isinstance(given, dict) else (task, "environment")
    if isinstance(of, dict) and isinstance(of.get(key), str) and ".py:" in of[key]:
        of[key] = _anchored(of[key], folder, source, "task.environment")


def _anchored(name: str, folder: Path, source: str, key: str) -> str:
    """file.py:function with the file's whole path."""
    file, _, function = name.rpartition(":")
    if (found := _existing(file, folder)) is None:
        raise RecipeError(f"{source}: {key}: no file {file}, neither in {folder} nor in {Path.cwd()}")
    return f"{found}:{function}"


def _existing(name: str, folder: Path) -> Path | None:
    path = Path(name).expanduser()
    return next((place.resolve() for place in (folder / path, path) if place.exists()), None)
