"""Sampling through vLLM servers: the one we start and supervise, or those that `rollout.server.urls` names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from grpo.config import ModelSettings, RolloutSettings
from grpo.rollout.client import Decoder, RolloutClient
from grpo.rollout.engine import RolloutError, SyncReport, WeightSyncError
from grpo.rollout.server import VLLMServer, build, healthy, place
from grpo.rollout.weight_sync import (
    Adapter,
    ServerLostError,
    ShmTransfer,
    Staged,
    Transfer,
    checksum,
    load_adapter,
    push,
)
from grpo.types import Group, RolloutRequest

if TYPE_CHECKING:
    import torch


class VLLMEngine:
    """A RolloutEngine (see `engine.py`) that survives its server.

    When the server dies, it is started again, gets the last weights, and what was in flight is asked for
    again; after `max_restarts` deaths RolloutError carries the server's last log lines. `restarts` counts them.
    Servers named by urls are not ours to restart: losing one raises.
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
        self.restarts = 0
        self._rollout = rollout
        self._settings = rollout.server
        self._tokenizer = tokenizer
        self._transfer = transfer_for(place(self._settings, trainer_gpus).backend)
        self._server: VLLMServer | None = None
        if not self._settings.urls:
            folders = self._transfer.folders if isinstance(self._transfer, ShmTransfer) else []
            log_file = run_dir / "logs" / "server.log"
            self._server = build(model_path, model, rollout, log_file, trainer_gpus, folders)
        self._urls: list[str] = [url.rstrip("/") for url in self._settings.urls]
        self._client: RolloutClient | None = None
        self._stack = AsyncExitStack()
        self._staged: Staged | None = None  # what the servers hold, or are about to
        self._adapters: list[Adapter] = []  # the newest last; those that completions may still be using before it
        self._lives = 0  # how often a server was started; tells whether a failure was of the present one
        self._turn = asyncio.Lock()  # held while the server is being started or updated
        self._door = asyncio.Lock()  # first come, first served
        self._in_flight = 0  # completions that the servers were asked for
        self._left = asyncio.Event()  # some of them came

    async def start(self) -> None:
        async with self._turn:
            if self._server is not None:
                await self._server.start()
            await self._connect()

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[tuple[int, Group]]:
        """Yield (index, group) as groups complete. Raises RolloutError when the server cannot be kept alive."""
        if not requests:
            return
        tasks = [asyncio.create_task(self._answer(i, request)) for i, request in enumerate(requests)]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for pending in tasks:
                pending.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def update_weights(self, tensors: Mapping[str, torch.Tensor], version: int) -> SyncReport:
        """Serve `tensors` as `version` from now on; completions in flight go on with them.

        Sampling goes on while they are staged. Raises WeightSyncError if the server refuses them. It is stopped
        then: it may hold half of them.
        """
        started = time.monotonic()
        staged = await asyncio.to_thread(self._transfer.stage, tensors, version)
        ready = time.monotonic()
        async with self._turn:
            previous, self._staged = self._staged, staged
            try:
                await self._push_all(staged)
            except ServerLostError as lost:
                await self._restart(lost)
            except WeightSyncError:
                if self._server is not None:
                    await self._server.stop()
                raise
            self.version = version
        served = time.monotonic()
        if previous is not None:
            self._transfer.discard(previous)
        return SyncReport(version, served - started, served - ready, staged.n_bytes, staged.checksum)

    async def update_adapter(self, folder: Path, version: int) -> SyncReport:
        """Serve the LoRA adapter in `folder` (as peft saves it) as `version`, over the weights of the start.

        Needs model.lora.sync: adapter. Completions in flight finish with the adapter that they began with; the
        folder must stay until the call after the next. Raises WeightSyncError if the server refuses it.
        """
        started = time.monotonic()
        tensors = await asyncio.to_thread(load_file, folder / "adapter_model.safetensors")
        async with self._turn:
            self._adapters = [*self._adapters[-2:], Adapter(version, folder)]
            try:
                await self._load_adapter()
            except ServerLostError as lost:
                await self._restart(lost)
            self.version = version
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return SyncReport(version, time.monotonic() - started, 0.0, n_bytes, checksum(tensors))

    async def close(self) -> None:
        try:
            await self._stack.aclose()
            if self._server is not None:
                await self._server.stop()
        finally:
            self._transfer.close()

    @asynccontextmanager
    async def _admitted(self, n: int) -> AsyncIterator[None]:
        """Enough in flight to keep the servers full; more would only eat into the requests' deadlines."""
        enough = 2 * self._rollout.max_sequences * max(1, len(self._urls))
        async with self._door:
            while self._in_flight and self._in_flight + n > enough:
                self._left.clear()
                await self._left.wait()
            self._in_flight += n
        try:
            yield
        finally:
            self._in_flight -= n
            self._left.set()

    async def _answer(self, index: int, request: RolloutRequest) -> tuple[int, Group]:
        async with self._admitted(request.n):
            while True:
                async with self._turn:  # wait until the server has its weights
                    client, life, version = self._client, self._lives, self.version
                if client is None:
                    raise RolloutError("the engine is not running; call start() before generate()")
                try:
                    group = await client.group(request)
                except ServerLostError as lost:
                    if await self._recover(lost, life):
                        continue
                    group = Group(request.prompt, (), {"server_error": request.n})
                check_versions(group, version)
                return index, group

    async def _recover(self, lost: ServerLostError, life: int) -> bool:
        """Whether to ask again; False if the servers are well, so that the request itself must be at fault."""
        async with self._turn:
            if life != self._lives:
                return True  # restarted in the meantime
            if all(await asyncio.gather(*map(healthy, self._urls))):
                return False
            await self._restart(lost)
            return True

    async def _restart(self, lost: ServerLostError) -> None:
        """A new server with the last weights. Called with the turn held."""
        if self._server is None:
            raise lost
        while True:
            self.restarts += 1
            if self.restarts > self._settings.max_restarts:
                raise RolloutError(
                    f"the vLLM server died {self.restarts} times (rollout.server.max_restarts is "
                    f"{self._settings.max_restarts}). {lost}\n{self._server.log_tail()}"
                ) from lost
            await self._server.stop()
            for url in self._urls:
                self._transfer.forget(url)
            await self._server.start()
            await self._connect()
            try:
                if self._staged is not None:
                    await self._push_all(self._staged)
                self._adapters = self._adapters[-1:]
                await self._load_adapter()
                return
            except ServerLostError as again:
                lost = again

    async def _connect(self) -> None:
        await self._stack.aclose()
        if self._server is not None:
            self._urls = [self._server.url]
        client = RolloutClient(
            self._urls, self._tokenizer, self._settings.request_timeout, max_n=self._rollout.max_sequences
        )
        self._client = await self._stack.enter_async_context(client)
        self._lives += 1

    async def _load_adapter(self) -> None:
        """Load the newest adapter, if there is one, and drop the last but two."""
        if not self._adapters or self._client is None:
            return
        superseded = self._adapters[0] if len(self._adapters) == 3 else None
        timeout = self._settings.sync_timeout
        loads = [asyncio.to_thread(load_adapter, url, self._adapters[-1], superseded, timeout) for url in self._urls]
        await asyncio.gather(*loads)
        self._client.adapter = self._adapters[-1]

    async def _push_all(self, staged: Staged) -> None:
        timeout = self._settings.sync_timeout
        pushes = [asyncio.to_thread(push, url, self._transfer, staged, timeout) for url in self._urls]
        try:
            async with asyncio.timeout(timeout):  # a collective whose other side has died never returns
                await asyncio.gather(*pushes)
        except TimeoutError as error:
            raise WeightSyncError(
                f"sending weights {staged.version} by {self._transfer.backend} to {self._urls} is stuck: "
                f"not done within {timeout:g} s (rollout.server.sync_timeout)"
            ) from error


def transfer_for(backend: str) -> Transfer:
    if backend == ShmTransfer.backend:
        return ShmTransfer()
    from grpo.rollout.cuda_sync import CudaTransfer  # imports vLLM

    return CudaTransfer(backend)


def check_versions(group: Group, version: int) -> None:
    """Raises WeightSyncError if a token is older than the weights that were served when it was asked for."""
    oldest = min((min(completion.versions) for completion in group.completions), default=version)
    if oldest < version:
        raise WeightSyncError(f"the server sampled with weights {oldest} though it was given {version} before")
