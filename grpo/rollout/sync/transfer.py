"""How new weights reach vLLM servers, and how we know that they did.

    staged = transfer.stage(stream, version)     # once for each version; the servers go on sampling
    await push(controls, transfer, staged)       # pause -> start -> send -> finish(version) -> resume -> check
    transfer.discard(the one before)

`push` drives vLLM's RL control plane (vllm/entrypoints/rl/online/api_router.py) of all servers at once: the weights
are gathered once and, by a collective, sent once, however many servers there are. Pausing with mode=keep freezes
completions in flight and drops all cached keys and values, so what is sampled after `resume` is sampled by the new
weights alone, for old and new requests alike.

A transfer moves the bytes; the other side of all of them is `vllm/plugin.py`, in each of vLLM's workers:

    files.py        shm, files    a file that workers on this machine, or on all of them, can read
    collective.py   gloo, nccl    a broadcast to every worker of every server
    ipc.py          ipc           memory of the GPU that the worker shares with the trainer

Every tensor is hashed as it leaves and again as it arrived (`digest.py`). shm and files compare before anything is
loaded: what is refused leaves no trace. A worker of the others loads as it receives, since it has no room for a second
model, and compares before the new version serves: `HalfLoadedError` says that the last version must be sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from grpo.rollout.engine import RolloutError, ServerLostError, WeightSyncError
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.digest import checksum
from grpo.rollout.sync.stream import TensorSpec, WeightStream, total_bytes

WORKER_BACKEND = "zero"  # what vLLM calls the workers' side: its --weight-transfer-config backend

SECONDS_TO_ANSWER = 1.0  # after the deadline: a server's own error says more than ours


class HalfLoadedError(WeightSyncError):
    """Servers refused weights of which they may hold a part. They stay paused: what they hold must not be served."""


@dataclass(slots=True)
class Staged:
    """A version of the weights that can be sent."""

    version: int
    stream: WeightStream
    kept: bool  # as it is now, whatever the trainer does to its tensors; else the stream reads these
    digests: Sequence[int] | None = None  # of its tensors; None until they have been read

    @property
    def specs(self) -> Sequence[TensorSpec]:
        return self.stream.specs

    @property
    def n_bytes(self) -> int:
        return total_bytes(self.specs)

    @property
    def checksum(self) -> str:
        """Of what was sent, and so of what arrived."""
        assert self.digests is not None, "known when it was read"
        return checksum(self.specs, self.digests)


class Transfer(Protocol):
    """Moves one version's tensors to any number of servers."""

    name: str  # as in rollout.server.weight_transfer
    folders: Sequence[Path]  # that should be removed if this process is killed
    keeps: bool  # what it stages can be sent at any time; else only while the trainer's tensors are that version

    def stage(self, stream: WeightStream, version: int) -> Staged:
        """Get a version ready to be sent, until it is discarded. What was staged before can be sent still."""
        ...

    async def send(self, controls: Sequence[ControlPlane], staged: Staged) -> None:
        """Have every worker of the servers load the tensors, and compare what arrived.

        Between start and finish. Raises WeightSyncError if nothing was loaded, HalfLoadedError, ServerLostError. It
        may be cancelled: what it has set up with the servers is then taken down.
        """
        ...

    def discard(self, staged: Staged) -> None:
        """Free what `stage` took for it: it will not be sent any more."""
        ...

    def forget(self, url: str) -> None:
        """The server at `url` is gone: drop what was set up with it."""
        ...

    def close(self) -> None: ...


async def push(controls: Sequence[ControlPlane], transfer: Transfer, staged: Staged) -> None:
    """Have servers serve the staged weights, all of them or none, and check that they say so.

    Completions in flight survive. The deadline is that of each of `controls`.

    Raises:
        WeightSyncError: one refused the weights; all go on with what they had.
        HalfLoadedError: one did, and they may hold a part of the new ones: all are paused.
        ServerLostError: some, its `urls`, died or did not answer in time. The others are paused: send them a version.
    """
    await each(controls, lambda control: control.post("/pause?mode=keep"))
    try:
        await each(controls, _start)
        await _sent(controls, transfer, staged)
        version = {"weight_version": str(staged.version)}
        with half_loaded():
            await each(controls, lambda control: control.post("/finish_weight_update", version))
    except WeightSyncError as refused:
        with suppress(RolloutError):  # why they were refused is what counts
            await each(controls, _abandon)
            if not isinstance(refused, HalfLoadedError):
                await each(controls, lambda control: control.post("/resume"))  # others may be using the server
        raise
    await each(controls, lambda control: control.post("/resume"))
    for control in controls:
        if (served := await control.weight_version()) != staged.version:
            raise WeightSyncError(
                f"{control.url} says that it serves weights {served} after it was sent {staged.version}"
            )


async def _sent(controls: Sequence[ControlPlane], transfer: Transfer, staged: Staged) -> None:
    """Send it; a transfer that is stuck where no server was asked anything ends, too."""
    try:
        async with asyncio.timeout(min(control.seconds_left for control in controls) + SECONDS_TO_ANSWER):
            await transfer.send(controls, staged)
    except TimeoutError as error:
        urls = [control.url for control in controls]
        raise ServerLostError(
            f"sending weights by {transfer.name} to {', '.join(urls)} is stuck in the middle: not done within "
            f"{controls[0].timeout:g} s (rollout.server.sync_timeout)",
            urls,
        ) from error


async def each(controls: Sequence[ControlPlane], call: Callable[[ControlPlane], Coroutine[Any, Any, None]]) -> None:
    """Do it at all servers at once; raises once all are done: ServerLostError of those that are lost, or what the
    others refused."""
    outcomes = await asyncio.gather(*map(call, controls), return_exceptions=True)
    errors = [outcome for outcome in outcomes if outcome is not None]
    if lost := [error for error in errors if isinstance(error, ServerLostError)]:
        raise type(lost[0])(str(lost[0]), {url for error in lost for url in error.urls})
    refused = [error for error in errors if isinstance(error, WeightSyncError)]
    if len(refused) > 1 and refused == errors:  # one may have a reason, the others no more than that it hung up
        raise WeightSyncError("; ".join(map(str, refused)))
    if errors:
        raise errors[0]


@contextmanager
def half_loaded() -> Iterator[None]:
    """Within it, a refusal leaves servers that may hold a part of the new weights."""
    try:
        yield
    except WeightSyncError as refused:
        raise HalfLoadedError(str(refused)) from refused


async def _start(control: ControlPlane) -> None:
    try:
        await control.post("/start_weight_update")
    except WeightSyncError:  # a trainer that was killed may have left an update open
        await _abandon(control)
        await control.post("/start_weight_update")


async def _abandon(control: ControlPlane) -> None:
    """End the update. Those of a server's workers that have ended it by an error refuse this, which is as well."""
    for path, body in (("/update_weights", {"update_info": {"abandon": {}}}), ("/finish_weight_update", None)):
        with suppress(WeightSyncError):
            await control.post(path, body)
