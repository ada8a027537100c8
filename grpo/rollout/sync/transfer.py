"""How new weights reach a vLLM server, and how we know that they did.

    staged = transfer.stage(tensors, version)   # the trainer's side: once for each version; the servers go on sampling
    for control in servers:
        await push(control, transfer, staged)   # pause -> start -> update -> finish(version) -> resume -> check
    transfer.discard(the one before)

`push` drives vLLM's RL control plane (vllm/entrypoints/rl/online/api_router.py). Pausing with mode=keep
freezes completions in flight and drops all cached keys and values, so what is sampled after `resume` is
sampled by the new weights alone, for old and new requests alike.

A transfer moves the bytes. `shm.py` needs no accelerator: a safetensors file in shared memory, read by the
worker-side engine in `vllm/plugin.py`. Between GPUs, `cuda.py` wraps vLLM's own engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from grpo.rollout.engine import RolloutError, WeightSyncError
from grpo.rollout.sync.control import ControlPlane


@dataclass(frozen=True, slots=True)
class Staged:
    """What the trainer is about to send. Example: Staged(version=3, n_bytes=269_000_000, checksum="9f2c...")"""

    version: int
    n_bytes: int
    checksum: str
    path: Path | None = None  # of the file that holds them, if one does
    tensors: Mapping[str, torch.Tensor] | None = None  # themselves, if none does


class Transfer(Protocol):
    """Moves one version's tensors to any number of servers."""

    backend: str  # vLLM's --weight-transfer-config backend

    def stage(self, tensors: Mapping[str, torch.Tensor], version: int) -> Staged:
        """Get these tensors ready to be sent, also after the trainer has changed its own, until they are discarded.

        What was staged before can be sent still.
        """
        ...

    async def send(self, control: ControlPlane, staged: Staged) -> None:
        """Move staged tensors to one server: start, update, finish. Raises WeightSyncError, ServerLostError."""
        ...

    def discard(self, staged: Staged) -> None:
        """Free what `stage` took for them: they will not be sent any more."""
        ...

    def forget(self, url: str) -> None:
        """The server at `url` is gone: drop what was set up with it."""
        ...

    def close(self) -> None: ...


async def push(control: ControlPlane, transfer: Transfer, staged: Staged) -> None:
    """Have a server serve the staged weights, and check that it says so.

    Completions in flight survive. Raises WeightSyncError, after which the server goes on with what it has, or
    ServerLostError if it dies, or does not answer within the deadline of `control`.
    """
    await control.post("/pause?mode=keep")
    try:
        await transfer.send(control, staged)
    except WeightSyncError:
        with suppress(RolloutError):  # why they were refused is what counts
            await control.post("/resume")  # others may be using the server
        raise
    await control.post("/resume")
    served = await control.weight_version()
    if served != staged.version:
        raise WeightSyncError(f"{control.url} says that it serves weights {served} after it was sent {staged.version}")
