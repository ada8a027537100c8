"""Sampling through vLLM servers: the one we start and supervise, or those that `rollout.server.urls` names."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from safetensors.torch import load_file

from grpo.config import ModelSettings, RolloutSettings
from grpo.rollout.engine import RolloutError, ServerLostError, SyncReport, WeightSyncError
from grpo.rollout.sync.adapter import Adapter, load_adapter
from grpo.rollout.sync.choice import transfer_for
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.digest import checksum, digests_of
from grpo.rollout.sync.stream import TensorStream, WeightStream, total_bytes
from grpo.rollout.sync.transfer import HalfLoadedError, Staged, push
from grpo.rollout.vllm.client import Decoder, RolloutClient
from grpo.rollout.vllm.server import VLLMServer, build, place
from grpo.rollout.vllm.supervision import Lost, answers, first, unless_lost, watch
from grpo.types import Group, RolloutRequest

logger = logging.getLogger(__name__)

Update = Callable[[ControlPlane], Coroutine[None, None, None]]


class VLLMEngine:
    """A RolloutEngine (see `engine.py`) that survives its server.

    When the server dies or stands still (`supervision.py`), also while it is being sent weights, it is started again,
    gets the last weights, and what was in flight is asked for again; after `max_restarts` deaths RolloutError carries
    the server's last log lines. Servers named by urls are not ours to restart: those that are lost are not asked any
    more, and losing the last one raises.
    """

    name = "vllm"

    def __init__(
        self,
        model_path: str,
        model: ModelSettings,
        rollout: RolloutSettings,
        tokenizer: Decoder,
        run_dir: Path,
        trainer_gpus: Sequence[int] = (),
    ) -> None:
        self.version = 0
        self._rollout = rollout
        self._settings = rollout.server
        self._tokenizer = tokenizer
        placement = place(self._settings, trainer_gpus)
        self._transfer = transfer_for(placement.backend, rollout, run_dir, trainer_gpus)
        self._server: VLLMServer | None = None
        replicas = 1
        if not self._settings.urls:
            log_file = run_dir / "logs" / "server.log"
            self._server = build(model_path, model, rollout, log_file, trainer_gpus, self._transfer.folders)
            replicas = placement.replicas
        self._urls: list[str] = [url.rstrip("/") for url in self._settings.urls]
        self._client: RolloutClient | None = None
        self._stack = AsyncExitStack()
        self._staged: Staged | None = None  # what the servers hold, or are about to
        self._id = uuid4().hex[:8]
        self._adapters: list[Adapter] = []  # the newest last; before it those that completions may still be using
        self._server_lock = asyncio.Lock()  # held while servers are being started, updated or replaced
        self._generation = 0  # of the servers that are asked; tells whether a failure was of the present ones
        self._lost: Lost | None = None  # ends when the server that is ours is lost
        self._capacity = 2 * rollout.max_sequences * replicas  # of one server: what it decodes, and as much waiting
        self._admission = asyncio.Lock()  # first come, first served
        self._in_flight = 0  # completions that the servers were asked for
        self._completion_done = asyncio.Event()

    @property
    def restarts(self) -> int:
        return self._server.restarts if self._server is not None else 0

    async def start(self) -> None:
        async with self._server_lock:
            if self._server is not None:
                await self._server.start()
            await self._connect()

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[tuple[int, Group]]:
        """Yield (index, group) as groups complete. Raises RolloutError when the server cannot be kept alive."""
        if not requests:
            return
        split = [parts(request, self._rollout.max_sequences) for request in requests]
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

    async def update_weights(self, stream: WeightStream, version: int) -> SyncReport:
        """Serve these weights as `version` from now on; completions in flight go on with them.

        Sampling goes on while they are staged. Raises WeightSyncError if a server refuses them: all go on with the
        version before.
        """
        started = time.monotonic()
        staged = await asyncio.to_thread(self._transfer.stage, stream, version)
        ready = time.monotonic()
        async with self._server_lock:
            previous, self._staged = self._staged, staged
            try:
                await self._push(staged)
            except ServerLostError as lost:
                await self._replace_server(lost)
            except WeightSyncError as refused:
                self._staged = previous
                self._transfer.discard(staged)
                if isinstance(refused, HalfLoadedError):
                    await self._go_back_to(previous, refused)
                raise
            self.version = version
        served = time.monotonic()
        if previous is not None:
            self._transfer.discard(previous)
        return SyncReport(version, served - started, served - ready, staged.n_bytes, staged.checksum)

    async def update_adapter(self, folder: Path, version: int) -> SyncReport:
        """Serve the LoRA adapter in `folder` (as peft saves it) as `version`, over the weights of the start.

        Needs model.lora.sync: adapter. Completions in flight finish with the adapter that they began with: the last
        `rollout.adapters_served` folders must stay. Raises WeightSyncError if the server refuses it.
        """
        started = time.monotonic()
        adapter = TensorStream(await asyncio.to_thread(load_file, folder / "adapter_model.safetensors"))
        async with self._server_lock:
            self._adapters = [*self._adapters[-self._rollout.adapters_served :], Adapter(version, folder, self._id)]
            try:
                await self._load_adapter()
            except ServerLostError as lost:
                await self._replace_server(lost)
            self.version = version
        found = checksum(adapter.specs, digests_of(adapter))
        return SyncReport(version, time.monotonic() - started, 0.0, total_bytes(adapter.specs), found)

    async def close(self) -> None:
        self._stop_watching()
        self._client, self._generation = None, self._generation + 1  # what is in flight is not asked for again
        try:
            await self._stack.aclose()
            if self._server is not None:
                await self._server.stop()
        finally:
            self._transfer.close()

    @asynccontextmanager
    async def _admitted(self, n: int) -> AsyncIterator[None]:
        """Enough in flight to keep the servers full; more would only eat into the requests' deadlines."""
        enough = self._capacity * max(1, len(self._urls))
        async with self._admission:
            while self._in_flight and self._in_flight + n > enough:
                self._completion_done.clear()
                await self._completion_done.wait()
            self._in_flight += n
        try:
            yield
        finally:
            self._in_flight -= n
            self._completion_done.set()

    async def _answer(self, index: int, request: RolloutRequest) -> tuple[int, Group]:
        async with self._admitted(request.n):
            while True:
                async with self._server_lock:  # wait until the server has its weights
                    client, lost, generation, version = self._client, self._lost, self._generation, self.version
                if client is None:
                    raise RolloutError("the engine is not running; call start() before generate()")
                failure: ServerLostError | None = None
                try:
                    group = await unless_lost(client.group(request), lost)
                except ServerLostError as error:
                    failure, group = error, Group(request.prompt, (), {"server_error": request.n})
                if "timeout" in group.failures:
                    failure = ServerLostError(
                        f"no answer within {self._settings.request_timeout:g} s (rollout.server.request_timeout)"
                    )
                if failure is None or not await self._recover(failure, generation):
                    check_versions(group, version)
                    return index, group

    async def _recover(self, failure: ServerLostError, generation: int) -> bool:
        """Whether to ask again; False if the servers are well, so that the request itself must be at fault."""
        async with self._server_lock:
            if generation != self._generation:
                return True  # others in the meantime
            if self._lost is not None and self._lost.done():
                await self._replace_server(failure)
                return True
            well = await asyncio.gather(*(answers(url, self._settings.health_timeout) for url in self._urls))
            dead = [url for url, is_well in zip(self._urls, well, strict=True) if not is_well]
            if not dead:
                return False
            if self._server is not None:
                await self._replace_server(failure)
            else:
                self._go_on_without(dead, failure)
            return True

    async def _replace_server(self, lost: ServerLostError) -> None:
        """A new server with the last weights; raises `lost` if it is not ours. Called with the lock held."""
        if self._server is None:
            raise lost
        while True:
            self._stop_watching()
            for url in self._urls:
                self._transfer.forget(url)
            await self._server.restart(lost)
            await self._connect()
            try:
                if self._staged is not None:
                    await self._push(self._staged)
                self._adapters = self._adapters[-1:]
                await self._load_adapter()
                return
            except ServerLostError as lost_again:
                lost = lost_again

    async def _push(self, staged: Staged) -> None:
        """Have all servers serve it. Raises WeightSyncError if one refuses; ServerLostError if ours, or the last, is
        lost: the others are sent it again."""
        while True:
            try:
                await self._push_once(staged)
                return
            except ServerLostError as lost:
                if self._server is not None:
                    raise
                self._go_on_without(lost.urls or self._urls, lost)

    async def _push_once(self, staged: Staged) -> None:
        timeout = self._settings.sync_timeout
        own = [self._lost] if self._lost is not None else []
        watchers = own or [asyncio.create_task(watch(url, self._settings.health_timeout)) for url in self._urls]
        lost = asyncio.create_task(first(watchers))
        try:
            async with AsyncExitStack() as stack:
                controls = [await stack.enter_async_context(ControlPlane(url, timeout)) for url in self._urls]
                await unless_lost(push(controls, self._transfer, staged), lost)
        finally:
            for task in [lost, *([] if own else watchers)]:
                task.cancel()

    async def _go_back_to(self, previous: Staged | None, refused: HalfLoadedError) -> None:
        """Servers that may hold a part of weights that were refused get the version before.

        Where that cannot be sent again, ours are stopped, and attached ones stay paused and are asked no more: what
        they hold is no policy that was ever trained.
        """
        try:
            if previous is None or not previous.kept:
                raise WeightSyncError("the version before is not kept")
            await self._push(previous)
        except RolloutError as error:
            logger.warning("servers are left without weights (%s), since they refused a version: %s", error, refused)
            if self._server is not None:
                self._stop_watching()
                await self._server.stop()

    def _go_on_without(self, dead: Collection[str], lost: ServerLostError) -> None:
        """Ask these attached servers no more: should one come back, it holds other weights."""
        self._urls = [url for url in self._urls if url not in dead]
        if not self._urls or self._client is None:
            raise lost
        logger.warning("going on without a server that is lost: %s", lost)
        self._client.drop(dead)
        self._generation += 1

    async def _connect(self) -> None:
        await self._stack.aclose()
        if self._server is not None:
            self._urls = [self._server.url]
        client = RolloutClient(self._urls, self._tokenizer, self._settings.request_timeout)
        self._client = await self._stack.enter_async_context(client)
        self._generation += 1
        if self._server is not None:
            self._lost = asyncio.create_task(watch(self._server.url, self._settings.health_timeout, self._server))

    def _stop_watching(self) -> None:
        if self._lost is not None:
            self._lost.cancel()

    async def _load_adapter(self) -> None:
        """Load the newest adapter, if there is one, and drop the oldest, if there is one too many."""
        if not self._adapters or self._client is None:
            return
        superseded = self._adapters[0] if len(self._adapters) > self._rollout.adapters_served else None
        newest = self._adapters[-1]
        await self._at_servers(lambda control: load_adapter(control, newest, superseded))
        self._client.adapter = newest

    async def _at_servers(self, update: Update) -> None:
        """Update every server. Raises WeightSyncError if one refuses; ServerLostError if ours, or the last, is lost."""
        urls = self._urls
        outcomes = await asyncio.gather(*(self._at_server(url, update) for url in urls), return_exceptions=True)
        lost: dict[str, ServerLostError] = {}
        for url, outcome in zip(urls, outcomes, strict=True):
            if isinstance(outcome, ServerLostError) and self._server is None:
                lost[url] = outcome
            elif outcome is not None:
                raise outcome
        if lost:
            self._go_on_without(lost, next(iter(lost.values())))

    async def _at_server(self, url: str, update: Update) -> None:
        timeout = self._settings.sync_timeout
        lost = self._lost or asyncio.create_task(watch(url, self._settings.health_timeout))
        try:
            async with asyncio.timeout(timeout), ControlPlane(url, timeout) as control:
                await unless_lost(update(control), lost)
        except TimeoutError as error:
            raise ServerLostError(
                f"loading the adapter at {url} is stuck: not done within {timeout:g} s (rollout.server.sync_timeout)",
                {url},
            ) from error
        finally:
            if lost is not self._lost:
                lost.cancel()


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
