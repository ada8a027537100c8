"""Several servers of one run: which one is asked, and what is lost with one of them. Nothing is."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from grpo.config import ModelSettings, RolloutSettings, ServerSettings
from grpo.rollout.engine import RolloutError, ServerLostError, WeightSyncError
from grpo.rollout.fleet import attached as attached_module
from grpo.rollout.fleet.attached import Attached
from grpo.rollout.fleet.fleet import choose
from grpo.rollout.fleet.host import Order
from grpo.rollout.fleet.member import State
from grpo.rollout.fleet.placed import Placed
from grpo.rollout.fleet.ray import HostLostError, NoRoomError
from grpo.rollout.sync.stream import TensorStream
from grpo.rollout.vllm import client as client_module
from grpo.rollout.vllm import engine as vllm_engine
from grpo.rollout.vllm import supervision
from grpo.rollout.vllm.engine import VLLMEngine
from grpo.rollout.vllm.server import VLLMServer
from grpo.types import Group, RolloutRequest, Sampling
from tests.fakes import STAND_IN, CharDecoder, FakeServer, choice, prompt

pytestmark = pytest.mark.slow

SAMPLING = Sampling(max_tokens=16)
WEIGHTS = {"a": torch.ones(3)}
STREAM = TensorStream(WEIGHTS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_DELAYS", (0.01, 0.01))
    monkeypatch.setattr(supervision, "PAUSE", 0.1)
    monkeypatch.setattr(attached_module, "RETRY", 0.1)


def make(tmp_path: Path, *urls: str, **settings: Any) -> VLLMEngine:
    server = {"request_timeout": 20, "health_timeout": 3, "sync_timeout": 20, **settings.pop("server", {})}
    rollout = RolloutSettings(**settings, server=ServerSettings(urls=list(urls), **server))
    return VLLMEngine("unused", ModelSettings(path="unused"), rollout, CharDecoder(), tmp_path)


async def sampled(engine: VLLMEngine, *ns: int) -> dict[int, Group]:
    requests = [RolloutRequest(prompt(str(i)), n, SAMPLING) for i, n in enumerate(ns)]
    return {index: group async for index, group in engine.generate(requests)}


def versions(groups: dict[int, Group]) -> set[int]:
    return {v for group in groups.values() for c in group.completions for v in c.versions}


async def eventually(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.05)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(400):
            await test()

    asyncio.run(with_deadline())


# -- the choice --------------------------------------------------------------------------------------


def test_the_choice_has_room_is_the_least_busy_and_avoids_what_it_can() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        members = [Attached(f"http://{i}", draw.randint(1, 8), 1.0) for i in range(draw.randint(1, 4))]
        for member in members:
            member.in_flight = draw.randint(0, member.capacity)
        avoided = [member for member in members if draw.random() < 0.3]
        n = draw.randint(1, 8)
        chosen = choose(members, n, avoided)
        wanted = [member for member in members if member not in avoided] or members
        room = [m for m in wanted if m.in_flight == 0 or m.in_flight + n <= m.capacity]
        assert (chosen is None) == (not room)
        if chosen is not None:
            assert chosen in room
            assert all(chosen.in_flight * m.capacity <= m.in_flight * chosen.capacity for m in room)


def test_no_server_is_asked_for_more_than_it_has_room_for_and_each_says_how_much_that_is(tmp_path: Path) -> None:
    async def test() -> None:
        most: dict[int, int] = {}
        async with FakeServer(lambda body, k: 0.03) as small, FakeServer(lambda body, k: 0.03) as large:
            small.at_once, large.at_once = 2, 8
            engine = make(tmp_path, small.url, large.url)
            await engine.start()
            try:
                members = engine._fleet.members
                assert [member.capacity for member in members] == [4, 16]
                asking = asyncio.create_task(sampled(engine, *[2] * 60))
                while not asking.done():
                    for k, member in enumerate(members):
                        most[k] = max(most.get(k, 0), member.in_flight)
                    await asyncio.sleep(0.001)
                groups = asking.result()
            finally:
                await engine.close()
            assert [len(groups[i].completions) for i in range(60)] == [2] * 60
            assert most == {0: 4, 1: 16}
            assert len(large.bodies) > 2 * len(small.bodies) > 0

    run(test)


# -- attached servers --------------------------------------------------------------------------------


def test_a_lost_server_is_quarantined_and_serves_again_with_the_newest_weights_and_never_with_older_ones(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with FakeServer() as one, FakeServer() as two:
            engine = make(tmp_path, one.url, two.url)
            await engine.start()
            try:
                await engine.update_weights(STREAM, 1)
                two.healthy = False
                await eventually(lambda: engine._fleet.members[1].state is State.LOST)
                two.bodies.clear()
                await engine.update_weights(STREAM, 2)
                assert versions(await sampled(engine, *[1] * 20)) == {2}
                assert (two.bodies, two.version) == ([], "1")
                two.healthy = True
                await eventually(lambda: engine._fleet.members[1].state is State.SERVING)
                assert two.version == "2"
                assert versions(await sampled(engine, *[1] * 20)) == {2}
                assert two.bodies
            finally:
                await engine.close()

    run(test)


def test_what_a_lost_server_was_asked_for_is_asked_of_another_one_and_every_group_is_complete(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeServer() as one:
            two = FakeServer(lambda body, k: 600.0)  # it takes requests and never answers
            async with two:
                engine = make(tmp_path, one.url, two.url)
                await engine.start()
                try:
                    asking = asyncio.create_task(sampled(engine, *[4] * 30))
                    await eventually(lambda: two.bodies)
                    two.healthy = False
                    groups = await asking
                finally:
                    await engine.close()
        assert [(len(groups[i].completions), groups[i].failures) for i in range(30)] == [(4, {})] * 30

    run(test)


def test_losing_the_last_attached_server_ends_the_run_with_its_error(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeServer() as one, FakeServer() as two:
            engine = make(tmp_path, one.url, two.url)
            await engine.start()
            try:
                one.healthy = two.healthy = False
                await eventually(lambda: not engine._fleet._someone_left())
                with pytest.raises(ServerLostError, match="answers 503 at /health"):
                    await sampled(engine, 1)
            finally:
                await engine.close()

    run(test)


def test_a_request_that_one_server_cannot_serve_is_tried_on_each_of_the_others_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            bad = [await stack.enter_async_context(FakeServer(lambda body, k: 500)) for _ in range(2)]
            good = await stack.enter_async_context(FakeServer())
            engine = make(tmp_path, *[server.url for server in bad], good.url)
            await engine.start()
            try:
                groups = await sampled(engine, *[1] * 10)
                assert [group.failures for group in groups.values()] == [{}] * 10
            finally:
                await engine.close()
            engine = make(tmp_path, *[server.url for server in bad])
            for server in bad:
                server.bodies.clear()
            await engine.start()
            try:
                groups = await sampled(engine, 3)
                assert groups[0].failures == {"server_error": 3}
                assert [len(server.bodies) for server in bad] == [1 + len(client_module.RETRY_DELAYS)] * 2
            finally:
                await engine.close()

    run(test)


def test_a_server_that_comes_back_and_refuses_the_weights_is_given_up_while_another_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with FakeServer() as one, FakeServer() as two:
            engine = make(tmp_path, one.url, two.url)
            await engine.start()
            try:
                await engine.update_weights(STREAM, 1)
                two.healthy = False
                await eventually(lambda: engine._fleet.members[1].state is State.LOST)
                two.healthy, two.update_status = True, 500
                await eventually(lambda: engine._fleet.members[1].state is State.GONE)
                assert versions(await sampled(engine, *[1] * 5)) == {1}
            finally:
                await engine.close()

    with caplog.at_level(logging.WARNING):
        run(test)
    assert "is given up: " in caplog.text
    assert "refused /update_weights (500)" in caplog.text


@pytest.mark.parametrize("ends", [True, False])
def test_what_a_server_aborts_is_asked_of_another_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """One that is told to end gives back what is finished, the short ones, and answers a little longer."""
    monkeypatch.setattr(vllm_engine, "ENDING", 0.2)

    def aborting(body: dict[str, Any], k: int) -> dict[str, Any]:
        ending.healthy = not ends
        n = body["sampling_params"]["n"]
        return {"choices": [choice(finish_reason="abort" if i else "stop") for i in range(n)]}

    async def test() -> None:
        async with ending, FakeServer() as other:
            engine = make(tmp_path, ending.url, other.url)
            await engine.start()
            try:
                groups = await sampled(engine, *[4] * 8)
                assert [(len(group.completions), group.failures) for group in groups.values()] == [(4, {})] * 8
                assert ending.bodies
            finally:
                await engine.close()

    ending = FakeServer(aborting)
    run(test)


def test_what_the_only_server_aborts_fails_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "ENDING", 0.0)
    answer = {"choices": [choice(), choice(finish_reason="abort")]}

    async def test() -> None:
        async with FakeServer(lambda body, k: answer) as only:
            engine = make(tmp_path, only.url)
            await engine.start()
            try:
                (group,) = (await sampled(engine, 2)).values()
                assert (group.completions, group.failures) == ((), {"server_error": 2})
            finally:
                await engine.close()

    run(test)


def test_weights_that_one_of_two_servers_refuses_end_the_run(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeServer() as one, FakeServer() as two:
            engine = make(tmp_path, one.url, two.url)
            await engine.start()
            try:
                two.update_status = 500
                with pytest.raises(WeightSyncError, match="refused /update_weights"):
                    await engine.update_weights(STREAM, 1)
                with pytest.raises(WeightSyncError, match="refused /update_weights"):
                    await sampled(engine, 1)
            finally:
                await engine.close()

    run(test)


def test_weights_that_do_not_last_are_given_to_a_server_that_is_back_at_the_next_sync_or_when_nobody_else_serves(
    tmp_path: Path,
) -> None:
    """They are the trainer's own tensors, which change while a step trains."""

    async def test() -> None:
        async with FakeServer() as one, FakeServer() as two:
            engine = make(tmp_path, one.url, two.url)
            engine._fleet._lasting = False
            await engine.start()
            try:
                await engine.update_weights(STREAM, 1)
                for expected in (2, 2):
                    two.healthy = False
                    await eventually(lambda: engine._fleet.members[1].state is State.LOST)
                    two.healthy = True
                    await eventually(lambda: engine._fleet.members[1].state is State.READY)
                    await sampled(engine, *[1] * 5)
                    assert engine._fleet.members[1].state is State.READY
                    if engine.version < expected:
                        await engine.update_weights(STREAM, expected)
                        assert two.version == str(expected)
                        assert engine._fleet.members[1].state is State.SERVING
                two.version = "older"
                one.healthy = False
                await eventually(lambda: engine._fleet.members[0].state is State.LOST)
                assert engine._fleet.members[1].state is State.READY
                assert versions(await sampled(engine, *[1] * 5)) == {2}
            finally:
                await engine.close()

    run(test)


