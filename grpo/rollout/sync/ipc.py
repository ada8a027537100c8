"""Weights to servers on the trainer's own GPU: a buffer of it that vLLM's workers map, by vLLM's `ipc`.

vLLM's functions (vllm/distributed/weight_transfer/packed_tensor.py) fill the buffer and read it, one chunk after the
other; ours is what is around them: the digests, and the deadline.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grpo.rollout.sync.blocking import in_daemon_thread
from grpo.rollout.sync.buckets import BUCKET_BYTES
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.digest import digest, values
from grpo.rollout.sync.files import discard_file, shared_memory, staged_in
from grpo.rollout.sync.stream import WeightStream, read, to_json
from grpo.rollout.sync.transfer import Staged, each, half_loaded


class IpcTransfer:
    """A `Transfer` through memory of the GPU that trainer and servers share.

    Args:
        device: that the trainer is on.
        keep: whether a version may be sent again when the trainer has gone on: then a copy lies in shared memory.
    """

    name = "ipc"

    def __init__(self, device: torch.device, keep: bool) -> None:
        self._device, self.keeps = device, keep
        self._kept = shared_memory() if keep else None
        self.folders = self._kept.folders if self._kept else []

    def stage(self, stream: WeightStream, version: int) -> Staged:
        return staged_in(self._kept, stream, version) if self._kept else Staged(version, stream, kept=False)

    async def send(self, controls: Sequence[ControlPlane], staged: Staged) -> None:
        digests: list[Tensor] = []
        chunks = self._chunks(staged.stream, digests)
        announced = {"specs": to_json(staged.specs)}
        try:
            with half_loaded():
                await each(controls, lambda control: control.update({"receive_ipc": announced}))
                while (chunk := await in_daemon_thread(self._next, chunks)) is not None:
                    await each(controls, partial(ControlPlane.update, message={"ipc": chunk}))
                staged.digests = list(staged.digests or values(digests))
                found = {"digests": staged.digests}
                await each(controls, lambda control: control.update({"check": found}))
        finally:
            with suppress(ValueError):  # the thread of a chunk that nobody waits for any more: it ends with that
                await in_daemon_thread(chunks.close)

    def discard(self, staged: Staged) -> None:
        discard_file(staged)

    def forget(self, url: str) -> None:
        pass  # nothing is set up with a server

    def close(self) -> None:
        if self._kept:
            self._kept.close()

    def _next(self, chunks: Generator[dict[str, Any]]) -> dict[str, Any] | None:
        with torch.cuda.device(self._device):  # vLLM takes the current one, and a thread starts on GPU 0
            return next(chunks, None)

    def _chunks(self, stream: WeightStream, digests: list[Tensor]) -> Generator[dict[str, Any]]:
        """Chunk after chunk in one buffer; it must have been read when the next one is asked for."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

        def hashed() -> Generator[tuple[str, Tensor]]:
            with closing(read(stream)) as tensors:
                for spec, tensor in tensors:
                    digests.append(digest(tensor))
                    yield spec.name, tensor

        uuid = str(torch.cuda.get_device_properties(self._device).uuid)
        size = max([BUCKET_BYTES, *(spec.n_bytes for spec in stream.specs)])
        with closing(hashed()) as tensors:
            for chunk in packed_ipc_producer(tensors, uuid, lambda item: item[1], size):
                yield {
                    "names": chunk.names,
                    "shapes": chunk.shapes,
                    "dtype_names": chunk.dtype_names,
                    "tensor_sizes": chunk.tensor_sizes,
                    "handle": base64.b64encode(pickle.dumps(chunk.ipc_handle)).decode(),
                }
        torch.cuda.ipc_collect()
