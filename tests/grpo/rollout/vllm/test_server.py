"""The real vLLM server on CPU: weights arrive, completions survive updates and deaths, nothing is left behind.

Seven server starts, each about 40 s on two free cores; the tests of one server run in the order written.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from grpo.config import LoraSettings, ModelError, ModelSettings, RolloutSettings, ServerSettings
from grpo.policy.adapters import ServedWeights
from grpo.policy.policy import Policy
from grpo.rollout.engine import RolloutError, WeightSyncError
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.stream import TensorStream
from grpo.rollout.sync.transfer import Staged
from grpo.rollout.vllm.engine import VLLMEngine
from grpo.rollout.vllm.server import Placement, VLLMServer, build, command_line, environment, pick_port, place
from grpo.types import Completion, Group, Prompt, RolloutRequest, Sampling

pytestmark = pytest.mark.server

LONG = 400  # tokens: several seconds of decoding

SERVE = """
import sys
from pathlib import Path
from grpo.config import ModelSettings, RolloutSettings
from grpo.rollout.vllm.serve import serve
folder, port, log = sys.argv[1:]
rollout = RolloutSettings(max_tokens=400, max_prompt_tokens=50, max_sequences=32)
serve(folder, int(port), ModelSettings(path=folder, dtype="float32"), rollout, Path(log))
"""


def rollout_settings(**server: object) -> RolloutSettings:
    return RolloutSettings(
        max_tokens=LONG, max_prompt_tokens=50, max_sequences=32, server=ServerSettings(**server, request_timeout=120)
    )


def make_engine(folder: Path, run_dir: Path, **server: object) -> VLLMEngine:
    model = ModelSettings(path=str(folder), dtype="float32")
    return VLLMEngine(str(folder), model, rollout_settings(**server), AutoTokenizer.from_pretrained(folder), run_dir)


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def changed(folder: Path, seed: int) -> PreTrainedModel:
    """The model with every weight moved, the norms' too."""
    model, noise = load(folder), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=noise)
    return model