# -- children: programs in vLLM's place ---------------------------------------------------------------


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VLLMEngine]]:
    """Makes engines with several servers, the k-th of which does what the files in tmp_path/k say (see STAND_IN)."""

    def build(*arguments: Any) -> VLLMServer:
        k, settings = arguments[-1], arguments[2].server
        (tmp_path / str(k)).mkdir(exist_ok=True)
        program = [sys.executable, "-c", STAND_IN, str(tmp_path / str(k))]
        return VLLMServer(program, os.environ, settings, tmp_path / f"log-{k}")

    monkeypatch.setattr(vllm_engine, "build", build)
    yield lambda n, **settings: make(tmp_path, server={"replicas": n, **settings})
    left = psutil.Process().children(recursive=True)
    assert [process for process in left if str(tmp_path) in " ".join(process.cmdline())] == []


def strike(engine: VLLMEngine, k: int, number: signal.Signals) -> None:
    server = engine._fleet.members[k].server
    assert server is not None
    assert server._process is not None
    leaf = psutil.Process(server._process.pid).children(recursive=True)[-1]
    leaf.send_signal(number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_that_is_lost_is_replaced_while_the_other_goes_on_and_has_the_newest_weights_before_it_is_asked(
    tmp_path: Path, children: Callable[..., VLLMEngine], number: signal.Signals
) -> None:
    async def test() -> None:
        engine = children(2)
        await engine.start()
        try:
            await engine.update_weights(STREAM, 1)
            server, may_start = engine._fleet.members[0].server, asyncio.Event()
            assert server is not None
            restart = server.restart

            async def slow(lost: ServerLostError) -> None:
                await may_start.wait()
                await restart(lost)

            server.restart = slow  # type: ignore[method-assign]
            strike(engine, 0, number)
            groups = await sampled(engine, *[2] * 40)
            assert [(len(groups[i].completions), groups[i].failures) for i in range(40)] == [(2, {})] * 40
            await eventually(lambda: engine._fleet.members[0].state is State.LOST)
            await engine.update_weights(STREAM, 2)  # does not wait for it
            assert engine._fleet.members[0].state is State.LOST
            may_start.set()
            await eventually(lambda: engine._fleet.members[0].state is State.SERVING)
            assert engine.restarts == 1
            strike(engine, 1, signal.SIGKILL)  # now the first one alone
            assert versions(await sampled(engine, *[2] * 10)) == {2}
        finally:
            await engine.close()

    run(test)


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_child_that_is_lost_over_an_update_does_not_hold_the_others_up(
    tmp_path: Path, children: Callable[..., VLLMEngine], fault: str
) -> None:
    async def test() -> None:
        engine = children(2, sync_timeout=4)
        await engine.start()
        try:
            (tmp_path / "0" / "update").write_text(fault)
            started = time.monotonic()
            await engine.update_weights(STREAM, 1)
            assert time.monotonic() - started < 60
            assert versions(await sampled(engine, *[2] * 10)) == {1}
            await eventually(lambda: engine._fleet.members[0].state is State.SERVING)
        finally:
            await engine.close()

    run(test)


def test_the_only_child_lost_over_weights_that_do_not_last_is_replaced_and_given_them(
    tmp_path: Path, children: Callable[..., VLLMEngine]
) -> None:
    """The trainer, whose tensors they are, waits for it, and asks for no sample before."""

    async def test() -> None:
        engine = children(1)
        engine._fleet._lasting = False
        await engine.start()
        try:
            (tmp_path / "0" / "update").write_text("kill")
            await asyncio.wait_for(engine.update_weights(STREAM, 1), 240)
            assert versions(await sampled(engine, *[2] * 10)) == {1}
            assert engine.restarts == 1
        finally:
            await engine.close()

    run(test)


def test_a_child_that_dies_too_often_is_done_without_and_the_last_one_ends_the_run(
    tmp_path: Path, children: Callable[..., VLLMEngine]
) -> None:
    async def test() -> None:
        engine = children(2, max_restarts=0)
        await engine.start()
        try:
            strike(engine, 0, signal.SIGKILL)
            assert len(await sampled(engine, *[1] * 5)) == 5
            await eventually(lambda: engine._fleet.members[0].state is State.GONE)
            assert len(await sampled(engine, *[1] * 5)) == 5
            strike(engine, 1, signal.SIGKILL)
            with pytest.raises(RolloutError, match=r"(?s)died 1 times \(max_restarts is 0\).*log-1"):
                await sampled(engine, *[1] * 5)
        finally:
            await engine.close()

    run(test)


def test_when_one_child_does_not_start_the_other_is_stopped(
    tmp_path: Path, children: Callable[..., VLLMEngine]
) -> None:
    async def test() -> None:
        engine = children(2)
        first = engine._fleet.members[0].server
        assert first is not None
        first._command = ["sh", "-c", "echo no memory; exit 1", "sh"]
        with pytest.raises(RolloutError, match=r"(?s)ended while it was starting.*no memory"):
            await engine.start()
        await engine.close()

    run(test)


def test_a_child_that_stands_still_while_it_starts_is_noticed_long_before_start_timeout(
    tmp_path: Path, children: Callable[..., VLLMEngine]
) -> None:
    async def test() -> None:
        engine = children(1, health_timeout=1)
        server = engine._fleet.members[0].server
        assert server is not None
        server._command = ["sh", "-c", "kill -STOP $$", "sh"]
        started = time.monotonic()
        with pytest.raises(RolloutError, match=r"stands still: its process .* is stopped while it starts"):
            await engine.start()
        assert time.monotonic() - started < 120
        await engine.close()

    run(test)


# -- a server of a cluster ---------------------------------------------------------------------------


class NoMachine(Attached):
    """Placed by Ray, for which no machine is left."""

    async def start(self) -> None:
        raise NoRoomError("no machine had room for server 2 (1 CPU)")


def test_a_server_that_no_machine_has_room_for_is_done_without_unless_it_is_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with FakeServer(lambda body, k: 0.0) as left:
            engine = make(tmp_path, left.url, "http://127.0.0.1:1")
            engine._fleet.members[1] = absent = NoMachine("http://127.0.0.1:1", 1, 1.0)
            await engine.start()
            try:
                assert absent.state is State.GONE
                assert "going on without a server: no machine had room" in caplog.text
                await engine.update_weights(STREAM, 1)
                assert len(await sampled(engine, *[2] * 8)) == 8
            finally:
                await engine.close()
        alone = make(tmp_path, "http://127.0.0.1:1")
        alone._fleet.members[:] = [NoMachine("http://127.0.0.1:1", 1, 1.0)]
        with pytest.raises(NoRoomError, match="no machine had room"):
            await alone.start()
        await alone.close()

    run(test)


def test_the_log_of_a_placed_server_is_kept_whatever_came_between(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "logs").touch()  # a folder is expected there
    order = Order("m", ModelSettings(path="m"), RolloutSettings(), {}, tmp_path / "logs" / "server.log")
    room = SimpleNamespace(first_server=1, bundles=[{}, {}])

    class Log:
        """The actor's method: two lines, and once the actor is not heard of between them."""

        heard = False

        async def remote(self, since: int) -> bytes:
            if since == 4 and not self.heard:
                self.heard = True
                raise HostLostError("not heard of")
            return b"one\ntwo\n"[since : since + 4]

    async def test() -> None:
        placed = Placed(room, 1, order)  # type: ignore[arg-type]
        placed._host = SimpleNamespace(log=Log())
        copying = asyncio.create_task(placed._copy_log())
        await eventually(lambda: "Not a directory" in caplog.text)
        (tmp_path / "logs").unlink()
        (tmp_path / "logs").mkdir()
        await eventually(lambda: order.log_file.exists() and order.log_file.read_text() == "one\ntwo\n")
        assert "not heard of" in caplog.text
        copying.cancel()

    run(test)
