"""A chain of stages: several runs, each of which takes in what others made.

    model: {path: tiny}            what stands here holds for every stage that takes it; a stage's own keys go before
    task: {name: arithmetic}
    stages:
      cold_start: {kind: sft, model: base, data: [{dataset: cold.jsonl}]}
      rl: {kind: grpo, model: cold_start, rewards: [{name: accuracy}]}

`model` of a stage: base (the chain's own), another stage, a hub id or a folder; or a mapping whose `path` is one of
these. `stage: NAME` in the place of `dataset:` is what that stage made.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recipes.schema.explain import Key, dotted, inner_model, show, source_of
from recipes.schema.load import BUILTIN_MODELS, KINDS, AnyRecipe, RecipeError, parsed, validated
from rewards.nearest import did_you_mean

BASE = "base"


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of a chain, as its recipe's plain data: `model.path` and `data.*.dataset` may name stages still."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    model: str | None  # the stage whose model it starts from; None: a model that is there
    data: tuple[str, ...]  # the stages whose samples it learns from
    teacher: str | None = None  # the stage whose model it is drawn to; None: no teacher, or a model that is there

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, (self.model, self.teacher, *self.data))))

    def resolved(self, models: Mapping[str, Path], data: Mapping[str, Path]) -> dict[str, Any]:
        """The recipe's data, with the folders and files that the stages made in the place of their names."""
        settings = copy.deepcopy(dict(self.settings))
        if self.model:
            settings["model"]["path"] = str(models[self.model])
        if self.teacher:
            settings["train"]["teacher"] = str(models[self.teacher])
        for source in settings.get("data") or ():
            if "stage" in source:
                source["dataset"] = str(data[source.pop("stage")])
        return settings


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages, those first that others need."""

    source: str
    stages: tuple[Stage, ...]


def is_chain(spec: str, overrides: Sequence[str] = ()) -> bool:
    """Whether the recipe holds stages. Raises RecipeError as `load_run`."""
    return "stages" in parsed(spec, overrides)[0]


def load_chain(spec: str, overrides: Sequence[str] = ()) -> Chain:
    """The chain in the file `spec`, or the built-in of that name. Raises RecipeError, a line for each problem."""
    data, where = parsed(spec, overrides)
    problems: list[str] = []
    common = {key: value for key, value in data.items() if key != "stages"}
    stages = data["stages"]
    if not isinstance(stages, dict) or not stages:
        raise RecipeError(
            f"{source_of(where, ('stages',))}: stages: got {show(stages)}, expected a mapping of names to stages"
        )
    problems += _unused(common, stages, where)
    found = []
    for name, body in stages.items():
        try:
            found.append(_stage(str(name), body, common, stages, where))
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return Chain(spec, _ordered(found, where))


def stage_recipe(stage: Stage, settings: Mapping[str, Any]) -> AnyRecipe:
    """The recipe of resolved settings. Raises RecipeError, whose lines name the stage."""
    where: dict[Key, str] = {(): f"stage {stage.name}"}
    return validated(dict(settings), where)


def _stage(
    name: str, body: Any, common: Mapping[str, Any], stages: Mapping[str, Any], where: Mapping[Key, str]
) -> Stage:
    key: Key = ("stages", name)
    if not isinstance(body, dict):
        raise RecipeError(f"{source_of(where, key)}: {dotted(key)}: got {show(body)}, expected a mapping with kind")
    if name == BASE or not name.replace("-", "_").isidentifier():
        raise RecipeError(f"{source_of(where, key)}: stages: got the name {name!r}, expected letters, digits, _ and -")
    kind = str(body.get("kind"))
    if kind not in KINDS:
        raise RecipeError(
            f"{source_of(where, (*key, 'kind'))}: {dotted((*key, 'kind'))}: got {show(body.get('kind'))}, expected "
            f"{' or '.join(KINDS)}{did_you_mean(kind, KINDS)}"
        )
    model = body.get("model", BASE)
    own = {"path": model} if isinstance(model, str) else model
    if not isinstance(own, dict):
        raise RecipeError(
            f"{source_of(where, (*key, 'model'))}: {dotted((*key, 'model'))}: got {show(model)}, "
            "expected base, a stage, a hub id or a folder"
        )
    below = _fitting(common, KINDS[kind])
    if body.keys() & {"task", "tasks"}:  # a stage with several tasks of its own leaves the chain's one, and the reverse
        below = {key: value for key, value in below.items() if key not in ("task", "tasks") or key in body}
    settings = _merged(below, {**body, "model": own})
    settings["model"] = dict(settings["model"])
    path = own.get("path", BASE)
    from_stage = None
    if path == BASE:
        if not isinstance(common.get("model"), dict) or "path" not in common["model"]:
            raise RecipeError(
                f"{source_of(where, key)}: {dotted((*key, 'model'))}: base is the chain's own model: "
                "give one, as model: {path: ...} beside stages"
            )
        settings["model"]["path"] = common["model"]["path"]
    elif path in stages:
        from_stage = path
        _check_trains(path, stages, (*key, "model"), where)
    elif not _may_exist(str(path)) and (hint := did_you_mean(str(path), [BASE, *stages])):
        raise RecipeError(
            f"{source_of(where, (*key, 'model'))}: {dotted((*key, 'model'))}: no stage and no folder {path!r}{hint}"
        )
    train = settings.get("train")
    named = train.get("teacher") if isinstance(train, dict) else None
    teacher = str(named) if named in stages else None
    if teacher:
        _check_trains(teacher, stages, (*key, "train", "teacher"), where)
    return Stage(name, kind, settings, from_stage, tuple(_data_stages(key, settings, stages, where)), teacher)


def _check_trains(name: str, stages: Mapping[str, Any], key: Key, where: Mapping[Key, str]) -> None:
    """Raises RecipeError if no model comes out of the stage."""
    if isinstance(stages[name], dict) and stages[name].get("kind") == "sample":
        raise RecipeError(
            f"{source_of(where, key)}: {dotted(key)}: stage {name} makes samples, no model; name the stage that "
            "trained one"
        )


def _data_stages(
    key: Key, settings: Mapping[str, Any], stages: Mapping[str, Any], where: Mapping[Key, str]
) -> Iterator[str]:
    sources = settings.get("data")
    for i, source in enumerate(sources if isinstance(sources, list) else ()):
        if not isinstance(source, dict) or "stage" not in source:
            continue
        at, name = (*key, "data", i, "stage"), source["stage"]
        if "dataset" in source:
            raise RecipeError(f"{source_of(where, at)}: {dotted(at)}: dataset is given, too; keep one of them")
        if name not in stages:
            raise RecipeError(
                f"{source_of(where, at)}: {dotted(at)}: no stage {name!r}{did_you_mean(str(name), stages)}; there are "
                f"{', '.join(stages)}"
            )
        if not isinstance(stages[name], dict) or stages[name].get("kind") != "sample":
            raise RecipeError(
                f"{source_of(where, at)}: {dotted(at)}: stage {name} makes no samples; expected a stage of kind sample"
            )
        yield name


def _ordered(stages: Sequence[Stage], where: Mapping[Key, str]) -> tuple[Stage, ...]:
    """In the order of the file where nothing asks for another one."""
    by_name = {stage.name: stage for stage in stages}
    sorter = TopologicalSorter({stage.name: stage.inputs for stage in stages})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise RecipeError(
            f"{source_of(where, ('stages',))}: stages: a circle: {circle}; a stage needs what is made before it"
        ) from error
    order: list[Stage] = []
    places = list(by_name)
    ready: list[str] = list(sorter.get_ready())
    while ready:
        ready.sort(key=places.index)
        name = ready.pop(0)
        order.append(by_name[name])
        sorter.done(name)
        ready += sorter.get_ready()
    return tuple(order)


def _fitting(common: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The keys of the chain that the kind of stage takes, at any depth."""
    found = {}
    for key, value in common.items():
        field = model.model_fields.get(key)
        if field is None:
            continue
        inner = inner_model(field.annotation)
        found[key] = _fitting(value, inner) if inner and isinstance(value, dict) else copy.deepcopy(value)
    return found


