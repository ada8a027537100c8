"""Checkpoints: a normal transformers or peft folder, plus what resuming needs.

    checkpoints/step-000050/  model.safetensors, config.json, tokenizer ...   loads in transformers, vLLM, peft
                              trainer.pt    fp32 masters, AdamW state, and what else the update keeps between steps
                              trainer.json  step, and what was known of the run (e.g. the accuracy before it)

A checkpoint is written under a temporary name and renamed when it is complete. Which rows and seeds a
step uses is a function of (seed, step), so the step number is the whole data position.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME = re.compile(r"\Astep-(\d{6})\Z")


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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
    """Write the checkpoint of `step`, then delete all but the newest `keep`."""
    final = run_dir / "checkpoints" / f"step-{step:06d}"
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        model.save_pretrained(partial)  # type: ignore[operator]
        tokenizer.save_pretrained(partial)
        torch.save(update.state_dict(), partial / "trainer.pt")
        (partial / "trainer.json").write_text(json.dumps({"step": step, **facts}, indent=2))
        for file in partial.iterdir():
            _fsync(file)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(error.errno, f"cannot write checkpoint {final} ({error}); free space or move --output") from error
    if final.exists():  # left by the run that this one resumes
        shutil.rmtree(final)
    partial.rename(final)
    _fsync(final.parent)
    for _, folder in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(folder)
    return final


def load_checkpoint(folder: Path, update: Stateful) -> dict[str, Any]:
    """Put the update's state, and with it the trained weights, as they were.

    Returns what `save_checkpoint` was given as `facts`, and "step".
    """
    state = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
    update.load_state_dict(state)
    return json.loads((folder / "trainer.json").read_text())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
