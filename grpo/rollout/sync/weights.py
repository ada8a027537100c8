"""How new weights reach a vLLM server, and how we know that they did.

    staged = transfer.stage(tensors, version)   # the trainer's side: once for each version; the servers go on sampling
    for url in servers:
        push(url, transfer, staged, ...)        # pause -> start -> update -> finish(version) -> resume -> check
    transfer.discard(the one before)

`push` drives vLLM's RL control plane (vllm/entrypoints/rl/online/api_router.py). Pausing with mode=keep
freezes completions in flight and drops all cached keys and values, so what is sampled after `resume` is
sampled by the new weights alone, for old and new requests alike.

A transfer moves the bytes. `ShmTransfer` (here) needs no accelerator: a safetensors file in shared memory,
read by the worker-side engine in `vllm/plugin.py`. Between GPUs, `cuda.py` wraps vLLM's own engines.
"""

from __future__ import annotations

import atexit
import json
import shutil
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import httpx
import torch
import xxhash

from grpo.rollout.engine import RolloutError, ServerLostError, WeightSyncError
from grpo.rollout.vllm.watch import own_name

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}


@dataclass(frozen=True, slots=True)
class Staged:
    """What the trainer is about to send. Example: Staged(version=3, n_bytes=269_000_000, checksum="9f2c...")"""

    version: int
    n_bytes: int
    checksum: str
    path: Path | None = None  # of the file that holds them, if one does
    tensors: Mapping[str, torch.Tensor] | None = None  # themselves, if none does


class Transfer(Protocol):
    """Moves one version's tensors to any number of servers."""

    backend: str  # vLLM's --weight-transfer-config backend

    def stage(self, tensors: Mapping[str, torch.Tensor], version: int) -> Staged:
        """Get these tensors ready to be sent, also after the trainer has changed its own, until they are discarded.

        What was staged before can be sent still.
        """
        ...

    def send(self, control: Control, staged: Staged) -> None:
        """Move staged tensors to one server: start, update, finish. Raises WeightSyncError, ServerLostError."""
        ...

    def discard(self, staged: Staged) -> None:
        """Free what `stage` took for them: they will not be sent any more."""
        ...

    def forget(self, url: str) -> None:
        """The server at `url` is gone: drop what was set up with it."""
        ...

    def close(self) -> None: ...


class Control:
    """vLLM's control plane over HTTP, synchronous: call it in a thread."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        # A connection for each request: after an answer of 500, vLLM's server closes the one it came by.
        fresh = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, limits=fresh)

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def post(self, path: str, body: dict[str, Any] | None = None) -> None:
        self._call("POST", path, body)

    def get(self, path: str, key: str) -> Any:
        """What the JSON at `path` has under `key`."""
        answer = self._call("GET", path, None)
        try:
            return answer.json()[key]
        except (ValueError, KeyError, TypeError) as error:
            raise WeightSyncError(
                f"{self.url} answers {path} with {answer.content[:100]!r}, expected JSON with {key}"
            ) from error

    def weight_version(self) -> int:
        version = self.get("/weight_info", "weight_version")
        try:
            return parse_version(str(version))
        except ValueError as error:
            raise WeightSyncError(f"{self.url} serves weights {version!r}, expected a number, or default") from error

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise ServerLostError(
                f"weight sync with {self.url} is stuck at {path}: no answer within {self.timeout:g} s "
                "(rollout.server.sync_timeout)"
            ) from error
        except httpx.TransportError as error:
            raise ServerLostError(f"{self.url} went away during {path}: {error!r}") from error
        if answer.status_code == 404:
            raise WeightSyncError(
                f"{self.url} has no {path}: start it with VLLM_SERVER_DEV_MODE=1, as `zero serve MODEL` does"
            )
        if answer.is_server_error and not self._healthy():  # the API still answers for an engine that has died
            raise ServerLostError(f"the engine of {self.url} died before {path}: {answer.text[:500]}")
        if answer.is_error:
            raise WeightSyncError(f"{self.url} refused {path} ({answer.status_code}): {answer.text[:2000]}")
        return answer

    def _healthy(self) -> bool:
        try:
            return self._http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False


def parse_version(label: str) -> int:
    """vLLM's label of the served weights as our number; "default" is what it calls weights never updated."""
    return 0 if label == "default" else int(label)


