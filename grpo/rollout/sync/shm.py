"""Weights through a file in shared memory, for servers on this machine without CUDA."""

from __future__ import annotations

import atexit
import json
import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import xxhash

from grpo.rollout.engine import WeightSyncError
from grpo.rollout.sync.checksum import DTYPES, add_to_digest, file_order
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.sync.transfer import Staged
from grpo.rollout.vllm.watch import own_name


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

    async def send(self, control: ControlPlane, staged: Staged) -> None:
        await control.post("/start_weight_update")
        update = {"path": str(staged.path), "checksum": staged.checksum}
        await control.post("/update_weights", {"update_info": update})
        await control.post("/finish_weight_update", {"weight_version": str(staged.version)})

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
            remaining = add_to_digest(digest, name, tensors[name])
            while remaining:  # one write takes at most 2 GiB
                remaining = remaining[file.write(remaining) :]
    unfinished.rename(path)
    return digest.hexdigest()
