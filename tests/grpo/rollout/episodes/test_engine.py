"""Episodes over an engine that answers by script: what is asked, what is trained, how an episode ends or fails."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from grpo.environments.environment import EnvironmentRefusedError
from grpo.environments.host import EnvironmentHost
from grpo.environments.settings import EnvironmentSettings
from grpo.rollout.engine import RolloutError
from grpo.rollout.episodes.engine import EpisodeEngine
from grpo.rollout.episodes.frame import Frame
from grpo.types import Completion, Group, Prompt, RolloutRequest, Sampling
from rewards.types import Score
from tests.fakes import CharDecoder

EOS = 0


class Characters(CharDecoder):
    """A tokenizer whose ids are code points."""

    eos_token = "\0"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [*map(ord, text)]}


class Scripted:
    """A RolloutEngine. `write(prompt, k)` is what completion k of a request says, or the cause of its failure."""

    name, restarts = "scripted", 0

    def __init__(self, write: Callable[[str, int], str], concurrent: bool = True) -> None:
        self.version, self.concurrent, self._write = 0, concurrent, write
        self.calls: list[list[RolloutRequest]] = []

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[tuple[int, Group]]:
        self.calls.append(list(requests))
        for index, request in enumerate(requests):
            prompt = "".join(map(chr, request.prompt.token_ids))
            texts = [self._write(prompt, k) for k in range(request.n)]
            failed = [text[1:] for text in texts if text.startswith("!")]
            made = tuple(self._completion(text, request) for text in texts if not text.startswith("!"))
            yield index, Group(request.prompt, made, {cause: failed.count(cause) for cause in failed})

    def _completion(self, text: str, request: RolloutRequest) -> Completion:
        ids = (*map(ord, text), EOS)[: request.sampling.max_tokens]
        finish = "stop" if ids[-1] == EOS else "length"
        text = "".join(map(chr, ids)).rstrip("\0")
        return Completion(ids, (-0.5,) * len(ids), (self.version,) * len(ids), text, finish)


class Guess:
    """Says whether the guess is too low, until it is 7. `bad` happens at a guess of 9."""

    def __init__(self, bad: Any = None) -> None:
        self.bad = bad

    def start(self, row: dict[str, Any]) -> str:
        return str(row["first"])

    async def step(self, reply: str) -> str | None:
        if reply == "9" and self.bad is not None:
            if isinstance(self.bad, float):
                await asyncio.sleep(self.bad)
            raise ValueError("nine")
        return None if reply == "7" else "low" if reply < "7" else "high"

    def score(self, episode: Any) -> float:
        return float(episode.replies[-1] == "7")


class Playing:
    """An EpisodeEngine over a scripted one."""

    def __init__(self, scripted: Scripted, environment: Any, at_once: int = 100, **settings: Any) -> None:
        self.settings = EnvironmentSettings(name="guess_number", **settings)
        host = EnvironmentHost(self.settings)
        host._environment = environment
        frame = Frame(Characters(), "{question}:")  # type: ignore[arg-type]
        begun = {name: ({"role": "user", "content": name},) for name in "abcdefgh"}
        self.engine = EpisodeEngine(scripted, host, frame, self.settings, begun, at_once)

    def groups(self, *names: str, n: int = 1, max_tokens: int = 100) -> list[Group]:
        async def collect() -> list[Group]:
            found = {i: group async for i, group in self.engine.generate(requests)}
            return [found[i] for i in range(len(requests))]

        requests = [RolloutRequest(problem(name), n, Sampling(max_tokens), seed=3) for name in names]
        return asyncio.run(collect())


def problem(name: str) -> Prompt:
    return Prompt(name, f"{name}:", tuple(map(ord, f"{name}:")), "", columns={"first": name})


def by_prompt(prompt: str, _: int) -> str:
    """5, then 6, then 7."""
    return str(5 + prompt.count("low:"))


def text(completion: Completion) -> str:
    return "".join(chr(i) if i else "#" for i in completion.token_ids)


@pytest.mark.parametrize("concurrent", [True, False])
def test_what_was_sampled_is_in_the_next_request_and_only_that_is_trained(concurrent):
    scripted = Scripted(by_prompt, concurrent)
    (group,) = Playing(scripted, Guess()).groups("a")
    asked = ["".join(chr(i) if i else "#" for i in r.prompt.token_ids) for call in scripted.calls for r in call]
    assert asked == ["a:", "a:5#low:", "a:5#low:6#low:"]
    (one,) = group.completions
    assert text(one) == "5#low:6#low:7#"
    assert one.trained == tuple(c in "567#" for c in "5#low:6#low:7#")
    assert [x for x, y in zip(one.logprobs, one.trained, strict=True) if y] == [-0.5] * 6
    assert all(math.isnan(x) for x, y in zip(one.logprobs, one.trained, strict=True) if not y)
    assert one.written == [*map(ord, "5\x006\x007\x00")]
    assert (one.text, one.finish_reason) == ("7", "stop")
    assert one.episode is not None
    assert [m["content"] for m in one.episode.messages] == ["5", "low", "6", "low", "7"]
    assert (one.episode.turns, one.episode.ended, one.episode.score) == (
        3, "done", Score(1.0, None, "correct", "the environment's score is 1"))  # fmt: skip


def test_an_episode_that_ends_at_once_is_the_completion_that_the_engine_gave():
    scripted = Scripted(lambda *_: "7")
    (group,) = Playing(scripted, Guess()).groups("a", n=3)
    assert scripted.calls[0][0].n == 3
    assert len(scripted.calls) == 1
    assert all(c.trained is None and c.token_ids == (ord("7"), EOS) for c in group.completions)


@pytest.mark.parametrize(
    ("settings", "max_tokens", "ended", "finish", "whole"),
    [
        ({"max_turns": 2}, 100, "turns", "stop", "5#low:6#"),
        ({}, 6, "tokens", "length", "5#"),  # the environment's four leave no room for a reply
        ({}, 7, "tokens", "length", "5#low:6"),  # the second reply is cut
        ({"max_turn_tokens": 1}, 100, "tokens", "length", "5"),
    ],
)
def test_the_limits(settings, max_tokens, ended, finish, whole):
    (group,) = Playing(Scripted(by_prompt), Guess(), **settings).groups("a", max_tokens=max_tokens)
    (one,) = group.completions
    assert text(one) == whole
    assert len(one.token_ids) <= max_tokens
    assert one.episode is not None
    assert (one.episode.ended, one.finish_reason, one.episode.score.value) == (ended, finish, 0.0)
    assert one.episode.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize("concurrent", [True, False])
@pytest.mark.parametrize(
    ("bad", "settings", "cause", "reason"),
    [
        (True, {}, "environment_error", "step raised ValueError: nine"),
        (60.0, {"call_timeout": 0.2}, "environment_timeout", "more than 0.2 seconds"),
        (60.0, {"episode_timeout": 0.2}, "episode_timeout", r"not over after 0.2 s"),
    ],
)
def test_a_failure_of_the_environment_is_counted_and_the_others_are_trained(concurrent, bad, settings, cause, reason):
    scripted = Scripted(lambda prompt, k: "9" if k == 1 else by_prompt(prompt, k), concurrent)
    groups = Playing(scripted, Guess(bad), **settings).groups("a", "b", n=3)
    for group in groups:
        assert [text(one) for one in group.completions] == ["5#low:6#low:7#"] * 2
        assert group.failures == {cause: 1}
        assert re.search(reason, group.reasons[cause])


def test_a_reply_that_does_not_come_is_the_engines_failure_under_its_cause():
    scripted = Scripted(lambda prompt, k: "!timeout" if "low" in prompt or k == 2 else "5")
    (group,) = Playing(scripted, Guess()).groups("a", n=3)
    assert group.completions == ()
    assert group.failures == {"timeout": 3}


def test_a_start_that_differs_is_named():
    class Random(Guess):
        def start(self, row: dict[str, Any]) -> str:
            return "z"

    (group,) = Playing(Scripted(by_prompt), Random()).groups("a")
    assert group.failures == {"environment_error": 1}
    assert "it must say the same each time" in group.reasons["environment_error"]


@pytest.mark.parametrize("concurrent", [True, False])
def test_what_ends_the_engine_ends_the_sampling(concurrent):
    def write(prompt: str, _: int) -> str:
        if "low" in prompt:
            raise RolloutError("the last server is gone")
        return "5"

    with pytest.raises(RolloutError, match="the last server is gone"):
        Playing(Scripted(write, concurrent), Guess()).groups("a", "b", n=2)


def test_an_engine_of_one_batch_gets_the_replies_of_all_living_episodes_together():
    # The first episode of each group ends in its first turn, the second in its second.
    def write(prompt: str, k: int) -> str:
        return "5" if k == 1 else "7"

    scripted = Scripted(write, concurrent=False)
    groups = Playing(scripted, Guess()).groups("a", "b", n=2)
    assert [[r.n for r in call] for call in scripted.calls] == [[2, 2], [1, 1]]
    asked = [[r.prompt.id for r in call] for call in scripted.calls]
    assert asked[0] == ["a", "b"]
    assert all(call == sorted(call) for call in asked)
    assert sum(map(len, asked)) == 2 + 2
    assert [len(group.completions) for group in groups] == [2, 2]
    seeds = [r.seed for call in scripted.calls[1:] for r in call]
    assert len(set(seeds)) == len(seeds)


def test_no_more_episodes_are_in_flight_than_there_is_room_for():
    living, most = [0], [0]

    class Counted(Guess):
        async def step(self, reply: str) -> str | None:
            living[0] += 1
            most[0] = max(most[0], living[0])
            await asyncio.sleep(0.001)
            living[0] -= 1
            return await super().step(reply)

    groups = Playing(Scripted(by_prompt), Counted(), at_once=4).groups(*"abcdefgh", n=2)
    assert [len(group.completions) for group in groups] == [2] * 8
    assert most[0] <= 4
    # A group that is larger than all of the room is played where it is alone.
    assert len(Playing(Scripted(by_prompt), Guess(), at_once=2).groups("a", "b", n=5)[1].completions) == 5


def test_each_token_has_the_version_that_made_it_and_the_environments_that_of_the_reply_before():
    scripted = Scripted(by_prompt)

    class Updates(Guess):
        async def step(self, reply: str) -> str | None:
            scripted.version += 1
            return await super().step(reply)

    (group,) = Playing(scripted, Updates()).groups("a")
    assert group.completions[0].versions == (0,) * 6 + (1,) * 6 + (2,) * 2


def test_an_engine_needs_an_environment_that_there_is():
    with pytest.raises(EnvironmentRefusedError):
        EnvironmentHost(EnvironmentSettings(name="no such"))
