"""Servers that die, stand still, refuse or keep silent: what is noticed, what is replaced, what is asked for again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from eval.ask.client import Answer, EvalClient, Served
from grpo.config import LoraSettings, ModelSettings, RolloutSettings, ServerSettings
from grpo.rollout.engine import RolloutError, ServerLostError, WeightSyncError
from grpo.rollout.sync.choice import transfer_for
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.files import FileTransfer
from grpo.rollout.sync.stream import TensorStream
from grpo.rollout.vllm import client as client_module
from grpo.rollout.vllm import engine as vllm_engine
from grpo.rollout.vllm import supervision
from grpo.rollout.vllm.endpoints import AVOID_SECONDS, Endpoints
from grpo.rollout.vllm.engine import VLLMEngine
from grpo.rollout.vllm.server import Placement, VLLMServer, command_line
from grpo.types import Group, Prompt, RolloutRequest, Sampling
from tests.fakes import STAND_IN, CharDecoder, FakeOpenAI, FakeServer, prompt

pytestmark = pytest.mark.slow

SAMPLING = Sampling(max_tokens=16)
WEIGHTS = {"a": torch.ones(3)}
STREAM = TensorStream(WEIGHTS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_DELAYS", (0.01, 0.01))
    monkeypatch.setattr(supervision, "PAUSE", 0.2)


def attached(*urls: str, **rollout: Any) -> VLLMEngine:
    settings = {"request_timeout": 5, "health_timeout": 3, **rollout.pop("server", {})}
    recipe = RolloutSettings(**rollout, server=ServerSettings(urls=list(urls), **settings))
    return VLLMEngine("unused", ModelSettings(path="unused"), recipe, CharDecoder(), Path("unused"))


def asks(*ns: int) -> list[RolloutRequest]:
    return [RolloutRequest(prompt(str(i)), n, SAMPLING) for i, n in enumerate(ns)]


async def sampled(engine: VLLMEngine, requests: list[RolloutRequest]) -> dict[int, Group]:
    return {index: group async for index, group in engine.generate(requests)}


# -- a server of ours: a program in vLLM's place ---------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VLLMEngine]]:
    """Makes engines with a server of their own, which does what the files in `tmp_path` say (see STAND_IN)."""

    def make(**server: Any) -> VLLMEngine:
        settings = ServerSettings(**{"request_timeout": 20, "health_timeout": 3, "sync_timeout": 60, **server})
        program = VLLMServer([sys.executable, "-c", STAND_IN, str(tmp_path)], os.environ, settings, tmp_path / "log")
        monkeypatch.setattr(vllm_engine, "build", lambda *_: program)
        rollout = RolloutSettings(server=settings)
        return VLLMEngine("unused", ModelSettings(path="unused"), rollout, CharDecoder(), tmp_path)

    yield make
    left = psutil.Process().children(recursive=True)
    assert [process for process in left if str(tmp_path) in " ".join(process.cmdline())] == []


async def served_and_sampled(engine: VLLMEngine) -> tuple[float, dict[int, Group]]:
    """Seconds that an update took, and what was sampled after it."""
    try:
        await engine.start()
        started = time.monotonic()
        report = await engine.update_weights(STREAM, 1)
        seconds = time.monotonic() - started
        assert report.version == engine.version == 1
        return seconds, await sampled(engine, asks(2, 2, 2))
    finally:
        await engine.close()


@pytest.mark.parametrize("fault", ["kill", "stop"])
@pytest.mark.parametrize("moment", ["update", "generate"])
def test_a_server_that_dies_or_stands_still_is_replaced_long_before_any_deadline(tmp_path, own, moment, fault) -> None:
    (tmp_path / moment).write_text(fault)
    engine = own(sync_timeout=600, request_timeout=600)
    started = time.monotonic()
    _, groups = asyncio.run(served_and_sampled(engine))
    assert time.monotonic() - started < 300
    assert engine.restarts == 1
    assert {v for group in groups.values() for c in group.completions for v in c.versions} == {1}
    assert [len(groups[i].completions) for i in range(3)] == [2, 2, 2]


def test_a_server_that_does_not_finish_an_update_within_its_deadline_is_replaced(tmp_path, own) -> None:
    (tmp_path / "update").write_text("hang")
    engine = own(sync_timeout=1.5)
    asyncio.run(served_and_sampled(engine))
    assert engine.restarts == 1


def test_replacing_a_server_that_dies_in_every_update_ends_at_max_restarts(tmp_path, own) -> None:
    engine = own(max_restarts=1)

    async def run() -> None:
        again = asyncio.create_task(keep_writing(tmp_path / "update", "kill"))
        try:
            await served_and_sampled(engine)
        finally:
            again.cancel()

    with pytest.raises(RolloutError, match=r"(?s)died 2 times \(max_restarts is 1\)\. http.*Log: "):
        asyncio.run(run())


async def keep_writing(path: Path, text: str) -> None:
    while True:
        await asyncio.to_thread(path.write_text, text)
        await asyncio.sleep(0.05)


def test_a_busy_server_that_fails_some_checks_but_never_all_in_a_row_is_left_alone() -> None:
    async def run() -> None:
        checks = 0

        def health(_: Any) -> int:
            nonlocal checks
            checks += 1
            return 200 if checks % supervision.CHECKS == 0 else 503

        async with FakeServer() as server:
            server.health = health
            watcher = asyncio.create_task(supervision.watch(server.url, 3))
            while checks < 4 * supervision.CHECKS:
                assert not watcher.done()
                await asyncio.sleep(0.05)
            server.health = lambda _: 503
            assert "answers 503 at /health" in str(await watcher)

    asyncio.run(run())


# -- updates of servers that are not ours ----------------------------------------------------------


def test_a_server_that_refuses_weights_goes_on_with_what_it_has_and_the_refusal_is_what_is_said() -> None:
    async def run() -> list[str]:
        async with FakeServer() as server:
            server.update_status = 500
            engine = attached(server.url)
            await engine.start()
            try:
                with pytest.raises(WeightSyncError, match=r"refused /update_weights \(500\): .*they do not fit"):
                    await engine.update_weights(STREAM, 1)
            finally:
                await engine.close()
            return server.control

    update = ["/pause", "/start_weight_update", "/update_weights"]
    assert asyncio.run(run()) == [*update, "/update_weights", "/finish_weight_update", "/resume"]  # abandoned


def test_an_attached_server_that_dies_in_an_update_is_named_at_once_and_the_others_go_on() -> None:
    async def run() -> tuple[float, dict[int, Group], int]:
        async with FakeServer() as one, FakeServer() as two:
            engine = attached(one.url, two.url, server={"sync_timeout": 60})
            await engine.start()
            try:
                hanging = asyncio.Event()
                two.before_update, two.healthy = hanging.wait, False  # its engine is dead, its answer never comes
                started = time.monotonic()
                await engine.update_weights(STREAM, 1)
                seconds = time.monotonic() - started
                groups = await sampled(engine, asks(*[1] * 8))
                hanging.set()
                one.healthy, two.before_update = False, None
                one.before_update = asyncio.Event().wait
                with pytest.raises(ServerLostError, match=rf"{one.url} answers 503 at /health"):
                    await engine.update_weights(STREAM, 2)
            finally:
                await engine.close()
            return seconds, groups, len(two.bodies)

    seconds, groups, asked_of_the_dead = asyncio.run(run())
    assert seconds < 120
    assert {v for group in groups.values() for c in group.completions for v in c.versions} == {1}
    assert asked_of_the_dead == 0


def test_a_transfer_that_never_returns_does_not_keep_the_process_from_ending(tmp_path) -> None:
    program = """
