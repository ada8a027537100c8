"""Weights to servers on GPUs, through vLLM's own trainer-side engines: `nccl` (other GPUs), `ipc` (the same GPU).

Written from vLLM 0.32's vllm/distributed/weight_transfer/{nccl_engine,ipc_engine,clients}.py. They move
tensors from GPU to GPU, so there is no file to hash: `Staged.checksum` says so, and what is checked is the
version that the server answers, and vLLM's own check that names, dtypes and shapes agree on both sides.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from grpo.rollout.weight_sync import Control, Staged


class MappingSource(WeightSource):
    """The staged tensors, as vLLM's engines read them."""

    def __init__(self) -> None:
        self.tensors: Mapping[str, torch.Tensor] = {}

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        device = torch.device("cuda", torch.cuda.current_device())
        for name, tensor in self.tensors.items():
            yield name, tensor.detach().to(device)


class Client(HTTPVLLMWeightSyncClient):
    """vLLM's client, over our control plane (its deadlines, its errors), naming the version at the end."""

    def __init__(self, control: Control) -> None:
        super().__init__(control.url)
        self.control = control
        self.version = 0

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        super().finish_weight_update(weight_version or str(self.version))

    def _post(self, path: str, json: dict[str, Any] | None = None) -> None:
        self.control.post(f"/{path}", json)


class CudaTransfer:
    """A `weight_sync.Transfer` over one of vLLM's engines. `backend` is "nccl" or "ipc"."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._source = MappingSource()
        self._engines: dict[str, TrainerWeightTransferEngine] = {}  # one for each server
        self._clients: dict[str, Client] = {}

    def stage(self, tensors: Mapping[str, torch.Tensor], version: int) -> Staged:
        self._source.tensors = tensors
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return Staged(version, n_bytes, checksum=f"none ({self.backend} checks names, dtypes and shapes)")

    def send(self, control: Control, staged: Staged) -> None:
        if control.url not in self._clients:
            self._connect(control)
        client = self._clients[control.url]
        client.control, client.version = control, staged.version
        self._engines[control.url].send_weights()

    def discard(self, staged: Staged) -> None:
        pass  # the tensors are the trainer's own

    def forget(self, url: str) -> None:
        if self._clients.pop(url, None):
            self._engines.pop(url).shutdown()

    def close(self) -> None:
        for url in list(self._engines):
            self.forget(url)

    def _connect(self, control: Control) -> None:
        client = Client(control)
        self._engines[control.url] = WeightTransferTrainerFactory.trainer_init(
            self._init_info(control), client=client, source=self._source
        )
        self._clients[control.url] = client

    def _init_info(self, control: Control) -> TrainerInitInfo:
        if self.backend == "ipc":
            return IPCTrainerInitInfo(rank=0)
        address = own_address(control.url)
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        world_size = 1 + control.get("/get_world_size")["world_size"]
        return NCCLTrainerInitInfo(rank=0, master_address=address, master_port=port, world_size=world_size)


def own_address(url: str) -> str:
    """This machine's address as the server at `url` sees it. Connecting a UDP socket sends nothing."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))
        return probe.getsockname()[0]
