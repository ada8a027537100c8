"""Which prompts are sampled when, and which step trains them: a queue of groups.

Step s (from 1) turns weights s-1 into weights s. A group is as old as the oldest of its tokens: drawn by weights v, it
is s-1-v steps stale in step s, and `rollout.max_staleness` k is the most that this may be. So

    while weights v are served, (v + 1 + k) prompts_per_step groups have been asked for in all, no more: each of them
    can still be trained within its bound, and the engine has as many requests as the bound allows, at any time;
    step s takes the first prompts_per_step groups that are complete. A late one is left to a later step and holds
    nothing up, until leaving it would make it, or another one behind it, too old: then the step waits for it.

Every group that is asked for is trained exactly once, unless a refill drops it. With k = 0 a step is exactly its own
prompts, sampled by the weights that it trains.

Refill is the dynamic sampling of DAPO (arXiv 2503.14476, section 3.2): a group without contrast is dropped and another
prompt asked for in its place at once, at most `rollout.refill` x prompts_per_step times a step. Departures: the paper
has no bound; beyond it, here, a step is filled with groups without contrast (the freshest; of these, the earliest asked
first), and a step that finds none but these stops the run. Drops count for the step that takes its groups next.

Prompts and seeds are a function of (seed, position), where positions count the groups asked for. A checkpoint keeps
the positions that were asked for and are not trained yet (`state_dict`); a resumed run asks for them first.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.config import RolloutSettings
from grpo.rollout.engine import RolloutEngine, RolloutError
from grpo.signal.curriculum import PromptOrder
from grpo.types import Group, Prompt, RolloutRequest, Sampling
from rewards import Reward


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group and the reward of each of its completions, in the same order.

    `logged` holds what rewards logged with `log_metric`, e.g. (("brevity", 0.3),).
    """

    group: Group
    rewards: tuple[Reward, ...]
    logged: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepRollouts:
    """What a step trains on. `dropped` came since the step before and had no contrast."""

    groups: list[ScoredGroup]
    dropped: list[ScoredGroup]
    seconds_wait: float  # that the step stood still while some of its groups were still being sampled
    seconds_reward: float  # and after that, while they, and what came before them, were being scored


@dataclass(slots=True, eq=False)
class Asked:
    """A group from the moment it is asked for until a step takes it."""

    position: int
    index: int  # of its prompt
    version: int  # of the weights served when it was asked for; once it is there, of its oldest token
    scored: ScoredGroup | None = None
    arrived: float = 0.0


