"""A rollout engine whose completions are episodes: replies of the model, and in between what an environment says.

    prompt ─▶ reply ─▶ step(reply) ─▶ the prompt, the reply and what comes after it ─▶ reply ─▶ ... ─▶ score(episode)

It asks another engine for one reply after the other, tokens in and tokens out. All that an episode has sampled so far
is in the next request as it was sampled; the environment's tokens are appended (frame.py). Each token keeps the version
of the weights that made it: an episode goes on while weights are updated.

    ended     by                                       finish_reason
    done      the environment, step returned None      stop
    turns     task.environment.max_turns               stop
    tokens    rollout.max_tokens, or max_turn_tokens   length: the last reply was cut, or there is no room for another

An episode that cannot be finished is a failure of its group, under its cause, and has no score:
environment_error (it raised, or returned what is none of it), environment_timeout (call_timeout), episode_timeout, and
those of the engine.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from grpo.environments.environment import EpisodeFailedError
from grpo.environments.host import EnvironmentHost, Session, start_again
from grpo.environments.settings import EnvironmentSettings
from grpo.rollout.engine import AdapterEngine, RolloutEngine, SyncReport
from grpo.rollout.episodes.frame import Frame
from grpo.rollout.episodes.turns import Asks, AtOnce, Place, Together, Turns
from grpo.rollout.sync.stream import WeightStream
from grpo.types import Completion, Episode, FinishReason, Group, Message, RolloutRequest, Sampling

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

TOO_LONG = "episode_timeout"
SAID = 3  # reasons of failures that are logged as they come


class EpisodeEngine:
    """Implements `AdapterEngine` over `engine`. Closes the host, too.

    Args:
        begun: of each prompt's id, what the environment begins with, which the prompt renders.
        at_once: episodes that are in flight at a time, where the engine is asked for each by itself.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        host: EnvironmentHost,
        frame: Frame,
        settings: EnvironmentSettings,
        begun: Mapping[str, tuple[Message, ...]],
        at_once: int,
    ) -> None:
        self.name, self.concurrent = engine.name, engine.concurrent
        self._engine, self._host, self._frame, self._settings = engine, host, frame, settings
        self._begun = begun
        self._at_once = AtOnce(engine, at_once)
        self._said = 0

    @property
    def version(self) -> int:
        return self._engine.version

    @property
    def restarts(self) -> int:
        return self._engine.restarts

    async def start(self) -> None:
        await self._engine.start()

    async def ask_each(self, requests: Sequence[RolloutRequest]) -> Mapping[str, Sequence[Group]]:
        """Plain completions: what is compared are the weights."""
        return await self._engine.ask_each(requests)

    async def update_weights(self, stream: WeightStream, version: int) -> SyncReport:
        return await self._engine.update_weights(stream, version)

    async def update_adapter(self, folder: Path, version: int) -> SyncReport:
        return await cast("AdapterEngine", self._engine).update_adapter(folder, version)

    async def close(self) -> None:
        try:
            await self._engine.close()
        finally:
            await asyncio.to_thread(self._host.close)

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[tuple[int, Group]]:
        """Yield (index, group) as groups complete. Raises PromptError if the template cannot be gone on with."""
        together = None if self.concurrent else Together(self._engine, len(requests))
        turns = together or self._at_once
        tasks = [asyncio.create_task(self._group(i, request, turns)) for i, request in enumerate(requests)]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            await _cancelled(tasks)
            if together:
                await together.cancel()

    async def _group(self, index: int, request: RolloutRequest, turns: Turns) -> tuple[int, Group]:
        await turns.enter(request.n)
        sampling = _at_most(request.sampling, self._turn_limit(request.sampling.max_tokens))
        try:
            first = await turns.ask((index,), replace(request, sampling=sampling))
        except BaseException:  # cancelled, too: the others wait for its turn
            turns.came(request.n, 0)
            raise
        turns.came(request.n, len(first.completions))
        episodes = [
            asyncio.create_task(self._episode((index, i), request, reply, turns))
            for i, reply in enumerate(first.completions)
        ]
        for episode in episodes:
            episode.add_done_callback(lambda _: turns.leave())
        try:
            results = await asyncio.gather(*episodes)
        finally:
            await _cancelled(episodes)
        failed = [one for one in results if isinstance(one, EpisodeFailedError)]
        failures = Counter(first.failures) + Counter(one.cause for one in failed)
        reasons = {one.cause: one.reason for one in reversed(failed)}
        completions = tuple(one for one in results if isinstance(one, Completion))
        return index, Group(request.prompt, completions, dict(failures), {**first.reasons, **reasons})

    async def _episode(
        self, place: tuple[int, int], request: RolloutRequest, reply: Completion, turns: Turns
    ) -> Completion | EpisodeFailedError:
        try:
            async with asyncio.timeout(self._settings.episode_timeout) as clock, self._host.session() as session:
                asks = turns if self.concurrent else _ClockStops(turns, clock)
                return await self._play(place, request, reply, asks, session)
        except TimeoutError:
            seconds = self._settings.episode_timeout
            failure = EpisodeFailedError(TOO_LONG, f"not over after {seconds:g} s (task.environment.episode_timeout)")
        except EpisodeFailedError as error:
            failure = error
        self._said += 1
        if self._said <= SAID:
            logger.warning("%s: an episode failed, %s: %s", request.prompt.id, failure.cause, failure.reason)
        return failure

    async def _play(
        self, place: tuple[int, int], request: RolloutRequest, reply: Completion, turns: Asks, session: Session
    ) -> Completion:
        prompt, seed = request.prompt, f"{request.seed}/{place[1]}"
        begun = self._begun[prompt.id]
        await start_again(session, prompt, begun, seed)
        tape, opened = _Tape(), prompt.prefill
        while True:
            tape.add(reply, opened)
            ended = await self._ended(tape, reply, session)
            if isinstance(ended, str):
                break
            last = reply.token_ids[-1]
            between, opened = self._frame.next(prompt.messages, tape.messages, ended, last)
            room = self._turn_limit(request.sampling.max_tokens - len(tape.token_ids) - len(between))
            if room < 1:
                ended = "tokens"
                break
            tape.hear(between, ended)
            reply = await self._reply(place, request, tape, room, turns)
        finish: FinishReason = "length" if ended == "tokens" else "stop"
        episode = Episode(tuple(tape.messages), ended)
        whole = replace(episode, messages=(*begun, *episode.messages))
        return tape.completion(reply.text, finish, replace(episode, score=await session.score(whole)))

    async def _ended(
        self, tape: _Tape, reply: Completion, session: Session
    ) -> Literal["done", "turns", "tokens"] | tuple[Message, ...]:
        """What ended the episode, or what the environment says to the last reply."""
        if reply.finish_reason == "length":
            return "tokens"
        said = await session.step(tape.messages[-1]["content"])
        if not said:
            return "done"
        return "turns" if tape.turns >= self._settings.max_turns else said

    async def _reply(
        self, place: tuple[int, int], request: RolloutRequest, tape: _Tape, room: int, turns: Asks
    ) -> Completion:
        prompt = replace(request.prompt, token_ids=(*request.prompt.token_ids, *tape.token_ids))
        seed = random.Random(f"{request.seed}/{prompt.id}/{place[1]}/{tape.turns}").getrandbits(62)
        group = await turns.ask(
            place, replace(request, prompt=prompt, n=1, sampling=_at_most(request.sampling, room), seed=seed)
        )
        if not group.completions:
            cause = next(iter(group.failures), "missing")
            raise EpisodeFailedError(cause, group.reasons.get(cause, f"the engine gave no reply {tape.turns + 1}"))
        return group.completions[0]

    def _turn_limit(self, room: int) -> int:
        return min(room, self._settings.max_turn_tokens or room)


