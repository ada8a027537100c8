"""The client against a fake server; the real one is in test_rollout_server.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from grpo.config import ModelSettings, RolloutSettings, ServerSettings
from grpo.rollout.engine import ServerLostError, WeightSyncError
from grpo.rollout.vllm import client as client_module
from grpo.rollout.vllm.client import RolloutClient
from grpo.rollout.vllm.engine import VLLMEngine
from grpo.types import Completion, Group, RolloutRequest, Sampling
from tests.fakes import CharDecoder, FakeServer, choice, prompt

SAMPLING = Sampling(max_tokens=16)


def ask(script: Any = None, n: int = 2, timeout: float = 60, **options: Any) -> tuple[Group, FakeServer]:
    async def run() -> tuple[Group, FakeServer]:
        async with (
            FakeServer(script) as server,
            RolloutClient(server.url, CharDecoder(), timeout, **options) as client,
        ):
            return await client.group(RolloutRequest(prompt(), n, SAMPLING, seed=7)), server

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_DELAYS", (0.01, 0.01))


def test_a_completion_has_its_tokens_log_probs_versions_and_text() -> None:
    spans = [{"version": "default", "start": 0, "end": 1}, {"version": "3", "start": 1, "end": 3}]
    group, _ = ask(lambda body, k: {"choices": [choice("42", weight_versions=spans)]}, n=1)
    assert group.completions == (
        Completion(
            token_ids=(52, 50, 0), logprobs=(-0.5, -0.5, -0.5), versions=(0, 3, 3), text="42", finish_reason="stop"
        ),
    )
    assert group.failures == {}


def test_a_group_is_one_request_without_a_seed() -> None:
    group, server = ask(n=8)
    assert len(group.completions) == 8
    (body,) = server.bodies
    assert body["token_ids"] == list(prompt().token_ids)
    assert body["sampling_params"]["n"] == 8
    assert "seed" not in body["sampling_params"]


@pytest.mark.parametrize(
    ("script", "failures"),
    [
        (lambda body, k: 1.0, {"timeout": 2}),
        (lambda body, k: 400, {"refused": 2}),
        (lambda body, k: "{not json", {"malformed": 2}),
        (lambda body, k: {"choices": None}, {"malformed": 2}),
        (lambda body, k: {"choices": [choice()]}, {"missing": 1}),
        (lambda body, k: {"choices": [choice(), choice(finish_reason="abort")]}, {"aborted": 1}),
        (lambda body, k: {"choices": [choice(), choice(token_ids=[52])]}, {"malformed": 1}),
        (lambda body, k: {"choices": [choice(), choice(logprobs=None)]}, {"malformed": 1}),
        (lambda body, k: {"choices": [choice(), choice(version="v-one")]}, {"malformed": 1}),
        (
            lambda body, k: {
                "choices": [choice(), choice("", logprobs={"content": [{"token_id": 0, "logprob": -9999.0}]})]
            },
            {"malformed": 1},
        ),
    ],
)
def test_what_fails_is_counted_by_cause_and_the_rest_arrives(script: Any, failures: dict[str, int]) -> None:
    group, _ = ask(script, timeout=0.3 if "timeout" in failures else 60)
    assert group.failures == failures
    assert len(group.completions) == 2 - sum(failures.values())


def test_a_transient_error_is_tried_again() -> None:
    group, server = ask(lambda body, k: 503 if k < 2 else None)
    assert len(group.completions) == 2
    assert len(server.bodies) == 3


def test_a_server_that_keeps_failing_is_reported_as_lost() -> None:
    with pytest.raises(ServerLostError, match="answered 500: because"):
        ask(lambda body, k: 500)


def test_a_server_that_is_not_there_is_reported_as_lost() -> None:
    async def run() -> None:
        async with RolloutClient("http://127.0.0.1:9", CharDecoder(), timeout=60) as client:
            await client.group(RolloutRequest(prompt(), 1, SAMPLING))

    with pytest.raises(ServerLostError, match=r"127\.0\.0\.1:9 does not answer"):
        asyncio.run(run())


def test_greedy_sampling_of_several_completions_is_refused() -> None:
    async def run() -> None:
        async with RolloutClient("http://127.0.0.1:9", CharDecoder(), timeout=60) as client:
            await client.group(RolloutRequest(prompt(), 2, Sampling(8, temperature=0.0)))

    with pytest.raises(ValueError, match="n=2"):
        asyncio.run(run())


def attached(*servers: FakeServer, max_sequences: int = 4) -> VLLMEngine:
    settings = ServerSettings(urls=[server.url for server in servers], request_timeout=60)
    rollout = RolloutSettings(max_sequences=max_sequences, server=settings)
    return VLLMEngine("unused", ModelSettings(path="unused"), rollout, CharDecoder(), Path("unused"))


async def collect(engine: VLLMEngine, requests: list[RolloutRequest]) -> dict[int, Group]:
    await engine.start()
    try:
        return {index: group async for index, group in engine.generate(requests)}
    finally:
        await engine.close()


def test_groups_are_spread_over_attached_servers_and_each_is_answered_once() -> None:
    async def run() -> tuple[dict[int, Group], list[int]]:
        async with FakeServer(lambda b, k: 0.05) as one, FakeServer(lambda b, k: 0.05) as two:
            requests = [RolloutRequest(prompt(str(i)), 2, SAMPLING) for i in range(20)]
            return await collect(attached(one, two), requests), [len(one.bodies), len(two.bodies)]

    groups, loads = asyncio.run(run())
    assert [groups[i].prompt.text for i in range(20)] == [str(i) for i in range(20)]
    assert sum(loads) == 20
    assert min(loads) >= 7


def test_a_request_that_a_healthy_server_cannot_serve_is_a_failure_and_not_the_end() -> None:
    async def run() -> dict[int, Group]:
        async with FakeServer(lambda body, k: 500 if len(body["token_ids"]) > 3 else None) as server:
            requests = [RolloutRequest(prompt("bad prompt"), 2, SAMPLING), RolloutRequest(prompt("ok"), 2, SAMPLING)]
            return await collect(attached(server), requests)

    groups = asyncio.run(run())
    assert groups[0].failures == {"server_error": 2}
    assert len(groups[1].completions) == 2


def test_losing_an_attached_server_raises() -> None:
    async def run() -> None:
        async with FakeServer() as server:
            engine = attached(server)
        await collect(engine, [RolloutRequest(prompt(), 1, SAMPLING)])

    with pytest.raises(ServerLostError, match="does not answer"):
        asyncio.run(run())


def test_tokens_older_than_the_weights_that_were_sent_are_an_error() -> None:
    async def run() -> None:
        async with FakeServer(lambda body, k: {"choices": [choice(version="4")]}) as server:
            engine = attached(server)
            engine.version = 5
            await collect(engine, [RolloutRequest(prompt(), 1, SAMPLING)])

    with pytest.raises(WeightSyncError, match="weights 4 though it was given 5"):
        asyncio.run(run())
