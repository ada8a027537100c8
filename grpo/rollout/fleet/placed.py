"""A server that Ray places: on another machine, or on this one, as it says.

What it is started with, and by, is what a child on this machine is (host.py). It listens on its machine's address, and
demands the run's token on every path. No file system is shared with it: its log is copied into the run's directory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from grpo.config import ModelSettings, RolloutSettings
from grpo.rollout.engine import RolloutError, ServerLostError
from grpo.rollout.fleet.host import Order, ServerHost
from grpo.rollout.fleet.member import Member
from grpo.rollout.fleet.ray import HostLostError, NoRoomError, Room, answered, there_is
from grpo.rollout.vllm.server import log_of
from grpo.rollout.vllm.supervision import answers

logger = logging.getLogger(__name__)

RETRY = 2.0  # seconds between two looks
ANSWER = 10.0  # seconds in which an actor answers a small question
STOP = 60.0  # seconds that a server has to stop by itself


class Placed(Member):
    """Lost, it is taken back if only the network was away, started again where it was if its machine is there, else
    placed anew; the last two `rollout.server.max_restarts` times.

    Args:
        bundle: its number in the room.
    """

    def __init__(self, room: Room, bundle: int, order: Order) -> None:
        super().__init__("", order.rollout.max_sequences, 1)
        self._room, self._bundle, self._order = room, bundle, order
        self._settings = order.rollout.server
        self._host: Any = None  # the actor
        self._log: asyncio.Task[None] | None = None
        self._copied = 0  # bytes of the present host's log
        self._restarts = 0

    @property
    def restarts(self) -> int:
        return self._restarts

    @property
    def comes_back(self) -> bool:
        return True

    async def start(self) -> None:
        """Raises NoRoomError, or RolloutError with its log if it does not start."""
        while True:
            try:
                if self._host is None:
                    await self._place()
                return await self._serve()
            except HostLostError as error:
                await self._drop()
                self._count(ServerLostError(f"the machine of server {self._number} was lost: {error}"))

    async def revive(self, lost: ServerLostError) -> None:
        while not await answers(self.url, self._settings.health_timeout):
            try:
                assert self._host is not None
                await answered(self._host.complaint.remote(), ANSWER)
            except TimeoutError:  # the network, or the machine: Ray will say
                await asyncio.sleep(RETRY)
                continue
            except HostLostError:
                await self._drop()
            self._count(lost)
            await self.start()
            return

    async def stop(self) -> None:
        if self._host is not None:
            with suppress(HostLostError, TimeoutError):
                await answered(self._host.complaint.remote(), ANSWER)  # a machine that is cut off is not waited for
                await answered(self._host.stop.remote(), STOP)
        await self._drop()

    @property
    def _number(self) -> int:
        return self._bundle - self._room.first_server + 1

    def _count(self, lost: ServerLostError) -> None:
        self._restarts += 1
        if self._restarts > self._settings.max_restarts:
            raise RolloutError(
                f"server {self._number} was lost {self._restarts} times (rollout.server.max_restarts is "
                f"{self._settings.max_restarts}). {lost}\nLog: {self._order.log_file}"
            ) from lost

    async def _place(self) -> None:
        """Have a host, where Ray finds room for it."""
        self._host = await asyncio.to_thread(self._room.host, ServerHost, self._bundle)
        try:
            seen = await answered(self._host.look.remote({}), self._room.seconds)
        except TimeoutError as error:
            await self._drop()
            wanted = ", ".join(f"{n:g} {kind}" for kind, n in self._room.bundles[self._bundle].items())
            raise NoRoomError(
                f"no machine had room for server {self._number} ({wanted}) within {self._room.seconds:g} s "
                f"(cluster.room_timeout); there is {there_is()}"
            ) from error
        self._copied = 0
        self._log = asyncio.create_task(self._copy_log())
        logger.info("server %d is placed on %s", self._number, seen.address)

    async def _serve(self) -> None:
        assert self._host is not None
        try:
            self.url, self.replicas = await answered(
                self._host.start.remote(self._order), self._settings.start_timeout + STOP
            )
        except TimeoutError as error:
            raise HostLostError(f"nothing was heard of it while it started: {error}") from error

    async def _drop(self) -> None:
        """Leave the host, if there is one: its server goes with it."""
        import ray

        if self._host is None:
            return
        host, self._host = self._host, None
        if self._log is not None:
            self._log.cancel()
            await asyncio.gather(self._log, return_exceptions=True)
        with suppress(TimeoutError, RolloutError):
            await self._copy_more(host)
        await asyncio.to_thread(ray.kill, host)

    async def _copy_log(self) -> None:
        said = ""
        while True:
            try:
                assert self._host is not None
                await self._copy_more(self._host)
            except TimeoutError:
                pass  # it is asked again
            except (RolloutError, OSError) as error:  # for now, perhaps: only `_drop` ends this
                if said != str(error):
                    said = str(error)
                    logger.warning("the log of server %d is not kept: %s", self._number, said)
            await asyncio.sleep(1.0)

    async def _copy_more(self, host: Any) -> None:
        while more := await answered(host.log.remote(self._copied), ANSWER):
            with self._order.log_file.open("ab") as file:
                file.write(more)
            self._copied += len(more)


def servers_in(
    room: Room, model_path: str, model: ModelSettings, rollout: RolloutSettings, run_dir: Path
) -> Iterator[Placed]:
    """The run's servers, one in each bundle that is not the trainer's; not started."""
    n = len(room.bundles) - room.first_server
    for k in range(n):
        port = rollout.server.port and rollout.server.port + k
        settings = rollout.server.model_copy(update={"port": port, "replicas": 1})  # each has a bundle for itself
        alone = rollout.model_copy(update={"server": settings})
        bundle = room.first_server + k
        order = Order(model_path, model, alone, room.variables(bundle), log_of(run_dir, k, n))
        yield Placed(room, bundle, order)
