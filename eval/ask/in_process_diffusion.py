"""Completions of a masked diffusion model in this process, one request at a time as a server gives them.

Requests that wait while the engine is busy are written together in its next batch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from eval.ask.client import Answer, Failed
from grpo.record.atomic import readable
from grpo.rollout.engine import RolloutEngine
from grpo.types import Prompt, RolloutRequest, Sampling


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    request: RolloutRequest
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class EngineClient:
    """What `run_benchmarks` asks, in place of an EvalClient.

        async with EngineClient(engine, at_once=64) as client:
            answer = await client.complete(prompt, Sampling(max_tokens=64, temperature=0.0))

    Greedy answers repeat: the order in which a problem's answer is unmasked is drawn from its id.
    """

    def __init__(self, engine: RolloutEngine, at_once: int) -> None:
        self._engine, self._at_once = engine, at_once
        self._waiting: list[_Request] = []
        self._busy: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EngineClient:
        await self._engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._busy is not None:
            self._busy.cancel()
            await asyncio.gather(self._busy, return_exceptions=True)
        await self._engine.close()

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        """Raises whatever the engine raises."""
        chance = random.Random(f"greedy/{prompt.id}") if sampling.temperature == 0 else random.SystemRandom()
        asked = _Request(RolloutRequest(prompt, 1, sampling, chance.getrandbits(62)))
        self._waiting.append(asked)
        if self._busy is None or self._busy.done():
            self._busy = asyncio.create_task(self._work_off())
        return await asked.answer

    async def count(self, prompt: Prompt) -> int | None:
        return len(prompt.token_ids) or None

    async def _work_off(self) -> None:
        await asyncio.sleep(0)  # all who ask now are in the first batch
        while self._waiting:
            kind = _kind(self._waiting[0].request.sampling)
            alike = [one for one in self._waiting if _kind(one.request.sampling) == kind][: self._at_once]
            self._waiting = [one for one in self._waiting if one not in alike]
            try:
                await self._answer(alike)
            except Exception as error:  # whoever asked is told: nobody awaits this task
                for one in [*alike, *self._waiting]:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                self._waiting = []

    async def _answer(self, asked: Sequence[_Request]) -> None:
        async for index, group in self._engine.generate([one.request for one in asked]):
            written = group.completions[0]
            if not (answer := asked[index].answer).done():
                answer.set_result(Answer(readable(written.text), len(written.token_ids), written.finish_reason))


def _kind(sampling: Sampling) -> Sampling:
    """What the requests of one batch have in common."""
    return replace(sampling, max_tokens=0)
