"""When the next replies are sampled: at once, or together.

At once     a server batches by itself: each episode goes on as soon as it can, whatever the others do.
Together    an engine that samples one batch at a time gets what all living episodes want next, once all of them want
            something. The batches do not depend on who was fast, so a run repeats bit for bit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from grpo.rollout.engine import RolloutEngine
from grpo.types import Group, RolloutRequest

Place = tuple[int, ...]  # of a request among the others: (group,), or (group, episode)


class Asks(Protocol):
    async def ask(self, place: Place, request: RolloutRequest) -> Group: ...


class Turns(Asks, Protocol):
    """Each group enters, asks for its first replies, says how many came; each of these asks on, and leaves."""

    async def enter(self, n: int) -> None:
        """Wait until there is room for n episodes more."""
        ...

    def came(self, asked: int, came: int) -> None: ...

    def leave(self) -> None: ...


class AtOnce:
    """
    Args:
        most: episodes at a time; a group of more is let in where it is alone.
    """

    def __init__(self, engine: RolloutEngine, most: int) -> None:
        self._engine, self._most, self._inside = engine, most, 0
        self._line = asyncio.Lock()  # first come, first served
        self._left = asyncio.Event()

    async def enter(self, n: int) -> None:
        async with self._line:
            while self._inside and self._inside + n > self._most:
                self._left.clear()
                await self._left.wait()
            self._inside += n

    async def ask(self, place: Place, request: RolloutRequest) -> Group:
        async for _, group in self._engine.generate([request]):
            return group
        raise AssertionError("an engine answers every request once")

    def came(self, asked: int, came: int) -> None:
        self._inside -= asked - came
        self._left.set()

    def leave(self) -> None:
        self.came(1, 0)


class Together:
    """
    Args:
        groups: that will enter.
    """

    def __init__(self, engine: RolloutEngine, groups: int) -> None:
        self._engine, self._living = engine, groups
        self._wanted: dict[Place, tuple[RolloutRequest, asyncio.Future[Group]]] = {}
        self._sampling: set[asyncio.Task[None]] = set()

    async def enter(self, n: int) -> None:
        pass

    async def ask(self, place: Place, request: RolloutRequest) -> Group:
        future: asyncio.Future[Group] = asyncio.get_running_loop().create_future()
        self._wanted[place] = request, future
        self._sample_if_all_wait()
        try:
            return await future
        finally:
            self._wanted.pop(place, None)  # where it was given up

    def came(self, asked: int, came: int) -> None:
        self._living += came - 1
        self._sample_if_all_wait()

    def leave(self) -> None:
        self.came(1, 0)

    def _sample_if_all_wait(self) -> None:
        if self._wanted and len(self._wanted) == self._living:
            batch = [self._wanted[place] for place in sorted(self._wanted)]
            self._wanted.clear()
            task = asyncio.create_task(self._sample(batch))
            self._sampling.add(task)
            task.add_done_callback(self._sampling.discard)

    async def _sample(self, batch: Sequence[tuple[RolloutRequest, asyncio.Future[Group]]]) -> None:
        futures = [future for _, future in batch]
        try:
            async for index, group in self._engine.generate([request for request, _ in batch]):
                if not futures[index].done():
                    futures[index].set_result(group)
        except BaseException as error:  # whatever ends the sampling is for those who wait to raise
            for future in futures:
                if not future.done():
                    future.set_exception(error) if isinstance(error, Exception) else future.cancel()
            if not isinstance(error, Exception):
                raise

    async def cancel(self) -> None:
        for task in self._sampling:
            task.cancel()
        await asyncio.gather(*self._sampling, return_exceptions=True)