import asyncio, threading
from pathlib import Path
from grpo.config import ModelSettings, RolloutSettings, ServerSettings
from grpo.rollout.sync.blocking import in_daemon_thread
from grpo.rollout.sync.stream import TensorStream
from grpo.rollout.vllm.engine import VLLMEngine
from tests.fakes import CharDecoder, FakeServer

async def send(controls, staged):
    await in_daemon_thread(threading.Event().wait)  # a collective that nobody joins

async def run():
    async with FakeServer() as server:
        settings = RolloutSettings(server=ServerSettings(urls=[server.url], sync_timeout=1))
        engine = VLLMEngine("unused", ModelSettings(path="unused"), settings, CharDecoder(), Path("unused"))
        engine._transfer.send = send
        await engine.start()
        try:
            await engine.update_weights(TensorStream({}), 1)
        finally:
            await engine.close()

asyncio.run(run())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "is stuck in the middle: not done within 1 s (rollout.server.sync_timeout)" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"<html>", b"[1]", b'{"version": 1}', b'{"weight_version": "v-1"}'])
def test_an_answer_of_another_kind_to_the_control_plane_is_one_error(content: bytes) -> None:
    async def run() -> None:
        async with FakeServer() as server:
            server.weight_info = content
            async with ControlPlane(server.url, 5) as control:
                await control.weight_version()

    with pytest.raises(WeightSyncError, match=r"weight_version|expected a number"):
        asyncio.run(run())


