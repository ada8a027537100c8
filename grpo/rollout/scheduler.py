"""Which prompts a step samples, and keeping the engine busy with them.

A step's prompts and seeds are a function of (seed, step) alone: a resumed run asks for what the killed
one would have asked for. With `max_staleness` k, the samples of the next k steps are already being drawn
while a step trains; they are then at most k optimizer steps older than the weights that they train.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grpo.config import RolloutSettings
from grpo.rollout.engine import RolloutEngine
from grpo.types import Group, Prompt, RolloutRequest, Sampling
from rewards import Reward


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group and the reward of each of its completions, in the same order."""

    group: Group
    rewards: tuple[Reward, ...]


@dataclass(frozen=True, slots=True)
class StepRollouts:
    groups: list[ScoredGroup]
    seconds: float  # from the first request to the last completion
    seconds_reward: float


class Scheduler:
    """Hands out each step's scored groups, sampling at most `max_staleness` steps ahead."""

    def __init__(
        self,
        engine: RolloutEngine,
        prompts: Sequence[Prompt],
        settings: RolloutSettings,
        score: Callable[[int, Group], tuple[Reward, ...]],
        seed: int,
        last_step: int,
    ) -> None:
        self._engine, self._prompts, self._settings = engine, prompts, settings
        self._score, self._seed, self._last_step = score, seed, last_step
        self._running: dict[int, asyncio.Task[StepRollouts]] = {}

    def requests(self, step: int) -> list[RolloutRequest]:
        """The requests of step `step` (from 1): the prompts of epoch after epoch, each in its own random order."""
        rollout, n = self._settings, len(self._prompts)
        sampling = Sampling(rollout.max_tokens, rollout.temperature, rollout.top_p, rollout.top_k)
        first = (step - 1) * rollout.prompts_per_step
        return [
            RolloutRequest(self._prompts[self._order(at // n)[at % n]], rollout.group_size, sampling, self._mix(at))
            for at in range(first, first + rollout.prompts_per_step)
        ]

    async def collect(self, step: int) -> StepRollouts:
        for ahead in range(step, min(step + self._settings.max_staleness, self._last_step) + 1):
            if ahead not in self._running:
                self._running[ahead] = asyncio.create_task(self._sample(ahead))
        return await self._running.pop(step)

    async def cancel(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._running.clear()

    async def _sample(self, step: int) -> StepRollouts:
        started, seconds_reward = time.monotonic(), 0.0
        requests = self.requests(step)
        groups: list[ScoredGroup | None] = [None] * len(requests)
        async for index, group in self._engine.generate(requests):
            scoring = time.monotonic()
            rewards = await asyncio.to_thread(self._score, step, group)
            seconds_reward += time.monotonic() - scoring
            groups[index] = ScoredGroup(group, rewards)
        seconds = time.monotonic() - started
        return StepRollouts([group for group in groups if group is not None], seconds, seconds_reward)

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self._prompts)))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        return order

    def _mix(self, position: int) -> int:
        return random.Random(f"{self._seed}/sample/{position}").getrandbits(62)
