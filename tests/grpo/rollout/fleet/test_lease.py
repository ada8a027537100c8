"""A server belongs to one run at a time: who takes it, who keeps it, who is told what."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from grpo.config import ModelSettings, RolloutSettings, ServerSettings
from grpo.rollout.access import TOKEN_VARIABLE
from grpo.rollout.engine import ServerLostError
from grpo.rollout.fleet import lease as module
from grpo.rollout.fleet.lease import Tenant, leased, take
from grpo.rollout.sync.stream import TensorStream
from grpo.rollout.vllm import guard
from grpo.rollout.vllm.attached import AttachedError
from grpo.rollout.vllm.engine import VLLMEngine
from grpo.types import Group, RolloutRequest, Sampling
from tests.fakes import CharDecoder, FakeOpenAI, FakeServer, prompt, serving

SAMPLING = Sampling(max_tokens=16)


def attached(*urls: str, tenant: Tenant | None, **server: object) -> VLLMEngine:
    settings = ServerSettings(urls=list(urls), request_timeout=60, health_timeout=10, **server)  # type: ignore[arg-type]
    rollout = RolloutSettings(server=settings)
    model = ModelSettings(path="unused")
    return VLLMEngine("unused", model, rollout, CharDecoder(), Path("unused"), tenant=tenant)


async def sampled(engine: VLLMEngine, n: int = 1) -> list[Group]:
    requests = [RolloutRequest(prompt(str(i)), 1, SAMPLING) for i in range(n)]
    return [group async for _, group in engine.generate(requests)]


def test_a_second_run_is_refused_with_the_holders_name_and_the_first_keeps_its_lease(tmp_path: Path) -> None:
    first, second = Tenant.of_run(tmp_path / "a"), Tenant.of_run(tmp_path / "b")
    with serving(FakeServer()) as server, leased([server.url], first):  # type: ignore[type-var]
        held = rf"belongs to another run \(.*, process \d+, {tmp_path}/a\)"
        with pytest.raises(AttachedError, match=held), leased([server.url], second):
            pytest.fail("it was given twice")
        take(server.url, first)


def test_what_was_taken_is_given_back_when_another_server_is_refused_and_at_the_end() -> None:
    first, second = Tenant.once("a"), Tenant.once("b")
    with serving(FakeServer()) as one, serving(FakeServer()) as two:  # type: ignore[type-var]
        with leased([two.url], first):
            with pytest.raises(AttachedError, match="belongs to another run"), leased([one.url, two.url], second):
                pytest.fail("it was given twice")
            take(one.url, first)
            take(one.url, first)
        take(two.url, second)


def test_a_killed_run_that_goes_on_at_once_is_not_refused_by_its_own_lease_and_a_copy_of_it_is(tmp_path: Path) -> None:
    with serving(FakeServer()) as server:  # type: ignore[type-var]
        take(server.url, Tenant.of_run(tmp_path / "a"))  # and then it is killed
        take(server.url, Tenant.of_run(tmp_path / "a"))
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / ".run").write_text((tmp_path / "a" / ".run").read_text())
        with pytest.raises(AttachedError, match="belongs to another run"):
            take(server.url, Tenant.of_run(tmp_path / "b"))


def test_a_lease_is_renewed_while_the_event_loop_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.1)
    monkeypatch.setattr(guard, "SECONDS", 2.0)
    with serving(FakeServer()) as server:  # type: ignore[type-var]
        with leased([server.url], Tenant.once("a")):
            time.sleep(4)
            with pytest.raises(AttachedError, match="belongs to another run"):
                take(server.url, Tenant.once("b"))
        take(server.url, Tenant.once("b"))


def test_a_server_without_a_lease_is_refused_unless_it_is_only_sampled_from() -> None:
    with serving(FakeOpenAI()) as server:
        with pytest.raises(AttachedError, match=r"has no /zero/lease \(404\)"), leased([server.url], Tenant.once("a")):
            pytest.fail("there is none")
        with leased([server.url], Tenant.once("a"), optional=True):
            pass


def test_a_wrong_and_a_missing_token_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "right")
    with serving(FakeServer()) as server:  # type: ignore[type-var]
        take(server.url, Tenant.once("a"))
        monkeypatch.setenv(TOKEN_VARIABLE, "wrong")
        with pytest.raises(AttachedError, match="does not take the token in ZERO_SERVER_TOKEN"):
            take(server.url, Tenant.once("a"))
        monkeypatch.delenv(TOKEN_VARIABLE)
        with pytest.raises(AttachedError, match="demands a token"):
            take(server.url, Tenant.once("a"))


def test_a_run_that_lost_its_lease_hears_so_at_its_next_request_and_at_its_next_sync() -> None:
    async def run(sync: bool) -> None:
        mine, other = Tenant.once("mine"), Tenant.once("other")
        async with FakeServer() as server:
            await asyncio.to_thread(take, server.url, mine)
            engine = attached(server.url, tenant=mine)
            await engine.start()
            try:
                await engine.update_weights(TensorStream({}), 1)
                assert (await sampled(engine))[0].completions
                server.guard._lease = None  # it ran out
                await asyncio.to_thread(take, server.url, other)
                asked = len(server.bodies)
                await (engine.update_weights(TensorStream({}), 2) if sync else sampled(engine))
            finally:
                assert len(server.bodies) == asked
                assert server.version == "1"
                await engine.close()

    for sync in (True, False):
        with pytest.raises(ServerLostError, match=r"belongs to another run \(.*, other\): two runs would sample from"):
            asyncio.run(run(sync))


def test_one_of_two_servers_that_another_run_took_is_given_up_and_the_other_goes_on() -> None:
    async def run() -> tuple[list[Group], int, str]:
        mine, other = Tenant.once("mine"), Tenant.once("other")
        async with FakeServer() as one, FakeServer() as two:
            for server in (one, two):
                await asyncio.to_thread(take, server.url, mine)
            engine = attached(one.url, two.url, tenant=mine)
            await engine.start()
            try:
                await engine.update_weights(TensorStream({}), 1)
                two.guard._lease = None
                await asyncio.to_thread(take, two.url, other)
                await engine.update_weights(TensorStream({}), 2)
                return await sampled(engine, 10), len(two.bodies), two.version
            finally:
                await engine.close()

    groups, asked_of_the_other, version = asyncio.run(run())
    assert {v for group in groups for c in group.completions for v in c.versions} == {2}
    assert len(groups) == 10
    assert (asked_of_the_other, version) == (0, "1")


def test_a_server_that_was_started_anew_under_the_same_url_is_never_sampled_from_before_it_has_the_weights() -> None:
    async def run() -> None:
        mine = Tenant.once("mine")
        async with FakeServer() as one, FakeServer() as two:
            port = int(two.url.rpartition(":")[2])
            for server in (one, two):
                await asyncio.to_thread(take, server.url, mine)
            engine = attached(one.url, two.url, tenant=mine)
            await engine.start()
            try:
                await engine.update_weights(TensorStream({}), 3)
                await two._runner.cleanup()
                async with FakeServer(port=port) as anew:
                    assert anew.url == two.url
                    assert anew.version == "default"
                    groups = await sampled(engine, 20)
                    assert {v for group in groups for c in group.completions for v in c.versions} == {3}
                    while not anew.bodies:  # until it is taken back
                        await sampled(engine, 4)
                        await asyncio.sleep(0.05)
                    assert anew.version == "3"
            finally:
                await engine.close()

    asyncio.run(asyncio.wait_for(run(), 240))