def request(folder: Path, text: str, n: int, max_tokens: int, temperature: float = 1.0) -> RolloutRequest:
    ids = tuple(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
    return RolloutRequest(Prompt(id=text, text=text, token_ids=ids, answer=""), n, Sampling(max_tokens, temperature))


@torch.no_grad()
def true_logprobs(
    model: PreTrainedModel, prompt: Prompt, completion: Completion, temperature: float = 1.0
) -> torch.Tensor:
    ids = torch.tensor([prompt.token_ids + completion.token_ids])
    logits = model(ids).logits[0, len(prompt.token_ids) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]


async def ask(engine: VLLMEngine, *requests: RolloutRequest) -> list[Group]:
    groups = {index: group async for index, group in engine.generate(requests)}
    assert sorted(groups) == list(range(len(requests)))
    return [groups[index] for index in range(len(requests))]


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while alive := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > deadline:
            return alive
        time.sleep(0.1)
    return []


# -- without vLLM -------------------------------------------------------------------------------------------


def shell_server(script: str, log: Path, **server: object) -> VLLMServer:
    return VLLMServer(["sh", "-c", script, "sh"], {"PATH": "/usr/bin:/bin"}, ServerSettings(**server), log)


def test_a_server_that_ends_while_starting_is_reported_at_once_with_its_log(tmp_path: Path) -> None:
    warning = "(APIServer pid=1) WARNING 11-27: this can cause errors like `OSError: [Errno 24]`"
    script = f"echo '{warning}'; echo 'RuntimeError: out of memory'; for i in $(seq 40); do echo line $i; done; exit 1"
    server = shell_server(script, tmp_path / "logs" / "server.log")
    started = time.monotonic()
    with pytest.raises(RolloutError, match=r"(?s)ended while it.*which ends:\nRuntimeError: out of memory\n.*line 40"):
        asyncio.run(server.start())
    assert time.monotonic() - started < 120


def test_a_server_that_never_gets_healthy_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    server = shell_server("echo still loading; sleep 600", tmp_path / "server.log", start_timeout=1)
    with pytest.raises(RolloutError, match=r"(?s)not healthy after 1 s.*still loading"):
        asyncio.run(server.start())
    assert not server.alive()


def test_a_missing_model_folder_and_a_busy_port_are_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no_such_folder is not a folder; expected a transformers checkpoint folder"):
        build(str(tmp_path / "no_such_folder"), ModelSettings(path="x"), rollout_settings(), tmp_path / "log")
    port = pick_port(0)
    with subprocess.Popen([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]) as other:
        while not psutil.Process(other.pid).net_connections("tcp"):
            time.sleep(0.05)
        server = shell_server("echo started", tmp_path / "log", port=port)
        with pytest.raises(RolloutError, match=f"port {port} on 127.0.0.1 is busy"):
            asyncio.run(server.start())
        other.kill()
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("n_gpus", "tensor_parallel", "copies"),
    [(0, 1, 1), (0, 2, 1), (1, 1, 1), (8, 1, 7), (5, 2, 2)],  # GPU 0 is the trainer's, where there are others
)
def test_a_placement_counts_the_copies_that_vllm_is_told_to_run(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, n_gpus: int, tensor_parallel: int, copies: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    model, rollout = ModelSettings(path=str(tiny_model)), rollout_settings(tensor_parallel=tensor_parallel)
    where = place(rollout.server)
    assert where.data_parallel == copies
    if n_gpus:
        line = command_line(str(tiny_model), model, rollout, where)
        assert line[line.index("--data-parallel-size") + 1] == str(copies)


def test_servers_divide_the_gpus_and_vllms_data_parallel_copies_are_those_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 9)
    where = place(ServerSettings(replicas=2, tensor_parallel=2))
    shares = [where.share(k, 2) for k in range(2)]
    assert [(share.gpus, share.data_parallel) for share in shares] == [((1, 2, 3, 4), 2), ((5, 6, 7, 8), 2)]
    with pytest.raises(
        RolloutError, match=r"replicas 3: the number of the server's GPUs must be a multiple of 6, got 8"
    ):
        place(ServerSettings(replicas=3, tensor_parallel=2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert [place(ServerSettings(replicas=2)).share(k, 2).gpus for k in range(2)] == [(), ()]


def test_a_server_that_nobody_trains_with_takes_every_gpu_and_weights_as_a_run_will_send_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for n_gpus in (0, 1, 2, 8):
        monkeypatch.setattr(torch.cuda, "device_count", lambda n_gpus=n_gpus: n_gpus)
        alone = place(ServerSettings(), alone=True)
        assert (alone.gpus, alone.data_parallel) == (tuple(range(n_gpus)), max(1, n_gpus))
        assert alone.backend == place(ServerSettings()).backend
    assert place(ServerSettings(gpus=[3, 4]), alone=True).gpus == (3, 4)


@pytest.mark.parametrize(
    ("ours", "gpus", "seen"),
    [(None, (0, 1), "0,1"), ("", (0,), "0"), ("2,3", (1,), "3"), ("GPU-a1, GPU-b2", (0, 1), "GPU-a1,GPU-b2")],
)
def test_a_server_sees_the_gpus_that_were_meant_where_the_trainer_sees_only_some(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, ours: str | None, gpus: tuple[int, ...], seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if ours is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
    env = environment(str(tiny_model), rollout_settings(), Placement(gpus, "ipc"))
    assert env["CUDA_VISIBLE_DEVICES"] == seen


def test_a_killed_parent_leaves_neither_stubborn_processes_nor_files_in_shared_memory(tmp_path: Path) -> None:
    parent = """
import asyncio, sys
from pathlib import Path
from grpo.config import ServerSettings
from grpo.rollout.vllm.server import VLLMServer
folder = Path(sys.argv[1])
inner = "trap '' TERM; echo ready; sleep 600; sleep 600"
script = f"trap '' TERM INT HUP; setsid sh -c \\"{inner}\\" & sleep 600; sleep 600"
command, env = ["sh", "-c", script], {"PATH": "/usr/bin:/bin"}
server = VLLMServer(command, env, ServerSettings(), folder.parent / "log", [folder])
asyncio.run(server.start())
"""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "1.safetensors").write_bytes(b"...")
    with subprocess.Popen([sys.executable, "-c", parent, str(weights)]) as process:
        while not (tmp_path / "log").exists() or "ready" not in (tmp_path / "log").read_text():
            time.sleep(0.1)
        tree = psutil.Process(process.pid).children(recursive=True)
        assert len(tree) >= 4
        process.kill()
    assert wait_until_gone(tree, 20) == []
    assert not weights.exists()


# -- a server that somebody else runs (`zero serve`) --------------------------------------------------------


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = pick_port(0)
    log = tmp_path_factory.mktemp("serve") / "server.log"
    line = [sys.executable, "-c", SERVE, str(tiny_model), str(port), str(log)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("serving" in printed for printed in process.stdout), log.read_text()[-3000:]
        yield process, f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(
    served: tuple[subprocess.Popen[str], str], tiny_model: Path, loop: asyncio.Runner, tmp_path_factory
) -> Iterator[VLLMEngine]:
    attached = make_engine(tiny_model, tmp_path_factory.mktemp("run"), urls=[served[1]])
    loop.run(attached.start())
    yield attached
    loop.run(attached.close())


def test_new_weights_are_served_greedy_output_and_log_probs_match_transformers(
    engine: VLLMEngine, loop: asyncio.Runner, tiny_model: Path
) -> None:
    greedy = request(tiny_model, "12+30=", 1, 40, temperature=0.0)
    for version, model in enumerate([load(tiny_model), changed(tiny_model, 1), changed(tiny_model, 2)]):
        if version:
            report = loop.run(engine.update_weights(ServedWeights(Policy(model)), version))
            assert report.version == engine.version == version
            assert report.n_bytes == 4 * sum(p.numel() for p in model.parameters())
        (group,) = loop.run(ask(engine, greedy))
        (completion,) = group.completions
        ids = torch.tensor([greedy.prompt.token_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        assert completion.token_ids == tuple(expected[0, ids.shape[1] :].tolist())
        assert completion.versions == (version,) * len(completion.token_ids)
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), true_logprobs(model, greedy.prompt, completion), atol=1e-3, rtol=0
        )


def test_log_probs_are_those_of_the_distribution_after_temperature(
    engine: VLLMEngine, loop: asyncio.Runner, tiny_model: Path
) -> None:
    (group,) = loop.run(ask(engine, request(tiny_model, "7*6=", 4, 30, temperature=0.6)))
    assert len({completion.token_ids for completion in group.completions}) > 1
    model = changed(tiny_model, 2)
    for completion in group.completions:
        expected = true_logprobs(model, group.prompt, completion, temperature=0.6)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-3, rtol=0)


def test_completions_in_flight_survive_an_update_and_each_token_is_of_its_version(
    engine: VLLMEngine, loop: asyncio.Runner, tiny_model: Path
) -> None:
    old, new = changed(tiny_model, 2), changed(tiny_model, 3)

    async def update_in_the_middle() -> list[Group]:
        asking = asyncio.create_task(ask(engine, *[request(tiny_model, f"{i}+{i}=", 8, LONG) for i in range(4)]))
        await asyncio.sleep(1)
        await engine.update_weights(ServedWeights(Policy(new)), 3)
        return await asking

    groups = loop.run(update_in_the_middle())
    assert [len(group.completions) for group in groups] == [8] * 4
    both = [(g.prompt, c) for g in groups for c in g.completions if set(c.versions) == {2, 3}]
    assert both, "no completion was in flight during the update"
    for prompt, completion in both[:8]:
        first_new = completion.versions.index(3)
        assert completion.versions == (2,) * first_new + (3,) * (len(completion.versions) - first_new)
        served = torch.tensor(completion.logprobs)
        before, after = (true_logprobs(model, prompt, completion) for model in (old, new))
        torch.testing.assert_close(served[:first_new], before[:first_new], atol=1e-3, rtol=0)
        # Also what was written before the update is read with the new weights: no old keys and values are left.
        torch.testing.assert_close(served[first_new:], after[first_new:], atol=1e-3, rtol=0)


def test_a_missing_tensor_is_named_even_if_it_is_a_part_of_a_fused_layer(
    engine: VLLMEngine, loop: asyncio.Runner, tiny_model: Path
) -> None:
    tensors = dict(load(tiny_model).named_parameters())
    del tensors["model.layers.2.self_attn.k_proj.weight"]
    with pytest.raises(WeightSyncError, match=r"no tensor was sent.*layers\.2\.self_attn\.qkv_proj"):
        loop.run(engine.update_weights(TensorStream(tensors), 5))


def test_killing_the_parent_leaves_no_process_no_file_and_no_semaphore(
    engine: VLLMEngine, served: tuple[subprocess.Popen[str], str]
) -> None:
    parent = psutil.Process(served[0].pid)
    tree = parent.children(recursive=True)
    assert len(tree) >= 4  # two watchers, the API server, the engine
    sockets = Path(tree[1].environ()["VLLM_RPC_BASE_PATH"])
    assert any(path.is_socket() for path in sockets.iterdir())
    assert any(path.name.startswith("vllm_dist_") for path in sockets.iterdir())
    assert all(process.environ()["TMPDIR"] == str(sockets) for process in tree)  # also of one that renamed itself
    shared = [Path("/dev/shm", name) for name in (sockets / "shared_memory").read_text().split()]
    assert any(path.name.startswith("sem.") for path in shared)
    parent.send_signal(signal.SIGKILL)
    assert wait_until_gone(tree, 20) == []
    assert not sockets.exists()
    assert not any(path.exists() for path in shared)


# -- servers of our own ------------------------------------------------------------------------------------


def server_process(engine: VLLMEngine, name: str) -> psutil.Process:
    server = engine._fleet.members[0].server
    assert server is not None
    assert server._process is not None
    tree = psutil.Process(server._process.pid).children(recursive=True)
    return next(process for process in tree if name in " ".join(process.cmdline()))


def stop_the_engine_in_the_next_update(engine: VLLMEngine) -> None:
    """SIGSTOP while weights are being sent. One that dies then: test_recovery.py."""
    send = engine._transfer.send

    async def struck(controls: Sequence[ControlPlane], staged: Staged) -> None:
        engine._transfer.send = send
        server_process(engine, "EngineCore").send_signal(signal.SIGSTOP)
        await send(controls, staged)

    engine._transfer.send = struck


def test_a_server_killed_or_stopped_in_mid_generate_or_mid_update_is_replaced_and_every_group_has_the_newest_weights(
    tiny_model: Path, loop: asyncio.Runner, tmp_path: Path
) -> None:
    engine = make_engine(tiny_model, tmp_path, max_restarts=2)
    model = changed(tiny_model, 7)
    requests = [request(tiny_model, f"{i}-{i}=", 4, LONG) for i in range(16)]

    async def kill(name: str) -> list[Group]:
        asking = asyncio.create_task(ask(engine, *requests))
        await asyncio.sleep(1)
        server_process(engine, name).kill()
        return await asking

    async def run() -> list[Group]:
        await engine.start()
        stop_the_engine_in_the_next_update(engine)
        report = await engine.update_weights(ServedWeights(Policy(model)), 7)
        assert report.seconds < engine._settings.sync_timeout / 2
        assert engine.restarts == 1
        groups = await kill("EngineCore")
        assert engine.restarts == 2
        with pytest.raises(RolloutError, match=r"(?s)died 3 times.*max_restarts is 2.*Log: .*server.log"):
            await kill("api_server")
        return groups

    try:
        groups = loop.run(run())
    finally:
        loop.run(engine.close())
    assert [(len(group.completions), group.failures) for group in groups] == [(4, {})] * 16
    assert {version for group in groups for c in group.completions for version in c.versions} == {7}
    for group in groups:
        expected = true_logprobs(model, group.prompt, group.completions[0])
        torch.testing.assert_close(torch.tensor(group.completions[0].logprobs), expected, atol=1e-3, rtol=0)
    assert not any(folder.exists() for folder in engine._transfer.folders)


def test_an_adapter_alone_is_served_and_its_log_probs_are_those_of_peft(
    tiny_model: Path, loop: asyncio.Runner, tmp_path: Path
) -> None:
    lora = LoraSettings(r=4, sync="adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    settings = ModelSettings(path=str(tiny_model), dtype="float32", lora=lora)
    engine = VLLMEngine(str(tiny_model), settings, rollout_settings(), tokenizer, tmp_path)
    asked = request(tiny_model, "12+30=", 4, 40)

    async def run() -> None:
        await engine.start()
        for version in (0, 1, 2, 3, 4):
            model = adapted(tiny_model, lora, seed=version) if version else load(tiny_model)
            if version:
                model.save_pretrained(tmp_path / str(version))
                report = await engine.update_adapter(tmp_path / str(version), version)
                assert report.version == version
            (group,) = await ask(engine, asked)
            assert {v for completion in group.completions for v in completion.versions} == {version}
            for completion in group.completions:
                expected = true_logprobs(model, asked.prompt, completion)
                torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-3, rtol=0)

    try:
        loop.run(run())
    finally:
        loop.run(engine.close())


def adapted(folder: Path, lora: LoraSettings, seed: int) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=lora.r, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(load(folder), config)
