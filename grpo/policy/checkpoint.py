"""Checkpoints: a normal transformers or peft folder, plus what resuming needs.

    checkpoints/step-000050/  model.safetensors, config.json, tokenizer ...   loads in transformers, vLLM, peft
                              trainer/        fp32 masters, AdamW's moments and what else the learner keeps, as
                                              torch.distributed.checkpoint writes them: for any number of processes
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
import re
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

from grpo.record.atomic import write_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECKSUMS = "checksums.json"
STATE = "trainer"
_NAME = re.compile(r"\Astep-(\d{6})\Z")


class Kept(Protocol):
    """What a checkpoint holds, which writes and reads it by itself: the learner."""

    def save_model(self, folder: Path) -> None: ...

    def save_state(self, folder: Path) -> None: ...

    def load_state(self, folder: Path) -> None: ...


class DamagedCheckpoint(ValueError):
    """A checkpoint is not as it was written. The message says which file, and what is wrong with it."""


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a run as (step, folder), oldest first."""
    found = [(_NAME.match(folder.name), folder) for folder in (run_dir / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), folder) for match, folder in found if match)


def save_checkpoint(
    run_dir: Path,
    step: int,
    learner: Kept,
    tokenizer: PreTrainedTokenizerBase,
    facts: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of `step`, then delete all but the newest `keep`.

    Raises: OSError that names the checkpoint; nothing of it is left then.
    """

    def write(folder: Path) -> None:
        learner.save_model(folder)
        tokenizer.save_pretrained(folder)
        learner.save_state(folder / STATE)
        (folder / "trainer.json").write_text(json.dumps({**facts, "step": step}, indent=2))
        (folder / CHECKSUMS).write_text(json.dumps(_checksums(folder), indent=2))

    final = run_dir / "checkpoints" / f"step-{step:06d}"
    write_folder(final, write)
    for _, folder in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(folder)
    return final


def load_checkpoint(folder: Path, learner: Kept) -> dict[str, Any]:
    """Put the learner, and with it the trained weights, as they were. Does not verify them.

    Returns what `save_checkpoint` was given as `facts`, and "step".
    """
    learner.load_state(folder / STATE)
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
    """Raises DamagedCheckpoint unless every file of a checkpoint is as it was written."""
    try:
        if not folder.is_dir():
            raise DamagedCheckpoint("it is no folder")
        kept = _read_json(folder / CHECKSUMS)
        if not (isinstance(kept, dict) and {f"{STATE}/.metadata", "trainer.json"} <= kept.keys()):
            raise DamagedCheckpoint(f"{CHECKSUMS} has another shape, expected a checksum of each file")
        for name, checksum in kept.items():
            if not (folder / name).is_file():
                raise DamagedCheckpoint(f"{name} is missing")
            if _checksum(folder / name) != checksum:
                raise DamagedCheckpoint(f"{name} is not as it was written: its checksum is another")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EIO):  # any other says nothing about the checkpoint
            raise
        raise DamagedCheckpoint(str(error)) from error


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
