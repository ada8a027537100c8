"""A server that somebody else runs (`zero serve`), named by its url."""

from __future__ import annotations

import asyncio

from grpo.rollout.engine import LeaseLostError, ServerLostError
from grpo.rollout.fleet.lease import Tenant, take
from grpo.rollout.fleet.member import Member
from grpo.rollout.vllm.attached import AttachedError, size_of
from grpo.rollout.vllm.supervision import answers

RETRY = 2.0  # seconds between two looks at a server that is lost


class Attached(Member):
    """In quarantine once it is lost: it serves again when it answers, belongs to this run, and got the weights.

    Whoever runs it may never start it again, so nothing waits for it: losing the last one ends the run.
    """

    def __init__(self, url: str, sequences: int, health_timeout: float, tenant: Tenant | None = None) -> None:
        super().__init__(url.rstrip("/"), sequences, 1, tenant.run if tenant else "")
        self._health_timeout, self._tenant = health_timeout, tenant

    async def start(self) -> None:
        await self._measure()

    async def revive(self, lost: ServerLostError) -> None:
        """Raises LeaseLostError if it belongs to another run."""
        while not await answers(self.url, self._health_timeout):  # noqa: ASYNC110  # nobody tells when it does
            await asyncio.sleep(RETRY)
        if self._tenant is not None:
            try:
                await asyncio.to_thread(take, self.url, self._tenant, True)
            except AttachedError as error:
                raise LeaseLostError(str(error)) from error
        await self._measure()

    async def stop(self) -> None:
        pass  # it is not ours

    async def _measure(self) -> None:
        """Its capacity, where it says how much it decodes at once."""
        if (size := await size_of(self.url)) is not None:
            self.sequences, self.replicas = size.sequences, size.replicas