class Scheduler:
    """Hands out each step's scored groups.

        scheduler.ask()                             # whenever the engine got new weights
        rollouts = await scheduler.collect(step)    # steps in order

    Args:
        score: of a group that has come, called in a thread, one group at a time; its first argument is the step
            that will take its groups next.
        contrast: whether a group is worth training; needed where `settings.refill` is set.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        prompts: Sequence[Prompt],
        order: PromptOrder,
        settings: RolloutSettings,
        score: Callable[[int, Group], ScoredGroup],
        seed: int,
        last_step: int,
        contrast: Callable[[ScoredGroup], bool] = lambda _: True,
    ) -> None:
        self._engine, self._prompts, self._order, self._settings = engine, prompts, order, settings
        self._score, self._seed, self._last_step, self._contrast = score, seed, last_step, contrast
        self._budget = settings.refill * settings.prompts_per_step
        self._taken = 0  # the last step whose groups were handed out
        self._next = 0  # the first position never asked for
        self._to_ask_again: deque[tuple[int, int]] = deque()  # (position, index) that the run before a resume asked for
        self._in_flight: list[Asked] = []
        self._ready: list[Asked] = []  # in the order in which they came
        self._without_contrast: list[Asked] = []  # in the same order, where these are refilled
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self._scoring = asyncio.Lock()  # rewards may keep state: never two calls at once

    # -- asking ------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for as many groups as the bound allows with the weights that are being served."""
        last = min(self._engine.version + 1 + self._settings.max_staleness, self._last_step)
        room = self._settings.prompts_per_step * (last - self._taken) - len(self._to_train())
        batch = [self._draw() for _ in range(room)]
        if batch:
            self._in_flight += batch
            self._start(self._sample(batch))

    def _draw(self) -> Asked:
        if self._to_ask_again:
            position, index = self._to_ask_again.popleft()
        else:
            position, index = self._next, self._order.at(self._next)
            self._next += 1
        return Asked(position, index, self._engine.version)

    def _request(self, asked: Asked) -> RolloutRequest:
        rollout = self._settings
        sampling = Sampling(rollout.max_tokens, rollout.temperature, rollout.top_p, rollout.top_k)
        seed = random.Random(f"{self._seed}/sample/{asked.position}").getrandbits(62)
        return RolloutRequest(self._prompts[asked.index], rollout.group_size, sampling, seed, rollout.routing_replay)

    async def _sample(self, batch: list[Asked]) -> None:
        async for number, group in self._engine.generate([self._request(asked) for asked in batch]):
            asked = batch[number]
            asked.arrived = _now()
            asked.version = min((min(c.versions) for c in group.completions), default=asked.version)
            self._start(self._receive(asked, group))  # the next one is not kept waiting while this one is scored

    async def _receive(self, asked: Asked, group: Group) -> None:
        async with self._scoring:
            asked.scored = await asyncio.to_thread(self._score, self._taken + 1, group)
        self._in_flight.remove(asked)
        dropped = self._budget and not self._contrast(asked.scored)
        (self._without_contrast if dropped else self._ready).append(asked)
        self.ask()  # another one for a group that is dropped
        self._changed.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            self._failure = task.exception()
            self._changed.set()

    # -- taking ------------------------------------------------------------------------------------

    async def collect(self, step: int) -> StepRollouts:
        """The groups of the next step, in the order of their positions. Raises what sampling or scoring raised."""
        started = _now()
        self.ask()
        while not (chosen := self._choose(step)):
            self._changed.clear()
            if self._failure:
                raise self._failure
            await self._changed.wait()
        if not self._ready:
            self._refuse_without_contrast(step)
        there = max(started, *(asked.arrived for asked in chosen))
        dropped = self._take(step, chosen)
        groups = [asked.scored for asked in chosen if asked.scored]
        return StepRollouts(
            groups, [asked.scored for asked in dropped if asked.scored], there - started, _now() - there
        )

    def _choose(self, step: int) -> list[Asked]:
        """The groups that the step takes, [] while it has to wait."""
        if not self._ready and self._in_flight:
            return []  # one that comes may have contrast
        ahead = Counter(self._deadline(asked) for asked in self._to_train())
        chosen: list[Asked] = []
        per_step = self._settings.prompts_per_step
        for asked in [*self._ready, *self._kept()]:
            ahead[self._deadline(asked)] -= 1
            if fits(ahead, step, per_step - len(chosen) - 1, per_step):
                chosen.append(asked)
            else:
                ahead[self._deadline(asked)] += 1
            if len(chosen) == per_step:
                return sorted(chosen, key=_position)
        return []

    def _take(self, step: int, chosen: list[Asked]) -> list[Asked]:
        """Leave the chosen groups to the step; returns the dropped ones."""
        kept = self._kept()
        dropped = sorted((asked for asked in self._without_contrast if asked not in kept), key=_position)
        self._without_contrast = [asked for asked in kept if asked not in chosen]
        self._ready = [asked for asked in self._ready if asked not in chosen]
        self._taken = step
        for asked in [*chosen, *dropped]:
            if asked.scored:
                self._order.record(asked.index, asked.scored.rewards)
        return dropped

    def _deadline(self, asked: Asked) -> int:
        """The last step that may train it."""
        return asked.version + 1 + self._settings.max_staleness

    def _kept(self) -> list[Asked]:
        """Groups without contrast beyond the bound on refills: steps are filled with them.

        Those that may be trained the latest, so that none takes the place of one that had more time.
        """
        latest_first = sorted(self._without_contrast, key=lambda asked: (-asked.version, asked.position))
        return latest_first[: max(0, len(self._without_contrast) - self._budget)]

    def _to_train(self) -> list[Asked]:
        return [*self._in_flight, *self._ready, *self._kept()]

    def _refuse_without_contrast(self, step: int) -> None:
        per_step, size = self._settings.prompts_per_step, self._settings.group_size
        raise RolloutError(
            f"step {step}: none of {len(self._without_contrast)} groups has contrast: all {size} completions of each "
            "have one and the same reward, so nothing can be learned. "
            f"rollout.refill: {self._settings.refill} allows no more than "
            f"{self._budget} groups beyond the {per_step} of a step. The task is too hard or too easy for the model: "
            "change task.config or the data (`zero filter`), raise rollout.group_size or rollout.refill, or set "
            "rollout.refill: 0 to go on without"
        )

    # -- ending and resuming -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What is to be asked for if the run goes on from the last step that was collected; plain JSON.

        Dropped groups that no step has reported yet are among the pending ones: they come again.
        """
        open_ = [(asked.position, asked.index) for asked in (*self._in_flight, *self._ready, *self._without_contrast)]
        return {"next": self._next, "pending": sorted([*open_, *self._to_ask_again]), "order": self._order.state_dict()}

    def resume(self, step: int, state: Mapping[str, Any] | None) -> None:
        """Go on after `step`. `state` None: of a checkpoint that kept none, when each step had its own prompts."""
        self._taken = step
        if state is None:
            self._next = step * self._settings.prompts_per_step
            return
        self._next = state["next"]
        self._to_ask_again = deque((position, index) for position, index in state["pending"])
        self._order.load_state_dict(state["order"])

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def fits(ahead: Mapping[int, int], step: int, room: int, per_step: int) -> bool:
    """Whether groups with these deadlines ({step: how many}) can all be trained in time.

    `step` has room for `room` more of them, each step after it for `per_step`. (Earliest deadline first is optimal
    for tasks of one length: if it fails, by a deadline with more due than room, everything does.)
    """
    due = 0
    for deadline in sorted(ahead):
        due += ahead[deadline]
        if due > room + per_step * (deadline - step):
            return False
    return True


def _position(asked: Asked) -> int:
    return asked.position


def _now() -> float:
    return asyncio.get_running_loop().time()
