"""A server of our own on this machine."""

from __future__ import annotations

from grpo.rollout.engine import ServerLostError
from grpo.rollout.fleet.member import Member
from grpo.rollout.vllm.server import VLLMServer


class Child(Member):
    """Started again when it is lost, `rollout.server.max_restarts` times."""

    server: VLLMServer

    def __init__(self, server: VLLMServer, sequences: int, replicas: int) -> None:
        super().__init__(server.url, sequences, replicas)
        self.server = server

    @property
    def restarts(self) -> int:
        return self.server.restarts

    @property
    def comes_back(self) -> bool:
        return True

    async def start(self) -> None:
        await self.server.start()
        self.url = self.server.url

    async def revive(self, lost: ServerLostError) -> None:
        await self.server.restart(lost)
        self.url = self.server.url

    async def stop(self) -> None:
        await self.server.stop()
