"""What is wrong with a recipe: file and line, key, value, what is allowed, the nearest name."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from rewards.nearest import did_you_mean

Key = tuple[str | int, ...]

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


def explain(error: ValidationError, data: dict[str, Any], where: Mapping[Key, str], root: type[BaseModel]) -> list[str]:
    """One line a problem, in this project's words."""
    wrong: dict[Key, tuple[Any, list[str]]] = {}  # the alternatives of a union are one problem
    lines = []
    for problem in error.errors(include_url=False):
        key, context = _real_key(problem["loc"], data), problem.get("ctx", {})
        source, name = source_of(where, key), dotted(key)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: {name}: unknown key{_unknown(key, root)}")
        elif problem["type"] == "missing":
            lines.append(f"{source}: {dotted((*key, problem['loc'][-1]))}: required, but absent")
        elif problem["type"] == "value_error":
            lines += [_explain_conflict(key, text, where, root) for text in str(context["error"]).split("\n")]
        else:
            expected = EXPECTED.get(problem["type"], problem["msg"]).format(**context)
            if problem["type"] == "literal_error" and isinstance(problem["input"], str):
                expected += did_you_mean(problem["input"], re.findall(r"'([^']*)'", expected))
            wrong.setdefault(key, (problem["input"], []))[1].append(expected)
    for key, (value, expected_list) in wrong.items():
        lines.append(
            f"{source_of(where, key)}: {dotted(key)}: got {show(value)}, expected {' or '.join(expected_list)}"
        )
    return lines


def _explain_conflict(key: Key, text: str, where: Mapping[Key, str], root: type[BaseModel]) -> str:
    """A validator's own words. A whole section's validator starts with the keys, relative to the section."""
    if _model_at(key, root) is None:
        return f"{source_of(where, key)}: {dotted(key)}: {text}"
    first = tuple(text.partition(":")[0].split(" ")[0].split("."))
    return f"{source_of(where, (*key, *first))}: {dotted((*key, text))}"


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


def _unknown(key: Key, root: type[BaseModel]) -> str:
    """The nearest key where it stands, else the place where a key of that name belongs, and what is allowed."""
    model = _model_at(key[:-1], root)
    allowed = list(model.model_fields) if model else []
    hint = did_you_mean(str(key[-1]), allowed)
    if not hint:
        elsewhere = [place for place in _all_keys(root, ()) if place[-1] == key[-1]]
        hint = f" (did you mean {dotted(elsewhere[0])!r}?)" if elsewhere else ""
    return f"{hint}; allowed here: {', '.join(allowed)}"


def _all_keys(model: type[BaseModel], prefix: Key) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        inner = inner_model(field.annotation)
        if inner and typing.get_origin(field.annotation) is not list:
            yield from _all_keys(inner, (*prefix, name))


def _model_at(key: Key, root: type[BaseModel]) -> type[BaseModel] | None:
    """The settings class that the schema has at `key`, None where it has a plain value."""
    model: type[BaseModel] | None = root
    named: type[BaseModel] | None = None  # of the values of a mapping, whose next key is a name
    for part in key:
        if named:
            model, named = named, None
        elif isinstance(part, str):
            field = model.model_fields.get(part) if model else None
            model, named = (inner_model(field.annotation), named_model(field.annotation)) if field else (None, None)
    return model


def inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    if typing.get_origin(annotation) is dict:
        return None
    return next(filter(None, map(inner_model, typing.get_args(annotation))), None)


def named_model(annotation: Any) -> type[BaseModel] | None:
    """Of a mapping of names to settings: their class."""
    if typing.get_origin(annotation) is dict:
        return inner_model(typing.get_args(annotation)[1])
    return next(filter(None, map(named_model, typing.get_args(annotation))), None)


def source_of(where: Mapping[Key, str], key: Key) -> str:
    """Where `key`, or what it stands in, was given."""
    return next(where[key[:n]] for n in range(len(key), -1, -1) if key[:n] in where)


def dotted(key: Sequence[Any]) -> str:
    return ".".join(map(str, key))


def show(value: Any) -> str:
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)