def _unused(common: Mapping[str, Any], stages: Mapping[str, Any], where: Mapping[Key, str]) -> Iterator[str]:
    """Keys of the chain that no stage takes are mistakes."""
    kinds = {str(body.get("kind")) for body in stages.values() if isinstance(body, dict)} & set(KINDS)
    takes = [KINDS[kind] for kind in kinds]
    for key in _leaves(common, ()):
        if takes and not any(_takes(model, key) for model in takes):
            yield f"{source_of(where, key)}: {dotted(key)}: no stage of this chain takes it"


def _leaves(data: Mapping[str, Any], prefix: Key) -> Iterator[Key]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def _takes(model: type[BaseModel], key: Key) -> bool:
    first, *rest = key
    field = model.model_fields.get(str(first))
    if field is None:
        return model.model_config.get("extra") == "allow"
    inner = inner_model(field.annotation)
    return not rest or inner is None or _takes(inner, tuple(rest))


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            key: _merged(below[key], above[key])
            if key in below and key in above
            else copy.deepcopy(above.get(key, below.get(key)))
            for key in {**below, **above}
        }
    return copy.deepcopy(above)


def _may_exist(path: str) -> bool:
    """A folder, a hub id or a built-in model."""
    return Path(path).expanduser().exists() or path.count("/") == 1 or path in BUILTIN_MODELS