# -- what may be sent again -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["shm", "files", "gloo", "nccl", "ipc"])
@pytest.mark.parametrize(
    ("settings", "kept"), [({"max_staleness": 1}, True), ({"server": {"urls": ["http://a"]}}, True), ({}, False)]
)
def test_weights_are_kept_by_value_exactly_where_they_may_be_sent_again(tmp_path, backend, settings, kept) -> None:
    kept = kept or backend in ("shm", "files")  # what is in a file stays as it is
    transfer = transfer_for(backend, RolloutSettings(**settings), tmp_path, [0])
    try:
        trained = {"a": torch.ones(3)}
        first = transfer.stage(TensorStream(trained), 1)
        trained["a"] += 1  # the next step, half done, when the server dies
        second = transfer.stage(TensorStream(trained), 2)
        assert transfer.keeps == first.kept == kept
        assert [tensor.tolist() for _, tensor in first.stream] == [[1.0] * 3 if kept else [2.0] * 3]
        assert [tensor.tolist() for _, tensor in second.stream] == [[2.0] * 3]
        transfer.discard(first)
        assert len([path for folder in transfer.folders for path in folder.glob("*")]) == (1 if kept else 0)
    finally:
        transfer.close()
    assert not any(folder.exists() for folder in transfer.folders)


# -- adapters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("staleness", [0, 1, 3, 5])
def test_as_many_adapters_are_loaded_as_completions_in_flight_may_use(tmp_path, staleness) -> None:
    from safetensors.torch import save_file

    async def run() -> list[str]:
        async with FakeServer() as server:
            engine = attached(server.url, max_staleness=staleness)
            await engine.start()
            try:
                for version in range(10):
                    (tmp_path / str(version)).mkdir()
                    save_file(WEIGHTS, tmp_path / str(version) / "adapter_model.safetensors")
                    await engine.update_adapter(tmp_path / str(version), version)
            finally:
                await engine.close()
            return server.adapters

    loaded = [int(name.rpartition("-")[2]) for name in asyncio.run(run())]
    # While 9 is served, step 10 trains samples of 9 - staleness and newer; and one to spare.
    assert loaded == list(range(9 - staleness - 1, 10))


def test_a_run_that_goes_on_loads_the_adapter_that_its_attached_server_has_from_before(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file(WEIGHTS, tmp_path / "adapter_model.safetensors")

    async def run() -> list[str]:
        async with FakeServer() as server:
            for _ in range(2):
                engine = attached(server.url)
                await engine.start()
                try:
                    await engine.update_adapter(tmp_path, 3)
                finally:
                    await engine.close()
            return server.adapters

    assert len(set(asyncio.run(run()))) == 2  # vLLM refuses a name that it has


def test_the_server_is_started_for_as_many_adapters_as_are_loaded(tiny_model: Path) -> None:
    for staleness in (0, 1, 3):
        model = ModelSettings(path=str(tiny_model), lora=LoraSettings(sync="adapter"))
        rollout = RolloutSettings(max_staleness=staleness)
        line = command_line(str(tiny_model), model, rollout, Placement((), "shm"))
        assert int(line[line.index("--max-loras") + 1]) == staleness + 2


# -- the choice of a server ------------------------------------------------------------------------


def test_of_several_servers_a_dead_one_fails_one_request_which_another_answers() -> None:
    async def run() -> tuple[Counter[str], dict[int, Group]]:
        tried: Counter[str] = Counter()
        original = Endpoints._answer

        async def counted(self: Endpoints, url: str, *rest: Any) -> bytes:
            tried[url] += 1
            return await original(self, url, *rest)

        async with FakeServer() as one, FakeServer() as two:
            async with FakeServer() as gone:  # while they have their ports: it must have another one
                pass
            engine = attached(gone.url, one.url, two.url)
            await engine.start()
            try:
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr(Endpoints, "_answer", counted)
                    groups = {}
                    for _ in range(10):  # one after the other: what has nothing in flight would be chosen every time
                        groups |= await sampled(engine, asks(1))
                return Counter({"dead": tried[gone.url], "well": tried[one.url] + tried[two.url]}), groups
            finally:
                await engine.close()

    tried, groups = asyncio.run(run())
    assert tried == {"dead": 1 + len(client_module.RETRY_DELAYS), "well": 10}
    assert groups[0].failures == {}


def test_a_request_fails_only_when_every_server_failed_it_in_every_round() -> None:
    async def run(answers: list[int]) -> tuple[list[int], Any]:
        from contextlib import AsyncExitStack

        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(FakeServer(lambda b, k, a=a: a or None)) for a in answers]
            urls = [server.url for server in servers]
            endpoints = await stack.enter_async_context(Endpoints(urls, timeout=60, delays=(0.01, 0.01)))
            body = {"token_ids": [52], "sampling_params": {"n": 1}}
            try:
                outcome: Any = await endpoints.post("/inference/v1/generate", body)
            except ServerLostError as error:
                outcome = error
            return [len(server.bodies) for server in servers], outcome

    asked, outcome = asyncio.run(run([500, 500, 500, 500, 0]))
    assert "choices" in outcome
    assert asked == [1, 1, 1, 1, 1]
    asked, outcome = asyncio.run(run([500, 500]))
    assert isinstance(outcome, ServerLostError)
    assert asked == [3, 3]


