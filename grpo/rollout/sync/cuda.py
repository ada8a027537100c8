"""Weights to servers on GPUs, through vLLM's own trainer-side engines: `nccl` (other GPUs), `ipc` (the same GPU).

Written from vLLM 0.32's vllm/distributed/weight_transfer/{nccl_engine,ipc_engine,clients}.py. They move
tensors from GPU to GPU, so there is no file to hash: `Staged.checksum` says so, and what is checked is the
version that the server answers, and vLLM's own check that names, dtypes and shapes agree on both sides.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from grpo.rollout.sync.blocking import in_daemon_thread
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.transfer import Staged

Result = TypeVar("Result")


class MappingSource(WeightSource):
    """Tensors as vLLM's engines read them; `tensors` changes from one update to the next."""

    def __init__(self, device: torch.device) -> None:
        self.device = device  # that they are sent from
        self.tensors: Mapping[str, torch.Tensor] = {}

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.tensors.items():
            yield name, tensor.detach().to(self.device)


class Client(HTTPVLLMWeightSyncClient):
    """vLLM's client, over our control plane (its deadlines, its errors), naming the version at the end.

    vLLM calls it in a thread; the requests are made in the event loop, `loop`.
    """

    def __init__(self, control: ControlPlane, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(control.url)
        self.control, self.loop = control, loop
        self.version = 0

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        super().finish_weight_update(weight_version or str(self.version))

    def _post(self, path: str, json: dict[str, Any] | None = None) -> None:
        asyncio.run_coroutine_threadsafe(self.control.post(f"/{path}", json), self.loop).result()


@dataclass(slots=True)
class Connection:
    """What is set up with one server."""

    client: Client
    source: MappingSource
    engine: TrainerWeightTransferEngine
    sending: bool = False


class CudaTransfer:
    """A `Transfer` over one of vLLM's engines.

    Args:
        backend: "nccl" or "ipc".
        keep: whether what was staged may be sent again after the trainer has changed its tensors: then they are
            copied, to the host's memory. Else they are read where they are.
    """

    def __init__(self, backend: str, keep: bool) -> None:
        self.backend = backend
        self._keep = keep
        self._device = torch.device("cuda")  # the trainer's
        self._connections: dict[str, Connection] = {}  # by url

    def stage(self, tensors: Mapping[str, torch.Tensor], version: int) -> Staged:
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self._device = next(iter(tensors.values())).device
        if self._keep:
            tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        checksum = f"none ({self.backend} checks names, dtypes and shapes)"
        return Staged(version, n_bytes, checksum, tensors=tensors)

    async def send(self, control: ControlPlane, staged: Staged) -> None:
        assert staged.tensors is not None
        if control.url not in self._connections:
            self._connections[control.url] = await self._connect(control, staged.tensors)
        connection = self._connections[control.url]
        connection.client.control, connection.client.version = control, staged.version
        connection.source.tensors = staged.tensors
        connection.sending = True
        try:
            await in_daemon_thread(on_device, self._device, connection.engine.send_weights)
        finally:
            connection.sending = False

    def discard(self, staged: Staged) -> None:
        pass  # they go with their last reference

    def forget(self, url: str) -> None:
        connection = self._connections.pop(url, None)
        # A thread may be stuck in a transfer that broke: destroying what it uses would wait for it, or crash.
        if connection is not None and not connection.sending:
            connection.engine.shutdown()

    def close(self) -> None:
        for url in list(self._connections):
            self.forget(url)

    async def _connect(self, control: ControlPlane, tensors: Mapping[str, torch.Tensor]) -> Connection:
        client, source = Client(control, asyncio.get_running_loop()), MappingSource(self._device)
        source.tensors = tensors
        init = partial(WeightTransferTrainerFactory.trainer_init, client=client, source=source)
        engine = await in_daemon_thread(on_device, self._device, init, await self._init_info(control))
        return Connection(client, source, engine)

    async def _init_info(self, control: ControlPlane) -> TrainerInitInfo:
        if self.backend == "ipc":
            return IPCTrainerInitInfo(rank=0)
        address = own_address(control.url)
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        world_size = 1 + await control.get("/get_world_size", "world_size")
        return NCCLTrainerInitInfo(rank=0, master_address=address, master_port=port, world_size=world_size)


def on_device(device: torch.device, run: Callable[..., Result], *arguments: Any) -> Result:
    """`run(*arguments)` with `device` as vLLM's engines find it: a thread of its own starts on GPU 0."""
    with torch.cuda.device(device):
        return run(*arguments)


def own_address(url: str) -> str:
    """This machine's address as the server at `url` sees it. Connecting a UDP socket sends nothing."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))
        return probe.getsockname()[0]
