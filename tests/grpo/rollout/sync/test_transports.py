"""Two real vLLM servers on CPU, attached to, by each transport that needs no GPU: what arrives, and what is refused.

Two server starts, at once; `ipc` and `nccl` need GPUs and skip.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoTokenizer

from grpo.config import ModelSettings, RolloutSettings, ServerSettings
from grpo.policy.adapters import ServedWeights
from grpo.policy.policy import Policy
from grpo.rollout.engine import WeightSyncError
from grpo.rollout.fleet.member import State
from grpo.rollout.sync.buckets import places
from grpo.rollout.sync.collective import CollectiveTransfer
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.digest import checksum, digests_of
from grpo.rollout.sync.group import Group
from grpo.rollout.sync.stream import TensorSpec, TensorStream, WeightStream
from grpo.rollout.sync.weight_file import WeightFile
from grpo.rollout.vllm.engine import VLLMEngine
from grpo.rollout.vllm.server import VLLMServer, build
from tests.conftest import save_qwen3
from tests.grpo.rollout.vllm.test_server import ask, changed, load, request, true_logprobs

pytestmark = pytest.mark.server

TRANSPORTS = [
    "shm",
    "files",
    "gloo",
    pytest.param("nccl", marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")),
    pytest.param("ipc", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")),
]
FLIPPED = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def servers(tiny_model: Path, loop: asyncio.Runner, tmp_path_factory) -> Iterator[list[VLLMServer]]:
    folder = tmp_path_factory.mktemp("servers")
    model = ModelSettings(path=str(tiny_model), dtype="float32")
    both = [build(str(tiny_model), model, settings([], "shm"), folder / f"{i}.log") for i in range(2)]

    async def start() -> None:
        await asyncio.gather(*(server.start() for server in both))

    async def stop() -> None:
        await asyncio.gather(*(server.stop() for server in both))

    loop.run(start())
    yield both
    loop.run(stop())


def settings(urls: list[str], transport: str, **server: Any) -> RolloutSettings:
    its = ServerSettings(urls=urls, weight_transfer=transport, request_timeout=120, **server)
    return RolloutSettings(max_tokens=40, max_prompt_tokens=50, max_sequences=8, server=its)


@pytest.fixture
def attach(
    servers: list[VLLMServer], tiny_model: Path, loop: asyncio.Runner, tmp_path: Path
) -> Iterator[Callable[..., VLLMEngine]]:
    engines: list[VLLMEngine] = []

    def make(transport: str, **server: Any) -> VLLMEngine:
        rollout = settings([server.url for server in servers], transport, **server)
        model, tokenizer = (
            ModelSettings(path=str(tiny_model), dtype="float32"),
            AutoTokenizer.from_pretrained(tiny_model),
        )
        engines.append(VLLMEngine(str(tiny_model), model, rollout, tokenizer, tmp_path))
        loop.run(engines[-1].start())
        return engines[-1]

    threads = set(threading.enumerate())
    yield make
    for engine in engines:
        loop.run(engine.close())
        assert not any(folder.exists() for folder in engine._transfer.folders)
    left = [
        thread for thread in threading.enumerate() if thread not in threads and not thread.name.startswith("asyncio")
    ]
    assert left == []


class Counted:
    """A model's weights, and how often each was read."""

    def __init__(self, stream: WeightStream) -> None:
        self.stream, self.reads = stream, 0

    @property
    def specs(self) -> list[TensorSpec]:
        return list(self.stream.specs)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.stream:
            self.reads += 1
            yield name, tensor


async def check_served(engine: VLLMEngine, folder: Path, seed: int, version: int) -> None:
    """Every server that the engine asks serves the weights of `changed(seed)`; none is paused."""
    model = changed(folder, seed) if seed else load(folder)
    groups = await ask(engine, *[request(folder, f"{i}+{i}=", 2, 20) for i in range(8)])
    for group in groups:
        for completion in group.completions:
            assert set(completion.versions) == {version}
            expected = true_logprobs(model, group.prompt, completion)
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_reading_of_the_weights_serves_them_at_every_server(transport, attach, loop, tiny_model) -> None:
    engine = attach(transport)
    for version, seed in ((1, 11), (2, 12), (3, 11)):
        stream = Counted(ServedWeights(Policy(changed(tiny_model, seed))))
        report = loop.run(engine.update_weights(stream, version))
        assert stream.reads == len(stream.specs)
        assert report.checksum == checksum(stream.specs, digests_of(stream))
        loop.run(check_served(engine, tiny_model, seed, version))


