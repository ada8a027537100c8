"""Checkpoints: a normal transformers or peft folder, plus what resuming needs.

    checkpoints/step-000050/  model.safetensors, config.json, tokenizer ...   loads in transformers, vLLM, peft
                              trainer.pt      fp32 masters, AdamW state, and what else the update keeps between steps
                              trainer.json    step, and what was known of the run: the accuracy before it, the prompts
                                              that come next and those that are asked again
                              checksums.json  xxh3_128 of every other file, written last
                step-000060.damaged/          was not as it had been written, so that no run goes on from it

A checkpoint is written under a temporary name and renamed when it is complete. Seeds are a function of (seed, step);
where the run is in its data is what the scheduler and its order of prompts keep in trainer.json, as samples are drawn
ahead of the step that trains them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import nn

from grpo.atomic import write_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECKSUMS = "checksums.json"
_NAME = re.compile(r"\Astep-(\d{6})\Z")
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
# What reading a damaged zip file, or the pickle in it, raises.
_UNREADABLE = (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError)


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class DamagedCheckpoint(ValueError):
    """A checkpoint is not as it was written. The message says which file, and what is wrong with it."""


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a run as (step, folder), oldest first."""
    found = [(_NAME.match(folder.name), folder) for folder in (run_dir / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), folder) for match, folder in found if match)


def save_checkpoint(
    run_dir: Path,
    step: int,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    update: Stateful,
    facts: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of `step`, then delete all but the newest `keep`.

    Raises: OSError that names the checkpoint; nothing of it is left then.
    """

    def write(folder: Path) -> None:
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        with (folder / "trainer.pt").open("wb") as file:  # of a path, torch would not say why it cannot be written
            torch.save(update.state_dict(), file)
        (folder / "trainer.json").write_text(json.dumps({**facts, "step": step}, indent=2))
        (folder / CHECKSUMS).write_text(json.dumps(_checksums(folder), indent=2))

    final = run_dir / "checkpoints" / f"step-{step:06d}"
    write_folder(final, write)
    for _, folder in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(folder)
    return final


def load_checkpoint(folder: Path, update: Stateful) -> dict[str, Any]:
    """Put the update's state, and with it the trained weights, as they were. Does not verify them.

    Returns what `save_checkpoint` was given as `facts`, and "step".
    """
    state = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
    update.load_state_dict(state)
    return json.loads((folder / "trainer.json").read_text())


def set_damaged_aside(run_dir: Path) -> list[str]:
    """Rename damaged checkpoints, newest first, up to one that is whole: that is the newest of `checkpoints` then.

    Returns a sentence for each that was passed over: which, and why.
    """
    said = []
    for _, folder in reversed(checkpoints(run_dir)):
        try:
            verify(folder)
            break
        except DamagedCheckpoint as damage:
            names = (f"{folder.name}.damaged{n or ''}" for n in count())
            aside = next(path for path in map(folder.with_name, names) if not path.exists())
            folder.rename(aside)
            said.append(f"checkpoint {folder.name} is damaged ({damage}): it is passed over, and kept as {aside}")
    return said


def verify(folder: Path) -> None:
    """Raises DamagedCheckpoint unless every file of a checkpoint is as it was written.

    Checkpoints of versions that kept no checksums are verified as far as their files tell: trainer.pt by its own
    checksums, the weights by their sizes.
    """
    try:
        if not folder.is_dir():
            raise DamagedCheckpoint("it is no folder")
        if (folder / CHECKSUMS).exists():
            _compare_checksums(folder)
        else:
            _look_into(folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EIO):  # any other says nothing about the checkpoint
            raise
        raise DamagedCheckpoint(str(error)) from error


def _compare_checksums(folder: Path) -> None:
    kept = _read_json(folder / CHECKSUMS)
    if not (isinstance(kept, dict) and {"trainer.pt", "trainer.json"} <= kept.keys()):
        raise DamagedCheckpoint(f"{CHECKSUMS} has another shape, expected a checksum of each file")
    for name, checksum in kept.items():
        if not (folder / name).is_file():
            raise DamagedCheckpoint(f"{name} is missing")
        if _checksum(folder / name) != checksum:
            raise DamagedCheckpoint(f"{name} is not as it was written: its checksum is another")


def _look_into(folder: Path) -> None:
    """As `verify`, without checksums."""
    facts = _read_json(folder / "trainer.json")
    if not (isinstance(facts, dict) and {"step", "wall_seconds"} <= facts.keys()):
        raise DamagedCheckpoint("trainer.json has another shape, expected an object with step and wall_seconds")
    try:
        with zipfile.ZipFile(folder / "trainer.pt") as archive:
            if bad := archive.testzip():  # which torch does not look at
                raise zipfile.BadZipFile(f"bad checksum of {bad}")
        torch.load(folder / "trainer.pt", map_location="cpu", mmap=True, weights_only=True)
    except _UNREADABLE as error:
        raise DamagedCheckpoint(f"trainer.pt cannot be read: {error}") from error
    index = folder / "model.safetensors.index.json"
    try:
        parts = set(_read_json(index)["weight_map"].values()) if index.exists() else set()
    except (TypeError, LookupError, AttributeError) as error:
        raise DamagedCheckpoint(f"{index.name} has another shape, expected an object with weight_map") from error
    names = parts or {name for name in _WEIGHTS if (folder / name).exists()}
    if not names:
        raise DamagedCheckpoint(f"{' or '.join(_WEIGHTS)} is missing")
    for name in names:
        try:
            with safe_open(folder / name, "pt"):  # reads the header, which says how long the file is
                pass
        except SafetensorError as error:
            raise DamagedCheckpoint(f"{name} cannot be read: {error}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedCheckpoint(f"{path.name} is not JSON: {error}") from error


def _checksums(folder: Path) -> dict[str, str]:
    """{file's path in the folder: xxh3_128 in hex}"""
    return {str(file.relative_to(folder)): _checksum(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()  # type: ignore[arg-type]
