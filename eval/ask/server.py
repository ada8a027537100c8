"""Our own vLLM server for an evaluation: the one that training starts, started again when it dies."""

from __future__ import annotations

from collections.abc import Callable

from grpo.rollout.engine import ServerLostError
from grpo.rollout.vllm.server import VLLMServer

RETRY_DELAYS = (0.2, 1.0)  # seconds; a server of ours that does not answer by then is started again


class OwnServer:
    """Runs while the context is entered, and leaves no process behind.

        async with OwnServer(server) as own:
            client = EvalClient([own.url], served, timeout, restart=own.restart, delays=RETRY_DELAYS)

    `note` is told of each restart.
    """

    def __init__(self, server: VLLMServer, note: Callable[[str], None] = lambda text: None) -> None:
        self._server, self._note = server, note

    @property
    def url(self) -> str:
        return self._server.url

    async def __aenter__(self) -> OwnServer:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop()

    async def restart(self, lost: ServerLostError) -> list[str]:
        """The new address. Raises RolloutError, with the log's last lines, when it died too often."""
        await self._server.restart(lost)
        self._note(f"the vLLM server died and was started again: {lost}")
        return [self.url]