def test_a_server_that_failed_is_asked_again_after_a_while() -> None:
    async def run() -> list[int]:
        async with (
            FakeServer(lambda body, k: 500 if k == 0 else None) as one,
            FakeServer() as two,
            Endpoints([one.url, two.url], timeout=60, delays=(0.01,)) as endpoints,
        ):
            body = {"token_ids": [52], "sampling_params": {"n": 1}}
            for _ in range(3):
                await endpoints.post("/inference/v1/generate", body)
            before = len(one.bodies)
            endpoints._failed_at[one.url] -= AVOID_SECONDS
            await endpoints.post("/inference/v1/generate", body)
            return [before, len(one.bodies)]

    assert asyncio.run(run()) == [1, 2]


def test_an_evaluation_goes_on_without_a_server_that_is_lost_at_the_first_attempt() -> None:
    async def run() -> Answer | Any:
        async with FakeOpenAI() as gone:
            pass
        async with (
            FakeOpenAI() as well,
            EvalClient([gone.url, well.url], Served("fake", None, ""), 5, None, delays=()) as client,
        ):
            return await client.complete(Prompt("p", "p", (1, 2), "3"), Sampling(max_tokens=8))

    assert isinstance(asyncio.run(run()), Answer)


# -- groups in parts -------------------------------------------------------------------------------


def test_a_group_larger_than_the_server_takes_is_asked_for_in_parts_and_arrives_as_one() -> None:
    async def run() -> tuple[dict[int, Group], list[int]]:
        async with FakeServer() as server:
            engine = attached(server.url, max_sequences=4)
            await engine.start()
            try:
                return await sampled(engine, asks(10, 3)), [b["sampling_params"]["n"] for b in server.bodies]
            finally:
                await engine.close()

    groups, asked = asyncio.run(run())
    assert [len(groups[i].completions) for i in range(2)] == [10, 3]
    assert sorted(asked) == [2, 3, 4, 4]


def test_a_part_that_came_is_not_asked_for_again_when_another_is_lost_and_no_part_goes_on_unwanted(tmp_path, own):
    """The second of three parts meets a dying server: the first had come by then."""
    engine = own()
    came: list[int] = []
    killed: list[bool] = []

    async def run() -> dict[int, Group]:
        group = client_module.RolloutClient.group

        async def one_at_a_time(self: Any, request: RolloutRequest, adapter: Any) -> Group:
            async with turn:
                if came == [4] and not killed:
                    (tmp_path / "generate").write_text("kill")
                    killed.append(True)
                answer = await group(self, request, adapter)
                came.append(request.n)
                return answer

        turn = asyncio.Lock()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(client_module.RolloutClient, "group", one_at_a_time)
            await engine.start()
            try:
                return await sampled(engine, asks(10))
            finally:
                await engine.close()
                assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()

    engine._fleet.members[0].sequences = 4
    groups = asyncio.run(run())
    assert engine.restarts == 1
    assert len(groups[0].completions) == 10
    assert sorted(came) == [2, 4, 4]


# -- capacity --------------------------------------------------------------------------------------


def test_every_replica_counts_as_capacity_vllms_and_ours(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    program = VLLMServer([], {}, ServerSettings(), tmp_path / "log")
    monkeypatch.setattr(vllm_engine, "build", lambda *_: program)
    monkeypatch.setattr(vllm_engine, "transfer_for", lambda *_: FileTransfer())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)

    def capacities(**server: Any) -> list[int]:
        """Twice what each decodes at once."""
        rollout = RolloutSettings(max_sequences=32, server=ServerSettings(**server))
        engine = VLLMEngine("unused", ModelSettings(path="unused"), rollout, CharDecoder(), tmp_path)
        return [member.capacity for member in engine._fleet.members]

    assert capacities(gpus=[1, 2, 3, 4]) == [4 * 2 * 32]
    assert capacities(gpus=[1, 2, 3, 4], tensor_parallel=2) == [2 * 2 * 32]
    assert capacities(gpus=[1, 2, 3, 4], replicas=2) == [2 * 2 * 32] * 2
    assert capacities(gpus=[1, 2, 3, 4], replicas=2, tensor_parallel=2) == [2 * 32] * 2
    assert capacities(urls=["http://a", "http://b"]) == [2 * 32] * 2
