"""Sampling through vLLM servers: those that we start and supervise, or those that `rollout.server.urls` names."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from grpo.config import ModelSettings, RolloutSettings
from grpo.rollout.engine import ServerLostError, SyncReport, WeightSyncError
from grpo.rollout.fleet.attached import Attached
from grpo.rollout.fleet.child import Child
from grpo.rollout.fleet.fleet import Fleet
from grpo.rollout.fleet.lease import Tenant
from grpo.rollout.fleet.member import Member
from grpo.rollout.fleet.placed import servers_in
from grpo.rollout.fleet.ray import Room
from grpo.rollout.fleet.send import send, send_together
from grpo.rollout.sync.adapter import Adapter, load_adapter
from grpo.rollout.sync.choice import transfer_for
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.digest import checksum, digests_of
from grpo.rollout.sync.stream import TensorStream, WeightStream, total_bytes
from grpo.rollout.sync.transfer import Staged, push
from grpo.rollout.vllm.client import Decoder
from grpo.rollout.vllm.placement import Placement, place, placed
from grpo.rollout.vllm.server import build, log_of
from grpo.types import Group, RolloutRequest

ENDING = 3.0  # seconds that a server which was told to end answers still


class VLLMEngine:
    """A RolloutEngine (see `engine.py`) over a fleet of servers, which survives each of them (fleet/fleet.py).

    What a lost server was asked for is asked of another one. A child is started again and gets the last weights; after
    `max_restarts` deaths it is given up. A server named by url is taken back when it answers. With the last server
    RolloutError ends the run: a child's carries its last log lines.

    Args:
        tenant: who holds the lease of the servers that are named by url (fleet/lease.py); None: nobody.
        room: where Ray places the servers; None: they are children, on this machine, or named by url.
    """

    name = "vllm"
    concurrent = True

    def __init__(
        self,
        model_path: str,
        model: ModelSettings,
        rollout: RolloutSettings,
        tokenizer: Decoder,
        run_dir: Path,
        trainer_gpus: Sequence[int] = (),
        tenant: Tenant | None = None,
        room: Room | None = None,
    ) -> None:
        self.version = 0
        self._rollout = rollout
        self._settings = settings = rollout.server
        placement = placed(settings) if room else place(settings, trainer_gpus)
        self._transfer = transfer_for(placement.backend, rollout, run_dir, trainer_gpus)
        self._staged: Staged | None = None  # what the servers hold, or are about to
        self._adapter: tuple[int, Path] | None = None  # version and folder of the newest
        members: list[Member] = [
            Attached(url, rollout.max_sequences, settings.health_timeout, tenant) for url in settings.urls
        ]
        if room:
            members = list(servers_in(room, model_path, model, rollout, run_dir))
        elif not members:
            members = self._children(model_path, model, run_dir, trainer_gpus, placement)
        self._fleet = Fleet(members, settings, tokenizer, self._give, self._transfer.forget, self._transfer.keeps)

    def _children(
        self, model_path: str, model: ModelSettings, run_dir: Path, trainer_gpus: Sequence[int], placement: Placement
    ) -> list[Member]:
        rollout, n = self._rollout, self._settings.replicas
        children: list[Member] = []
        for k in range(n):
            log_file = log_of(run_dir, k, n)
            server = build(model_path, model, rollout, log_file, trainer_gpus, self._transfer.folders, k)
            children.append(Child(server, rollout.max_sequences, placement.share(k, n).data_parallel))
        return children

    @property
    def restarts(self) -> int:
        return sum(member.restarts for member in self._fleet.members)

    async def start(self) -> None:
        await self._fleet.start()

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[tuple[int, Group]]:
        """Yield (index, group) as groups complete. Raises RolloutError when no server can be kept alive."""
        if not requests:
            return
        split = [parts(request, self._fleet.most_at_once) for request in requests]
        tasks = [asyncio.create_task(self._answer(i, part)) for i, its_parts in enumerate(split) for part in its_parts]
        came: defaultdict[int, list[Group]] = defaultdict(list)
        try:
            for task in asyncio.as_completed(tasks):
                index, part = await task
                came[index].append(part)
                if len(came[index]) == len(split[index]):
                    yield index, joined(came.pop(index))
        finally:
            for pending in tasks:
                pending.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def ask_each(self, requests: Sequence[RolloutRequest]) -> dict[str, list[Group]]:
        """One that is lost over it is left out, and is brought back meanwhile, as ever."""
        members = self._fleet.serving()
        connections = [member.lost for member in members]
        asked = [asyncio.gather(*map(member.ask, requests), return_exceptions=True) for member in members]
        found: dict[str, list[Group]] = {}
        for member, connection, answers in zip(members, connections, await asyncio.gather(*asked), strict=True):
            groups = [answer for answer in answers if isinstance(answer, Group)]
            if len(groups) == len(requests):
                found[member.url] = groups
            for error in (answer for answer in answers if isinstance(answer, BaseException)):
                if not isinstance(error, ServerLostError):
                    raise error
                if connection is not None:
                    await self._fleet.was_lost(member, connection, error)
        if not found:
            one = {index: group async for index, group in self.generate(requests)}
            found["any server"] = [one[i] for i in range(len(requests))]
        return found

    async def update_weights(self, stream: WeightStream, version: int) -> SyncReport:
        """Serve these weights as `version` from now on; completions in flight go on with them.

        Sampling goes on while they are staged. Raises WeightSyncError if a server refuses them: all go on with those
        before, or, where servers may hold half of the new and the old cannot be sent again, nothing is sampled any
        more.
        """
        started = time.monotonic()
        staged = await asyncio.to_thread(self._transfer.stage, stream, version)
        ready = time.monotonic()
        previous, before = self._staged, self.version

        def present() -> None:
            self._staged, self.version = staged, version

        def go_back() -> bool:
            self._staged, self.version = previous, before
            return previous is not None and previous.kept

        try:
            await self._fleet.update(present, go_back)
        except WeightSyncError:
            self._transfer.discard(staged)
            raise
        served = time.monotonic()
        if previous is not None:
            self._transfer.discard(previous)
        return SyncReport(version, served - started, served - ready, staged.n_bytes, staged.checksum)

    async def update_adapter(self, folder: Path, version: int) -> SyncReport:
        """Serve the LoRA adapter in `folder` (as peft saves it) as `version`, over the weights of the start.

        Needs model.lora.sync: adapter. Completions in flight finish with the adapter that they began with: the last
        `rollout.adapters_served` folders must stay. Raises WeightSyncError if a server refuses it.
        """
        started = time.monotonic()
        adapter = TensorStream(await asyncio.to_thread(load_file, folder / "adapter_model.safetensors"))

        def present() -> None:
            self._adapter, self.version = (version, folder), version

        await self._fleet.update(present)
        found = checksum(adapter.specs, digests_of(adapter))
        return SyncReport(version, time.monotonic() - started, 0.0, total_bytes(adapter.specs), found)

    async def close(self) -> None:
        try:
            await self._fleet.close()
        finally:
            self._transfer.close()

    async def _answer(self, index: int, request: RolloutRequest) -> tuple[int, Group]:
        failed_at: list[Member] = []  # servers that are well: it is the request that they fail
        while True:
            async with self._fleet.place(request.n, failed_at) as member:
                if member in failed_at:  # and no other is left
                    return index, Group(request.prompt, (), {"server_error": request.n})
                version, connection = self.version, member.lost
                try:
                    group = await member.ask(request)
                    failure = self._suspicion(group)
                except ServerLostError as error:
                    failure, group = error, None
            assert connection is not None
            aborted = group is not None and "aborted" in group.failures
            if aborted:
                await asyncio.sleep(ENDING)
            if failure is None or not await self._fleet.was_lost(member, connection, failure):
                if group is not None and not aborted:  # one that took too long takes as long elsewhere
                    check_versions(group, version)
                    return index, group
                failed_at.append(member)

    def _suspicion(self, group: Group) -> ServerLostError | None:
        """Why its server may be lost. What a server that ends gives back is short: the long ones it aborts."""
        if "timeout" in group.failures:
            timeout = self._settings.request_timeout
            return ServerLostError(f"no answer within {timeout:g} s (rollout.server.request_timeout)")
        return ServerLostError("it aborted what it was asked for") if "aborted" in group.failures else None

    async def _give(self, members: Sequence[Member]) -> Mapping[Member, ServerLostError]:
        """The present weights, or the newest adapter, to these servers; see `Fleet`."""
        seconds = self._settings.sync_timeout
        lost: dict[Member, ServerLostError] = {}
        if self._staged is not None:
            lost |= await send_together(members, partial(push, transfer=self._transfer, staged=self._staged), seconds)
        if self._adapter is not None:
            left = [member for member in members if member not in lost]
            lost |= await send(left, self._load_adapter, seconds)
        return lost

    async def _load_adapter(self, member: Member, control: ControlPlane) -> None:
        """Load the newest adapter, and drop the oldest, if there is one too many: completions may use the others."""
        version, folder = self._adapter or (0, Path())
        newest, most = Adapter(version, folder, member.connection), self._rollout.adapters_served
        superseded = member.adapters[0] if len(member.adapters) >= most else None
        await load_adapter(control, newest, superseded)
        member.adapters = [*member.adapters[-(most - 1) :], newest]


def parts(request: RolloutRequest, most: int) -> list[RolloutRequest]:
    """Requests of at most `most` completions each: a server refuses more than its --max-num-seqs."""
    return [replace(request, n=min(most, request.n - start)) for start in range(0, request.n, most)]


def joined(groups: Sequence[Group]) -> Group:
    """One group of what the parts of a request brought."""
    failures: Counter[str] = sum((Counter(group.failures) for group in groups), Counter())
    return Group(groups[0].prompt, tuple(one for group in groups for one in group.completions), dict(failures))


def check_versions(group: Group, version: int) -> None:
    """Raises WeightSyncError if a token is older than the weights that were served when it was asked for."""
    oldest = min((min(completion.versions) for completion in group.completions), default=version)
    if oldest < version:
        raise WeightSyncError(f"the server sampled with weights {oldest} though it was given {version} before")
