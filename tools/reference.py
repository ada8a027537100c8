"""Writes docs/reference/recipe.md from the schema and docs/reference/metrics.md from the recorder's table.

    python tools/reference.py      tests/docs/test_reference.py fails where a page is stale, or a key has no sentence

Types, defaults and limits are the schema's; what a key means is a sentence in tools/recipe_keys.yaml.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from recipes.schema.explain import inner_model
from recipes.schema.load import KINDS

TOOLS = Path(__file__).resolve().parent
PAGES = TOOLS.parent / "docs" / "reference"
TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "any"}
LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
NOTE = "<!-- Made by `python tools/reference.py`: do not edit. -->"
RECIPE_HEAD = f"""# Every key of a recipe

{NOTE}

`zero recipes show NAME --resolved` prints a built-in recipe with all of these; `--set a.b=value` sets one of them for a
run. A key that is not here is refused, with the nearest one that is. Types and defaults are the schema's, `-` is a key
that must be given. [chains.md](../chains.md) says how stages share keys.
"""
KIND_HEADS = {
    "grpo": "## `kind: grpo`, the default\n",
    "sft": "## `kind: sft`\n\nAs above, without `rewards` and `cluster`; `task` may be left out. New, or other, are:\n",
    "sample": "## `kind: sample`\n\nAs above, without `rewards`, `train`, `eval` and `cluster`. New is:\n",
}
METRICS_HEAD = f"""# Every metric

{NOTE}

One line a step in `metrics.jsonl`, and the same names in every tracker. A value that is not finite is null. Which of
them say that something is wrong, and from where on: [runs.md](../runs.md#what-the-run-says-about-itself).

| key | unit | meaning |
| --- | --- | --- |
"""
ROW = re.compile(r"^ *\| (.{22}) \| (.{9}) \| (.*?) *\|$", re.M)


def sentences() -> dict[str, tuple[str, str]]:
    """Dotted key -> what it means, and what it needs or goes with."""
    given = yaml.safe_load((TOOLS / "recipe_keys.yaml").read_text(encoding="utf-8"))
    return {key: (one, "") if isinstance(one, str) else (one[0], one[1]) for key, one in given.items()}


def keys(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a recipe of this class; those of a list's items follow the list."""
    for name, field in model.model_fields.items():
        yield ".".join((*prefix, name)), field
        if inner := inner_model(field.annotation):
            yield from keys(inner, (*prefix, name))


def recipe_page() -> str:
    known, seen, parts = sentences(), dict[str, str](), [RECIPE_HEAD]
    for kind, root in KINDS.items():
        rows = {key: _row(key, field, known) for key, field in keys(root)}
        new = {key: row for key, row in rows.items() if seen.get(key) != row and (key != "task" or kind == "grpo")}
        parts += [KIND_HEADS[kind], *_sections(new)]
        seen |= rows
    return "\n".join(parts)


def _sections(rows: Mapping[str, str]) -> Iterator[str]:
    """A table for each section that the keys begin with."""
    for section in dict.fromkeys(key.partition(".")[0] for key in rows):
        lines = [row for key, row in rows.items() if key.partition(".")[0] == section]
        yield "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *lines, ""])


def _row(key: str, field: FieldInfo, known: Mapping[str, tuple[str, str]]) -> str:
    meaning, needs = known.get(key, ("", ""))
    text = meaning + (f" *({needs})*" if needs else "")
    cells = (f"`{key}`", type_in_words(field), _default(field), text)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def type_in_words(field: FieldInfo) -> str:
    limits = [
        f"{word} {getattr(one, name):g}"
        for one in [*field.metadata, *_metadata(field.annotation)]
        for name, word in LIMITS.items()
        if getattr(one, name, None) is not None
    ]
    return ", ".join([_type(field.annotation), *limits])


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in arguments))
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "mapping"
    return TYPES[annotation]


def _metadata(annotation: Any) -> Iterator[Any]:
    """Limits that stand within `Annotated[...] | None`."""
    for one in typing.get_args(annotation):
        if typing.get_origin(one) is typing.Annotated:
            for info in typing.get_args(one)[1:]:
                yield from getattr(info, "metadata", [info])


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    if value is PydanticUndefined:
        return "-"
    if isinstance(value, BaseModel):
        return "as below"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"`{value}`"


def metrics() -> dict[str, tuple[str, str]]:
    """Key, as the recorder's table writes it -> unit, meaning; a row without a key goes on with the one before."""
    from grpo.record import recorder

    found: dict[str, tuple[str, str]] = {}
    last = ""
    for key, unit, meaning in ROW.findall(str(recorder.__doc__)):
        if key.strip() in ("key", "-" * 22):
            continue
        last = key.strip() or last
        before = found.get(last, (unit.strip(), ""))
        found[last] = (before[0], f"{before[1]} {meaning.strip()}".strip())
    return found


def metrics_page() -> str:
    rows = []
    for key, (unit, meaning) in metrics().items():
        names = ", ".join(f"`{name}`" for name in key.split(", "))
        rows.append(f"| {names} | {unit} | {meaning.replace('|', chr(92) + '|')} |")
    return METRICS_HEAD + "\n".join(rows) + "\n"


def pages() -> dict[Path, str]:
    return {PAGES / "recipe.md": recipe_page(), PAGES / "metrics.md": metrics_page()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path)
