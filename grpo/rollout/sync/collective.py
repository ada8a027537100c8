"""Weights by a broadcast: each bucket leaves the trainer once, for every worker of every server.

`gloo` and `nccl` are the same code but for the word (`group.py`): what the tests run on a CPU is what runs on GPUs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import torch

from grpo.rollout.engine import WeightSyncError
from grpo.rollout.sync.blocking import in_daemon_thread
from grpo.rollout.sync.buckets import BUCKET_BYTES, packed
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.digest import values
from grpo.rollout.sync.files import discard_file, shared_memory, staged_in
from grpo.rollout.sync.group import JOIN_SECONDS, Group, listen, own_address
from grpo.rollout.sync.stream import WeightStream, to_json
from grpo.rollout.sync.transfer import Staged, each, half_loaded

Result = TypeVar("Result")

SHARE_FOR_ANSWERS = 0.05  # of the time until the deadline: who did not get stuck can say so


class CollectiveTransfer:
    """A `Transfer` by torch.distributed.

    The group is made with the first version and used until its servers change, or something fails in it.

    Args:
        backend: "gloo" or "nccl".
        device: that the bytes leave from: the CPU, or the trainer's GPU.
        keep: whether a version may be sent again when the trainer has gone on: then a copy lies in shared memory.
    """

    def __init__(self, backend: str, device: torch.device, keep: bool) -> None:
        self.name, self._device, self.keeps = backend, device, keep
        self._kept = shared_memory() if keep else None
        self.folders = self._kept.folders if self._kept else []
        self._group: Group | None = None
        self._members: tuple[str, ...] = ()
        self._reading = threading.Lock()  # a stream is read by one: its gathers are collectives of the trainer's ranks

    def stage(self, stream: WeightStream, version: int) -> Staged:
        return staged_in(self._kept, stream, version) if self._kept else Staged(version, stream, kept=False)

    async def send(self, controls: Sequence[ControlPlane], staged: Staged) -> None:
        try:
            group = await self._joined(controls)
            with half_loaded():
                await self._send(group, controls, staged)
        except BaseException:  # cancelled, too: a group that was left half-way is of no more use
            self._drop()
            raise

    def discard(self, staged: Staged) -> None:
        discard_file(staged)

    def forget(self, url: str) -> None:
        if url in self._members:
            self._drop()

    def close(self) -> None:
        self._drop()
        if self._kept:
            self._kept.close()

    async def _send(self, group: Group, controls: Sequence[ControlPlane], staged: Staged) -> None:
        seconds = (1 - SHARE_FOR_ANSWERS) * min(control.seconds_left for control in controls)
        announced = {"specs": to_json(staged.specs), "bucket_bytes": BUCKET_BYTES, "seconds": seconds}
        answers = asyncio.create_task(each(controls, lambda control: control.update({"receive": announced})))
        sent = asyncio.create_task(in_daemon_thread(self._broadcast, group, staged, seconds))
        try:
            await asyncio.wait({answers, sent}, return_when=asyncio.FIRST_EXCEPTION)
            if sent.done() and sent.exception() and not answers.done():
                self._drop()  # the workers wait for what will not come
            await answers  # first: when a server dies the broadcast fails, too
            staged.digests = await self._result(sent, "lost each other")
        finally:
            answers.cancel()
            sent.cancel()
            await asyncio.gather(answers, sent, return_exceptions=True)
        found = {"digests": staged.digests}
        await each(controls, lambda control: control.update({"check": found}))

    def _broadcast(self, group: Group, staged: Staged, seconds: float) -> list[int]:
        """In a thread of its own; every broadcast of it ends by the deadline."""
        with self._reading:
            digests: list[torch.Tensor] = []
            deadline = time.monotonic() + seconds
            for data, its in packed(staged.stream, self._device):
                group.broadcast(data, deadline - time.monotonic())
                digests += its
            return list(staged.digests or values(digests))

    async def _joined(self, controls: Sequence[ControlPlane]) -> Group:
        """The group of these servers' workers, made anew if it is of others."""
        members = tuple(control.url for control in controls)
        if self._group is None or members != self._members:
            self._drop()
            sizes = [int(await control.get("/get_world_size", "world_size")) for control in controls]
            self._group = await self._join(controls, sizes)
            self._members = members
        return self._group

    async def _join(self, controls: Sequence[ControlPlane], sizes: Sequence[int]) -> Group:
        seconds = min(JOIN_SECONDS, *(control.seconds_left for control in controls))
        address = meeting_place([control.url for control in controls])
        size = 1 + sum(sizes)
        store = listen(address, seconds)
        first_ranks = {control.url: 1 + sum(sizes[:i]) for i, control in enumerate(controls)}
        common = {"backend": self.name, "address": address, "port": store.port, "size": size, "seconds": seconds}

        async def join(control: ControlPlane) -> None:
            await control.post(
                "/init_weight_transfer_engine", {"init_info": common | {"first_rank": first_ranks[control.url]}}
            )

        here = asyncio.create_task(in_daemon_thread(Group, self.name, store, 0, size, address, seconds))
        try:
            await each(controls, join)
            return await self._result(here, f"did not come together at {address}")
        finally:
            here.cancel()

    async def _result(self, work: asyncio.Task[Result], failed: str) -> Result:
        try:
            return await work
        except RuntimeError as error:
            raise WeightSyncError(f"weights by {self.name}: trainer and servers {failed}: {error}") from error

    def _drop(self) -> None:
        if self._group is not None:
            self._group.abort()
        self._group, self._members = None, ()


def meeting_place(urls: Sequence[str]) -> str:
    """An address of this machine that all of the servers can reach: 127.0.0.1 only if they all are here."""
    addresses = [own_address(urlsplit(url).hostname or "") for url in urls]
    return next((address for address in addresses if not address.startswith("127.")), addresses[0])