class _ClockStops:
    """Asks, off the episode's clock: where all are sampled together, each waits for the slowest."""

    def __init__(self, turns: Turns, clock: asyncio.Timeout) -> None:
        self._turns, self._clock = turns, clock

    async def ask(self, place: Place, request: RolloutRequest) -> Group:
        end, began = self._clock.when(), asyncio.get_running_loop().time()
        assert end is not None
        self._clock.reschedule(None)
        group = await self._turns.ask(place, request)
        self._clock.reschedule(end + asyncio.get_running_loop().time() - began)
        return group


@dataclass(slots=True)
class _Tape:
    """What an episode has come to, token by token and message by message."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    turns: int = 0
    experts: np.ndarray | None = None  # of all tokens but the last, as the last reply has them

    def add(self, reply: Completion, opened: str) -> None:
        """The model's reply; `opened` was given to it."""
        self._extend(reply.token_ids, reply.logprobs, reply.versions, True)
        self.experts = reply.experts
        self.messages.append({"role": "assistant", "content": opened + reply.text})
        self.turns += 1

    def hear(self, token_ids: Sequence[int], messages: Sequence[Message]) -> None:
        """What the environment said, and the tokens that the template made of it."""
        n = len(token_ids)
        self._extend(token_ids, [math.nan] * n, self.versions[-1:] * n, False)
        self.messages += messages

    def _extend(
        self, token_ids: Sequence[int], logprobs: Sequence[float], versions: Sequence[int], trained: bool
    ) -> None:
        self.token_ids += token_ids
        self.logprobs += logprobs
        self.versions += versions
        self.trained += [trained] * len(token_ids)

    def completion(self, text: str, finish: FinishReason, episode: Episode) -> Completion:
        trained = None if all(self.trained) else tuple(self.trained)
        tokens = tuple(self.token_ids), tuple(self.logprobs), tuple(self.versions)
        return Completion(*tokens, text, finish, trained, episode, self.experts)


def _at_most(sampling: Sampling, max_tokens: int) -> Sampling:
    return replace(sampling, max_tokens=max_tokens)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