def flip_in_transit(monkeypatch: pytest.MonkeyPatch, engine: VLLMEngine) -> None:
    """One bit of FLIPPED changes after it was hashed and before it arrives."""
    if engine._transfer.name in ("shm", "files"):
        write = WeightFile.write

        def write_and_damage(file: WeightFile, stream: WeightStream) -> list[int]:
            digests = write(file, stream)
            data = bytearray(file.path.read_bytes())
            data[place_of_flip(file.specs)] ^= 1
            file.path.write_bytes(data)
            return digests

        monkeypatch.setattr(WeightFile, "write", write_and_damage)
    else:
        monkeypatch.setattr(Group, "broadcast", damaging(Group.broadcast))


def damaging(broadcast: Callable[..., None]) -> Callable[..., None]:
    def damaged(group: Group, data: torch.Tensor, seconds: float) -> None:
        bucket = data.clone()
        bucket[place_of_flip(collective_specs)] ^= 1
        broadcast(group, bucket, seconds)

    return damaged


collective_specs: list[TensorSpec] = []  # of the one bucket that the tiny model is


def place_of_flip(specs: Sequence[TensorSpec]) -> int:
    starts = dict(zip([spec.name for spec in specs], places(specs)[0], strict=True))
    return starts[FLIPPED] + 5


async def not_paused(engine: VLLMEngine) -> bool:
    paused = []
    for member in engine._fleet.members:
        async with ControlPlane(member.url, 60) as control:
            paused.append(await control.get("/is_paused", "is_paused"))
    return not any(paused)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_bit_flipped_in_transit_is_refused_by_name_and_the_old_weights_are_served(
    transport, attach, loop, tiny_model, monkeypatch
) -> None:
    engine = attach(transport)
    loop.run(engine.update_weights(ServedWeights(Policy(changed(tiny_model, 21))), 1))
    new = ServedWeights(Policy(changed(tiny_model, 22)))
    collective_specs[:] = new.specs
    with monkeypatch.context() as patched:
        flip_in_transit(patched, engine)
        if engine._transfer.name not in ("shm", "files"):
            go_back = engine._fleet._go_back

            async def undamaged(*arguments: Any) -> None:
                patched.undo()  # the one damaged broadcast is over
                await go_back(*arguments)

            patched.setattr(engine._fleet, "_go_back", undamaged)
        with pytest.raises(WeightSyncError, match=rf"checksum mismatch: {FLIPPED} did not arrive as sent"):
            loop.run(engine.update_weights(new, 2))
    assert engine.version == 1
    assert [member.state for member in engine._fleet.members] == [State.SERVING] * 2
    assert loop.run(not_paused(engine))
    loop.run(check_served(engine, tiny_model, 21, 1))
    loop.run(engine.update_weights(new, 2))  # nothing of it stays behind
    loop.run(check_served(engine, tiny_model, 22, 2))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tensor_that_is_missing_is_named_and_the_old_weights_are_served(transport, attach, loop, tiny_model) -> None:
    engine = attach(transport)
    loop.run(engine.update_weights(ServedWeights(Policy(changed(tiny_model, 31))), 1))
    tensors = dict(changed(tiny_model, 32).named_parameters())
    del tensors["model.layers.2.self_attn.k_proj.weight"]
    with pytest.raises(WeightSyncError, match=r"no tensor was sent.*layers\.2\.self_attn\.qkv_proj"):
        loop.run(engine.update_weights(TensorStream(tensors), 2))
    assert loop.run(not_paused(engine))
    loop.run(check_served(engine, tiny_model, 31, 1))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_stands_still_in_a_sync_ends_it_at_its_deadline_and_the_other_serves_on(
    transport, attach, servers, loop, tiny_model, monkeypatch, caplog
) -> None:
    engine = attach(transport, sync_timeout=12, health_timeout=60)
    loop.run(engine.update_weights(ServedWeights(Policy(changed(tiny_model, 41))), 1))
    stopped = engine_process(servers[1])
    stop_when_sending(monkeypatch, engine, stopped)
    started = time.monotonic()
    try:
        loop.run(engine.update_weights(ServedWeights(Policy(changed(tiny_model, 42))), 2))
        seconds = time.monotonic() - started
        assert engine._fleet.members[0].state is State.SERVING
        loop.run(check_served(engine, tiny_model, 42, 2))
        assert engine._fleet.members[1].state is State.LOST
        assert seconds < 12 + 8, "a deadline, and the other server's update"
        stage = r"/update_weights \(receive\)" if transport in ("gloo", "nccl") else r"/update_weights \(check_file\)"
        said = rf"going on without it meanwhile: weight sync with {servers[1].url} is stuck at {stage}: not done within"
        assert re.search(said, caplog.text)
    finally:
        stopped.resume()
    loop.run(until(lambda: engine._fleet.members[1].state is State.SERVING))  # it answers, and got what it missed
    loop.run(check_served(engine, tiny_model, 42, 2))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():  # noqa: ASYNC110  # what it looks at sets no event
            await asyncio.sleep(0.1)


