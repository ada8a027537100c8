"""An event loop in which sleeping takes no time, and an engine that lives in it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from grpo.types import Completion, Group, Prompt, RolloutRequest


class _Jump(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will ever happen")
        self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """The clock jumps to the next event; what is meant for a thread runs at once and takes `thread_seconds`."""

    def __init__(self, thread_seconds: float = 0.0) -> None:
        self._thread_seconds = thread_seconds
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now

    def run_in_executor(self, _: Any, function: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        settle: Callable[..., None]
        try:
            settle, outcome = future.set_result, function(*args)
        except Exception as error:
            settle, outcome = future.set_exception, error
        if self._thread_seconds:
            self.call_later(self._thread_seconds, settle, outcome)
        else:
            settle(outcome)
        return future


def run(coroutine: Coroutine[Any, Any, Any], thread_seconds: float = 0.0) -> Any:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(thread_seconds)) as runner:
        return runner.run(coroutine)


class SleepingEngine:
    """Takes `seconds(number of the request)` for a group, at most `slots` groups at once, first come, first served.

    The first token of a completion is of the weights at its start, the last one of those at its end.
    """

    name, restarts = "sleeping", 0

    def __init__(self, seconds: Callable[[int], float], slots: int = 10**6, version: int = 0) -> None:
        self.version = version
        self.asked: list[RolloutRequest] = []
        self.in_flight = 0  # groups asked for that did not come yet, whether they have a slot or not
        self._seconds, self._slots = seconds, asyncio.Semaphore(slots)

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[tuple[int, Group]]:
        tasks = [asyncio.create_task(self._one(i, request)) for i, request in enumerate(requests)]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, index: int, request: RolloutRequest) -> tuple[int, Group]:
        number = len(self.asked)
        self.asked.append(request)
        self.in_flight += 1
        async with self._slots:
            first = self.version
            await asyncio.sleep(self._seconds(number))
        self.in_flight -= 1
        completion = Completion((7, 1), (-0.5, -0.5), (first, self.version), "7", "stop")
        return index, Group(request.prompt, (completion,) * request.n)


def numbered_prompts(n: int) -> list[Prompt]:
    """Prompts whose ids are their numbers."""
    return [Prompt(id=str(i), text=f"{i}=", token_ids=(i % 7,), answer="") for i in range(n)]
