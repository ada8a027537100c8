"""Checkpoints: a normal transformers or peft folder, plus what resuming needs.

    checkpoints/step-000050/  model.safetensors, config.json, tokenizer ...   loads in transformers, vLLM, peft
                              trainer/        fp32 masters, AdamW's moments and what else the learner keeps, as
                                              torch.distributed.checkpoint writes them: for any number of processes
                              trainer.json    step, and what was known of the run: the accuracy before it, the prompts
                                              that come next and those that are asked again
                              checksums.json  xxh3_128 of every other file, written last
                step-000060.damaged/          was not as it had been written, so that no run goes on from it

A checkpoint is written under a temporary name and renamed when it is complete, by a thread, while the run goes on from
the copies that were made. Seeds are a function of (seed, step);
where the run is in its data is what the scheduler and its order of prompts keep in trainer.json, as samples are drawn
ahead of the step that trains them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

from grpo.record.atomic import whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECKSUMS = "checksums.json"
STATE = "trainer"
_NAME = re.compile(r"\Astep-(\d{6})\Z")


class Kept(Protocol):
    """What a checkpoint holds, which writes and reads it by itself: the learner."""

    def save(self, folder: Path, state_folder: Path) -> Callable[[], None]:
        """Copies the model for `folder` and the state for `state_folder`; what is returned writes the copies."""

    def load_state(self, folder: Path) -> None: ...


class DamagedCheckpoint(ValueError):
    """A checkpoint is not as it was written. The message says which file, and what is wrong with it."""


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a run as (step, folder), oldest first."""
    found = [(_NAME.match(folder.name), folder) for folder in (run_dir / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), folder) for match, folder in found if match)


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread, one at a time: the run waits for a copy of what they hold.

    Args:
        keep: how many of them stay.

    A checkpoint that cannot be written is an OSError that names it, raised by the next call of any method; nothing of
    it is left then.
    """

    def __init__(self, run_dir: Path, learner: Kept, tokenizer: PreTrainedTokenizerBase, keep: int) -> None:
        self._run_dir, self._learner, self._tokenizer, self._keep = run_dir, learner, tokenizer, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] = Future()  # of the last one
        self._writing.set_result(None)
        self.newest = max((step for step, _ in checkpoints(run_dir)), default=0)  # that is there or being written

    def begin(self, step: int, facts: Mapping[str, Any]) -> None:
        """Copy what the checkpoint of `step` holds, when the one before has been written."""
        self.finish()
        trainer_json = json.dumps({**facts, "step": step}, indent=2)
        with ExitStack() as stack:
            folder = stack.enter_context(whole_folder(self._run_dir / "checkpoints" / f"step-{step:06d}"))
            write_learner = self._learner.save(folder, folder / STATE)
            completing = stack.pop_all()

        def write() -> None:
            with completing:
                write_learner()
                self._tokenizer.save_pretrained(folder)
                (folder / "trainer.json").write_text(trainer_json)
                (folder / CHECKSUMS).write_text(json.dumps(_checksums(folder), indent=2))
            for _, old in checkpoints(self._run_dir)[: -self._keep]:
                shutil.rmtree(old)

        self._writing, self.newest = self._thread.submit(write), step

    def check(self) -> None:
        """Raises what the last checkpoint failed with, if it has."""
        if self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the last checkpoint is written."""
        self._writing.result()

    def close(self) -> None:
        """Wait, whatever becomes of it: for a run that ends by another error."""
        self._thread.shutdown()


def load_checkpoint(folder: Path, learner: Kept) -> dict[str, Any]:
    """Put the learner, and with it the trained weights, as they were. Does not verify them.

    Returns what `CheckpointWriter.begin` was given as `facts`, and "step".
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
        # mypy's stubs know only hashlib's own digests.
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()  # type: ignore[arg-type]