def engine_process(server: VLLMServer) -> psutil.Process:
    assert server._process is not None
    tree = psutil.Process(server._process.pid).children(recursive=True)
    return next(process for process in tree if "EngineCore" in " ".join(process.cmdline()))


def stop_when_sending(monkeypatch: pytest.MonkeyPatch, engine: VLLMEngine, process: psutil.Process) -> None:
    """SIGSTOP, by gloo in the middle of the broadcast, else when it is told to load."""
    if isinstance(engine._transfer, CollectiveTransfer):
        broadcast = Group.broadcast

        def stopping(group: Group, data: torch.Tensor, seconds: float) -> None:
            process.suspend()
            monkeypatch.undo()
            broadcast(group, data, seconds)

        monkeypatch.setattr(Group, "broadcast", stopping)
    else:
        send = engine._transfer.send

        async def stopping_send(controls: Any, staged: Any) -> None:
            process.suspend()
            monkeypatch.undo()
            await send(controls, staged)

        monkeypatch.setattr(engine._transfer, "send", stopping_send)


def test_both_workers_of_a_tensor_parallel_server_get_and_check_every_tensor(
    two_heads: Path, loop, tmp_path, monkeypatch
) -> None:
    """The second worker alone sees the flipped bit: the first, which vLLM asks first, goes back with it."""
    model = ModelSettings(path=str(two_heads), dtype="float32")
    rollout = settings([], "gloo", tensor_parallel=2).model_copy(update={"max_staleness": 1})
    engine = VLLMEngine(str(two_heads), model, rollout, AutoTokenizer.from_pretrained(two_heads), tmp_path)

    async def run() -> None:
        await engine.start()
        await engine.update_weights(ServedWeights(Policy(changed(two_heads, 51))), 1)
        await check_served(engine, two_heads, 51, 1)
        new = ServedWeights(Policy(changed(two_heads, 52)))
        collective_specs[:] = new.specs
        for version in (2, 3):  # twice: no answer of the first time is taken for one of the second
            with monkeypatch.context() as patched:
                flip_in_transit(patched, engine)
                go_back = engine._fleet._go_back

                async def undamaged(*arguments: Any, patched: Any = patched, go_back: Any = go_back) -> None:
                    patched.undo()
                    await go_back(*arguments)

                patched.setattr(engine._fleet, "_go_back", undamaged)
                with pytest.raises(WeightSyncError, match=rf"checksum mismatch: {FLIPPED} did not arrive as sent"):
                    await engine.update_weights(new, version)
            await check_served(engine, two_heads, 51, 1)
        await engine.update_weights(new, 4)
        await check_served(engine, two_heads, 52, 4)

    try:
        loop.run(run())
    finally:
        loop.run(engine.close())


@pytest.fixture
def two_heads(tmp_path: Path) -> Path:
    """The tiny model, of heads that two workers can share."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
    return save_qwen3(tmp_path / "two-heads", **sizes, num_attention_heads=4, num_key_value_heads=2)
