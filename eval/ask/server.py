"""Our own vLLM server for an evaluation: the one that training starts, started again when it dies or stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpo.rollout.engine import ServerLostError
from grpo.rollout.vllm.server import VLLMServer
from grpo.rollout.vllm.supervision import Lost, watch

RETRY_DELAYS = (0.2, 1.0)  # seconds; a server of ours that does not answer by then is started again


class OwnServer:
    """Runs while the context is entered, and leaves no process behind.

        async with OwnServer(server) as own:
            client = EvalClient([own.url], served, timeout, own.restart, RETRY_DELAYS, own.watch)

    `note` is told of each restart. `health_timeout`: seconds of silence after which the server counts as dead.
    """

    def __init__(
        self,
        server: VLLMServer,
        note: Callable[[str], None] = lambda text: None,
        health_timeout: float = 30.0,
    ) -> None:
        self._server, self._note, self._health_timeout = server, note, health_timeout
        self._watchers: list[asyncio.Task[ServerLostError]] = []

    @property
    def url(self) -> str:
        return self._server.url

    async def __aenter__(self) -> OwnServer:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await self._server.stop()

    def watch(self) -> Lost:
        """Done once the server that runs now is lost: also after a restart, by which its address has changed."""
        self._watchers.append(asyncio.create_task(watch(self.url, self._health_timeout, self._server)))
        return self._watchers[-1]

    async def restart(self, lost: ServerLostError) -> list[str]:
        """The new address. Raises RolloutError, with the log's last lines, when it died too often."""
        await self._server.restart(lost)
        self._note(f"the vLLM server died and was started again: {lost}")
        return [self.url]