def push(url: str, transfer: Transfer, staged: Staged, timeout: float) -> None:
    """Serve the staged weights at `url`, and check that the server says so. Blocks.

    Completions in flight survive. Raises WeightSyncError, after which the server goes on with what it has, or
    ServerLostError if it dies, or does not answer within `timeout` seconds.
    """
    with Control(url, timeout) as control:
        control.post("/pause?mode=keep")
        try:
            transfer.send(control, staged)
        except WeightSyncError:
            with suppress(RolloutError):  # why they were refused is what counts
                control.post("/resume")  # others may be using the server
            raise
        control.post("/resume")
        served = control.weight_version()
    if served != staged.version:
        raise WeightSyncError(f"{url} says that it serves weights {served} after it was sent {staged.version}")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter as peft saves it. Example: Adapter(version=3, folder=Path("run/adapters/3"))

    The folder must stay as it is while completions may still be using it.
    """

    version: int
    folder: Path

    @property
    def name(self) -> str:
        """What requests call it; a new name for each version, so that no cached key or value is of another one."""
        return f"zero-{self.version}"


def load_adapter(url: str, adapter: Adapter, superseded: Adapter | None, timeout: float) -> None:
    """Make the server ready for requests that name the adapter, and drop one that nobody uses any more. Blocks."""
    with Control(url, timeout) as control:
        control.post("/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter.folder.resolve())})
        if superseded is not None:
            control.post("/v1/unload_lora_adapter", {"lora_name": superseded.name})


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """One digest (XXH3, 128 bits) over names, dtypes, shapes and bytes; the mapping's order does not matter."""
    digest = xxhash.xxh3_128()
    for name in file_order(tensors):
        _hash(digest, name, tensors[name])
    return digest.hexdigest()


def file_order(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """By falling element size, then name: in a file, it keeps every tensor aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _hash(digest: Any, name: str, tensor: torch.Tensor) -> memoryview:
    """Add one tensor to the digest; return its bytes."""
    data = memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    digest.update(f"{name} {DTYPES[tensor.dtype]} {tuple(tensor.shape)}\n".encode())
    digest.update(data)
    return data


class ShmTransfer:
    """Weights through a safetensors file in shared memory, for servers on this machine without CUDA.

    A version's file stays until it is discarded, so that a restarted server can read it. `folders` are where files
    may lie; whoever outlives this process removes them (see `watch.py`).
    """

    backend = "zero_shm"

    def __init__(self) -> None:
        name = own_name()
        roots = [Path("/dev/shm"), Path(tempfile.gettempdir())]
        self.folders = [root / name for root in roots if root.is_dir()]
        atexit.register(self.close)  # should nobody else come to call it; a killed process has its watcher

    def stage(self, tensors: Mapping[str, torch.Tensor], version: int) -> Staged:
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        path = self._folder_with_room(n_bytes) / f"weights-{version}-{uuid4().hex[:8]}.safetensors"
        return Staged(version, n_bytes, write_safetensors(path, tensors), path)

    def send(self, control: Control, staged: Staged) -> None:
        control.post("/start_weight_update")
        update = {"path": str(staged.path), "checksum": staged.checksum}
        control.post("/update_weights", {"update_info": update})
        control.post("/finish_weight_update", {"weight_version": str(staged.version)})

    def discard(self, staged: Staged) -> None:
        if staged.path is not None:
            staged.path.unlink(missing_ok=True)

    def forget(self, url: str) -> None:
        pass  # nothing is set up with a server

    def close(self) -> None:
        atexit.unregister(self.close)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _folder_with_room(self, n_bytes: int) -> Path:
        free = {folder: shutil.disk_usage(folder.parent).free for folder in self.folders}
        for folder, room in free.items():
            if room > 1.02 * n_bytes + 2**20:
                folder.mkdir(mode=0o700, exist_ok=True)
                return folder
        rooms = ", ".join(f"{folder.parent} has {room / 2**20:.0f} MiB" for folder, room in free.items())
        raise WeightSyncError(
            f"no room for {n_bytes / 2**20:.0f} MiB of weights: {rooms} free; "
            "enlarge /dev/shm (docker: --shm-size) or point TMPDIR at a larger disk"
        )


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write tensors one at a time (no second copy of the model in memory); return their checksum.

    Tensors may share memory. Format: https://huggingface.co/docs/safetensors#format
    """
    names = file_order(tensors)
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    digest = xxhash.xxh3_128()
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            remaining = _hash(digest, name, tensors[name])
            while remaining:  # one write takes at most 2 GiB
                remaining = remaining[file.write(remaining) :]
    unfinished.rename(path)
    return digest.hexdigest()
