"""What a stage is: the hash of its settings and of all that it takes in. A stage whose hash is the same is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from grpo.record.flatten import flatten
from recipes.jobs.resumed import changes_nothing
from recipes.schema.chain import Chain, Stage


def identities(chain: Chain) -> dict[str, str]:
    """Each stage's, by name: of its settings, of the files that it names, and of the stages that it takes from."""
    found: dict[str, str] = {}
    contents: dict[str, str] = {}
    for stage in chain.stages:
        settings = {key: value for key, value in flatten(stage.settings).items() if not changes_nothing(key)}
        files = {path: contents.setdefault(path, content_hash(Path(path))) for path in _files(stage)}
        inputs = {name: found[name] for name in stage.inputs}
        text = json.dumps([stage.kind, settings, files, inputs], sort_keys=True, default=str)
        found[stage.name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def content_hash(path: Path) -> str:
    """Of a file, or of a folder's files with their names."""
    digest = xxhash.xxh3_128()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode())
            with file.open("rb") as opened:
                # mypy's stubs know only hashlib's own digests.
                digest.update(hashlib.file_digest(opened, xxhash.xxh3_128).digest())  # type: ignore[arg-type]
    return digest.hexdigest()


def _files(stage: Stage) -> Iterator[str]:
    """Local files and folders that its settings name, and the models' among them."""
    for value in _texts(stage.settings):
        name = value.rpartition(":")[0] if ".py:" in value else value
        if "/" in name and len(name) < 4096 and Path(name).expanduser().exists():
            yield name


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
