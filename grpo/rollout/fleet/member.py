"""One server of a fleet: what it is asked for, whether it may be asked, and how it comes back when it is lost.

ABSENT -> READY -> SERVING          start, weights
             ^        |
             +- LOST -+             lost, brought back, and given the present weights before it is asked again
                 |
               GONE                 it cannot come back
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from enum import Enum
from typing import TYPE_CHECKING
from uuid import uuid4

from grpo.rollout.engine import ServerLostError
from grpo.rollout.vllm.client import Decoder, RolloutClient
from grpo.rollout.vllm.supervision import Lost, unless_lost, watch
from grpo.types import Group, RolloutRequest

if TYPE_CHECKING:
    from grpo.rollout.sync.adapter import Adapter
    from grpo.rollout.vllm.server import VLLMServer


class State(Enum):
    ABSENT = "not started"
    READY = "answers, without the present weights"
    SERVING = "may be asked"
    LOST = "does not answer"
    GONE = "will not come back"


class Member(ABC):
    """A server: a child of this machine (child.py), attached by its url (attached.py), or placed by Ray (placed.py).

    Args:
        sequences: that each of its data-parallel replicas decodes at once; no request may ask for more.
        replicas: of the model within the server, data-parallel.
        run: the one that holds its lease, where it has one.
    """

    server: VLLMServer | None = None  # its processes, where they are ours

    def __init__(self, url: str, sequences: int, replicas: int, run: str = "") -> None:
        self.url, self.sequences, self.replicas, self.run = url, sequences, replicas, run
        self.state = State.ABSENT
        self.in_flight = 0  # completions that it is asked for
        self.adapters: list[Adapter] = []  # that it has loaded for this connection, the newest last
        self.connection = ""  # its name
        self.lost: Lost | None = None  # of the present connection: done once that is lost
        self._client: RolloutClient | None = None
        self._stack = AsyncExitStack()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def capacity(self) -> int:
        """Completions to have in flight: those that it decodes, and as many waiting."""
        return 2 * self.sequences * self.replicas

    @property
    def restarts(self) -> int:
        """How often it died, or stood still, and was started again."""
        return 0

    @property
    def comes_back(self) -> bool:
        """Whether waiting for it, once it is lost, is worth it while nothing else serves."""
        return False

    @abstractmethod
    async def start(self) -> None:
        """Have it answer, at `url`. Raises RolloutError if it does not."""

    @abstractmethod
    async def revive(self, lost: ServerLostError) -> None:
        """Have it answer again, at `url`. Returns when it does; raises RolloutError if it never will."""

    @abstractmethod
    async def stop(self) -> None: ...

    async def connect(self, tokenizer: Decoder, request_timeout: float, health_timeout: float) -> Lost:
        """Begin to ask and to watch it. Returns what is done once it is lost."""
        await self.disconnect()
        client = RolloutClient(self.url, tokenizer, request_timeout, self.run)
        self._client = await self._stack.enter_async_context(client)
        self.adapters, self.connection = [], uuid4().hex[:8]
        self.lost = lost = asyncio.get_running_loop().create_future()
        self._watcher = asyncio.create_task(self._watch(lost, health_timeout))
        self.state = State.READY
        return lost

    async def disconnect(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        await self._stack.aclose()
        self._client = None

    async def ask(self, request: RolloutRequest) -> Group:
        """The completions of one prompt. Raises ServerLostError also when it is lost meanwhile."""
        assert self._client is not None, "connect it first"
        assert self.lost is not None
        adapter = self.adapters[-1] if self.adapters else None
        return await unless_lost(self._client.group(request, adapter), self.lost)

    async def _watch(self, lost: Lost, health_timeout: float) -> None:
        error = await watch(self.url, health_timeout, self.server)
        if not lost.done():
            lost.set_result(error)
