"""The servers that a run samples from: which one is asked, and what happens to one that is lost.

    await fleet.start()
    async with fleet.place(request.n) as member:     # one that serves and has room
        group = await member.ask(request)
    await fleet.update(send)                         # no request is placed meanwhile; those in flight go on
    await fleet.close()                              # always, also after an error

Every member has a task of its own from start to close (`_live`). It waits until the member is lost, brings it back,
and has it given the present weights; the others go on sampling meanwhile. A member is asked only while it holds the
present weights: what answers again without them is no server of this run yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from grpo.config import ServerSettings
from grpo.rollout.engine import LeaseLostError, RolloutError, ServerLostError, WeightSyncError
from grpo.rollout.fleet.member import Member, State
from grpo.rollout.fleet.ray import NoRoomError
from grpo.rollout.vllm.client import Decoder
from grpo.rollout.vllm.supervision import Lost, answers

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Give = Callable[[Sequence[Member]], Awaitable[Mapping[Member, ServerLostError]]]

NOT_RUNNING = "the engine is not running; call start() before generate()"


class Fleet:
    """See the module.

    Args:
        give: gives members the present weights; returns those that were lost over it. Raises WeightSyncError if one
            refuses. Never called twice at once.
        forget: is told the url of a server that is lost.
        lasting: whether the present weights can be given at any time. If not, they are the trainer's own tensors,
            which keep still only while it waits for samples, or for a server to take them.
    """

    def __init__(
        self,
        members: Sequence[Member],
        settings: ServerSettings,
        tokenizer: Decoder,
        give: Give,
        forget: Callable[[str], None],
        lasting: bool,
    ) -> None:
        self.members = list(members)
        self._settings, self._tokenizer = settings, tokenizer
        self._give, self._forget, self._lasting = give, forget, lasting
        self._failure: RolloutError | None = RolloutError(NOT_RUNNING)  # why nothing can be placed
        self._lives: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()  # set whenever something changes that somebody may be waiting for
        self._line = asyncio.Lock()  # first come, first served
        self._waiting = 0  # requests in the line, and updates that nobody could take: the trainer keeps still
        self._giving = asyncio.Lock()  # held while weights are being given

    @property
    def most_at_once(self) -> int:
        """Completions that any of the servers takes in one request."""
        return min(member.sequences for member in self.members)

    async def start(self) -> None:
        """Raises RolloutError if one does not start; the others are stopped by `close`. One that a cluster has no room
        for any more is done without, unless it is the last."""
        starts = [asyncio.create_task(self._begin(member)) for member in self.members]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                if not start.cancelling():  # a second time would interrupt its stopping the server
                    start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
        started = [member for member in self.members if member.state is not State.GONE]
        for member in started:
            await self._connect(member)
            member.state = State.SERVING
        self._failure = None
        self._lives = [asyncio.create_task(self._live(member)) for member in started]
        for life in self._lives:
            life.add_done_callback(self._ended)

    async def _begin(self, member: Member) -> None:
        try:
            await member.start()
        except NoRoomError as why:
            member.state = State.GONE
            if all(one.state is State.GONE for one in self.members):
                raise
            logger.warning("going on without a server: %s", why)

    async def close(self) -> None:
        self._fail(RolloutError(NOT_RUNNING))
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
        try:
            for member in self.members:
                await member.disconnect()
        finally:
            outcomes = await asyncio.gather(*(member.stop() for member in self.members), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    # -- asking ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def place(self, n: int, avoided: Collection[Member] = ()) -> AsyncIterator[Member]:
        """A member with room for `n` completions; one that is to be avoided only where no other serves.

        Raises what ended the fleet.
        """
        async with self._line:
            member = await self._wait_for(lambda: choose(self.serving(), n, avoided))
            member.in_flight += n
        try:
            yield member
        finally:
            member.in_flight -= n
            self._changed.set()

    async def was_lost(self, member: Member, connection: Lost, failure: ServerLostError) -> bool:
        """Whether a request failed with its server, not by itself: the server is looked at."""
        if connection.done() or isinstance(failure, LeaseLostError):
            self._lose(connection, failure)
            return True
        async with self._giving:  # an engine does nothing else while it loads weights
            if not connection.done() and await answers(member.url, self._settings.health_timeout):
                return connection.done()
        self._lose(connection, failure)
        return True

    # -- weights ---------------------------------------------------------------------------------------

    async def update(self, present: Callable[[], None], go_back: Callable[[], bool] = lambda: False) -> None:
        """Give new weights, which are the present ones from `present()` on, to all that answer.

        Returns when a server serves them. Raises WeightSyncError if they are refused, else what ended the fleet.

        Args:
            go_back: makes those before the present ones again, after a refusal; returns whether they can be given.
        """
        async with self._giving:
            present()
            members = [member for member in self.members if member.state in (State.READY, State.SERVING)]
            for member in members:
                member.state = State.READY
            try:
                await self._bring(members)
            except WeightSyncError as error:
                await self._go_back(members, go_back(), error)
                raise
        await self._wait_for(self.serving)

    async def _go_back(self, members: Sequence[Member], possible: bool, refused: WeightSyncError) -> None:
        """Have these serve what they served before the weights that were refused; else nothing is asked any more."""
        if not possible:
            self._fail(refused)
            return
        try:
            await self._bring(members)
        except WeightSyncError as error:
            logger.warning("the weights before those that were refused are refused, too: %s", error)
            self._fail(refused)

    async def _bring(self, members: Sequence[Member]) -> None:
        """Let these serve, with the present weights. Called with the lock held."""
        connections = {member: member.lost for member in members}
        lost = await self._give(members)
        for member, connection in connections.items():
            assert connection is not None
            if member in lost:
                self._lose(connection, lost[member])
            elif member.lost is connection and not connection.done():
                member.state = State.SERVING
        self._changed.set()

    # -- the life of a member --------------------------------------------------------------------------

    async def _live(self, member: Member) -> None:
        while True:
            assert member.lost is not None
            await asyncio.wait({member.lost})
            error = member.lost.result()
            member.state = State.LOST
            self._forget(member.url)
            self._changed.set()
            if not self._someone_left():
                self._fail(error)
                return
            logger.warning("%s is lost, going on without it meanwhile: %s", member.url, error)
            try:
                await member.revive(error)
                await self._connect(member)
                await self._return(member)
            except RolloutError as why:
                member.state = State.GONE
                if not self._someone_left():
                    self._fail(why)
                logger.warning("%s is given up: %s", member.url, why)
                await member.stop()
                return

    async def _return(self, member: Member) -> None:
        """Wait until it holds the present weights, or is lost again. Raises WeightSyncError if it refuses them."""
        connection = member.lost
        assert connection is not None
        connection.add_done_callback(lambda _: self._changed.set())
        await self._until(lambda: member.state is not State.READY or connection.done() or self._may_give())
        async with self._giving:
            if member.state is State.READY and not connection.done():
                await self._bring([member])
        if member.state is State.SERVING:
            logger.warning("%s serves again", member.url)

    def _may_give(self) -> bool:
        return self._lasting or (self._waiting > 0 and not self.serving())

    async def _connect(self, member: Member) -> None:
        await member.connect(self._tokenizer, self._settings.request_timeout, self._settings.health_timeout)
        self._changed.set()

    def _lose(self, connection: Lost, error: ServerLostError) -> None:
        if not connection.done():
            connection.set_result(error)

    def serving(self) -> list[Member]:
        """Those that may be asked."""
        return [m for m in self.members if m.state is State.SERVING and m.lost is not None and not m.lost.done()]

    def _someone_left(self) -> bool:
        """Whether somebody serves, or will."""
        return any(
            member.state in (State.READY, State.SERVING) or (member.state is State.LOST and member.comes_back)
            for member in self.members
        )

    def _ended(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (error := life.exception()):
            self._fail(RolloutError(f"what keeps a server ended: {error!r}"))

    def _fail(self, error: RolloutError) -> None:
        self._failure = self._failure or error
        self._changed.set()

    async def _wait_for(self, condition: Callable[[], Result | None]) -> Result:
        """`_until` of somebody who needs a server to go on."""
        self._waiting += 1
        self._changed.set()
        try:
            return await self._until(condition)
        finally:
            self._waiting -= 1

    async def _until(self, condition: Callable[[], Result | None]) -> Result:
        """The first true value of `condition`. Raises what ended the fleet."""
        while True:
            if self._failure is not None:
                raise self._failure
            if result := condition():
                return result
            self._changed.clear()
            await self._changed.wait()


def choose(members: Sequence[Member], n: int, avoided: Collection[Member] = ()) -> Member | None:
    """The least busy, for its capacity, of those that have room for `n` completions; None if none has.

    One with nothing in flight has room for any request. The avoided count only where there is no other.
    """
    wanted = [member for member in members if member not in avoided] or members
    room = [m for m in wanted if not m.in_flight or m.in_flight + n <= m.capacity]
    return min(room, key=lambda member: member.in_flight / member.capacity, default=None)
