"""What runs inside vLLM's workers: it receives weights, compares what arrived, and loads it.

vLLM loads `register` in each of its processes (entry point `vllm.general_plugins`), so the server takes
`--weight-transfer-config '{"backend": "zero"}'`: one engine for every transport, see `sync/transfer.py`. What it does
is said by the key of each message to /update_weights, in this order:

    check_file {path, specs, digests}, load_file {}                      shm, files
    receive {specs, bucket_bytes, seconds}, check {digests}              gloo, nccl
    receive_ipc {specs}, ipc {a chunk of vLLM's}, ..., check {digests}   ipc
    abandon {}                                                           the update ends here: nothing more will come

Without a `check` or `load_file` that went well, /finish_weight_update is refused.
"""

from __future__ import annotations

import base64
import pickle
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from vllm import envs
from vllm.distributed.parallel_state import get_world_group
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.packed_tensor import PackedBufferImporter, packed_ipc_consumer
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

from grpo.rollout.sync.buckets import buckets, contents, places
from grpo.rollout.sync.digest import differences, digest, digests_of, values
from grpo.rollout.sync.group import Group
from grpo.rollout.sync.stream import TensorSpec, from_json
from grpo.rollout.sync.transfer import WORKER_BACKEND
from grpo.rollout.sync.weight_file import WeightFile
from grpo.rollout.vllm.reload import begin, finish, missing, undo

STAGES = ("check_file", "load_file", "receive", "receive_ipc", "ipc", "check")


def register() -> None:
    """Make the engine known to vLLM; it may call this more than once in a process."""
    with suppress(ValueError):  # already registered
        WeightTransferEngineFactory.register_engine(WORKER_BACKEND, ZeroTransferEngine)


@dataclass
class InitInfo(WeightTransferInitInfo):
    """How to join the trainer's group, of `gloo` or `nccl`."""

    backend: str
    address: str
    port: int
    first_rank: int  # of this server's workers
    size: int
    seconds: float


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """Unused: see `update_weights`."""


class ZeroTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    _group: Group | None = None
    _file: WeightFile | None = None
    _importer: PackedBufferImporter | None = None

    # -- vLLM's calls ------------------------------------------------------------------------------

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Join the group; the trainer and all other workers do so at the same time."""
        self.shutdown()
        parallel = self.parallel_config
        rank = init_info.first_rank + parallel.data_parallel_index * parallel.world_size + parallel.rank
        address, seconds = init_info.address, init_info.seconds
        store = dist.TCPStore(address, init_info.port, is_master=False, timeout=timedelta(seconds=seconds))
        self._group = Group(init_info.backend, store, rank, init_info.size, address, seconds)

    def start_weight_update(self) -> None:
        self._state = "started"  # then "complete" or "abandoned"
        self._specs: list[TensorSpec] = []
        self._digests: list[Tensor] = []
        self._loaded: set[str] = set()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Raises ValueError if something did not arrive as sent, or does not fit the model."""
        if "abandon" in update_info:  # by itself: a worker that raised is not asked
            undo(self.model)
            self._state = "abandoned"
            return
        problem = ""
        try:
            ((stage, message),) = update_info.items()
            if stage not in STAGES:
                raise Refused(f"got {stage}, expected one of {STAGES}")
            getattr(self, f"_{stage}")(**message)
            if self.device.type != "cpu":
                torch.accelerator.synchronize()
        except Exception as error:  # whatever it is, the trainer is to be told
            problem = f"{type(error).__name__}: {error}" if not isinstance(error, Refused) else str(error)
        self._agree(problem)

    def finish_weight_update(self) -> None:
        if self._state == "abandoned":
            return
        if self._state != "complete":
            raise ValueError("the new weights were not compared with what was sent: they will not be served")
        finish(self.model, self.model_config, self.device)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        raise NotImplementedError("update_weights does it all")

    def shutdown(self) -> None:
        if self._group is not None:
            self._group.abort()
            self._group = None

    def _agree(self, problem: str) -> None:
        """Raise if any worker of this server has a problem: none goes on without the others.

        The last one raises for all: vLLM's executor reads the workers' answers in turn and stops at an error, so
        those after it would be taken for answers to the next call.
        """
        world = get_world_group()
        problems = [problem]
        if world.world_size > 1:
            problems = [""] * world.world_size
            dist.all_gather_object(problems, problem, group=world.cpu_group)
        if (first := next(filter(None, problems), None)) and world.rank_in_group == world.world_size - 1:
            raise ValueError(first)

    # -- the messages ------------------------------------------------------------------------------

    def _check_file(self, path: str, specs: list[list[Any]], digests: list[int]) -> None:
        self._file = WeightFile(Path(path), from_json(specs))
        self._compare(self._file.specs, digests, digests_of(self._file))

    def _load_file(self) -> None:
        assert self._file is not None, "load_file comes after check_file"
        begin(self.model)
        self._load(self._file)
        self._complete()

    def _receive(self, specs: list[list[Any]], bucket_bytes: int, seconds: float) -> None:
        group, deadline = self._group, time.monotonic() + seconds
        if group is None:
            raise Refused("this worker is in no group with the trainer")
        self._specs = from_json(specs)
        begin(self.model)
        try:
            for bucket in buckets(self._specs, bucket_bytes):
                # A new one each time: what is loaded of it may be kept until its layer is complete.
                data = torch.empty(places(bucket)[1], dtype=torch.uint8, device=self._receiving_device(group))
                group.broadcast(data, deadline - time.monotonic())
                self._take((spec.name, tensor) for spec, tensor in contents(data, bucket))
        except BaseException:
            self.shutdown()  # or the trainer would wait for this worker
            raise

    def _receive_ipc(self, specs: list[list[Any]]) -> None:
        self._specs = from_json(specs)
        self._importer = PackedBufferImporter()
        begin(self.model)

    def _ipc(
        self,
        names: list[str],
        shapes: list[list[int]],
        dtype_names: list[str],
        tensor_sizes: list[int],
        handle: str,
    ) -> None:
        if not envs.VLLM_ALLOW_INSECURE_SERIALIZATION:
            raise Refused("weights by ipc come pickled: start the server with VLLM_ALLOW_INSECURE_SERIALIZATION=1")
        assert self._importer is not None, "ipc comes after receive_ipc"
        where = (names, shapes, dtype_names, tensor_sizes, self.device.index, self._importer)
        self._take(packed_ipc_consumer(pickle.loads(base64.b64decode(handle)), *where))

    def _check(self, digests: list[int]) -> None:
        if self._importer is not None:
            self._importer.close()
        self._compare(self._specs, digests, values(self._digests))
        self._complete()

    # -- loading -----------------------------------------------------------------------------------

    def _receiving_device(self, group: Group) -> torch.device:
        return torch.device("cpu") if group.backend == "gloo" else self.device

    def _take(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Hash what arrived, where it is, and load it."""
        arrived = list(tensors)
        for (name, tensor), spec in zip(arrived, self._specs[len(self._digests) :], strict=False):
            if TensorSpec(name, tensor.dtype, tuple(tensor.shape)) != spec:
                raise Refused(f"got {name} {tensor.dtype} {tuple(tensor.shape)}, expected {spec}")
            self._digests.append(digest(tensor))
        self._load(arrived)

    def _load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        with disable_mtp_completeness_check():  # it counts the tensors of one call
            self._loaded |= self.model.load_weights(iter(tensors)) or set()  # type: ignore[operator]

    def _compare(self, specs: Sequence[TensorSpec], sent: Sequence[int], found: Sequence[int]) -> None:
        if len(sent) != len(found):
            raise Refused(f"{len(found)} tensors arrived, {len(sent)} were sent")
        if wrong := differences(specs, sent, found):
            raise Refused(wrong)

    def _complete(self) -> None:
        if names := missing(self.model, self.model_config, self._loaded):
            raise Refused(f"no tensor was sent for these parts of the model: {names[:8]}")
        self._state = "complete"


class Refused(Exception):
    """Weights that will not be served, and why."""
