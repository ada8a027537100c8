"""A version of the weights in a file: what a transport without a network reads, and what can be sent again."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from grpo.rollout.engine import WeightSyncError
from grpo.rollout.sync.buckets import as_bytes, contents, places
from grpo.rollout.sync.digest import digest, values
from grpo.rollout.sync.stream import TensorSpec, WeightStream, read


@dataclass(frozen=True, slots=True)
class WeightFile:
    """The tensors of `specs` side by side in a file (see `buckets.py`), and a stream of them.

    Nothing in the file says what it holds: whoever reads it was told.
    """

    path: Path
    specs: Sequence[TensorSpec]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Views of the mapped file: no copy is made of what the machine holds already."""
        size = places(self.specs)[1]
        try:
            found = self.path.stat().st_size
        except OSError as error:
            raise WeightSyncError(
                f"{self.path}, which the trainer wrote, is not there ({error.strerror}): the folder must be the same "
                "for both (shm: one machine; files: rollout.server.weight_dir on a shared disk)"
            ) from error
        if found != size:
            raise WeightSyncError(f"{self.path} has {found} bytes, expected {size}")
        data = torch.from_file(str(self.path), shared=False, size=size, dtype=torch.uint8)
        for spec, tensor in contents(data, self.specs):
            yield spec.name, tensor

    def write(self, stream: WeightStream) -> list[int]:
        """Write the tensors, one at a time, each as it is asked for; return their digests, taken where they were."""
        unfinished = self.path.with_suffix(".tmp")
        digests = []
        with unfinished.open("wb", buffering=0) as file, closing(read(stream)) as tensors:
            file.truncate(places(self.specs)[1])
            for start, (_, tensor) in zip(places(self.specs)[0], tensors, strict=True):
                digests.append(digest(tensor))
                remaining = memoryview(as_bytes(tensor).cpu().numpy())  # type: ignore[arg-type]
                file.seek(start)
                while remaining:  # one write takes at most 2 GiB
                    remaining = remaining[file.write(remaining) :]
        unfinished.rename(self.path)
        return values(digests)


class WeightFolder:
    """Files of weights in the first of some folders that has room; all of it goes when it is closed.

    `folders`: made when they are needed. Whoever outlives this process removes them (see `vllm/watch.py`).
    """

    def __init__(self, folders: Sequence[Path], enlarge: str) -> None:
        self.folders = folders
        self._enlarge = enlarge  # what to do where there is no room
        atexit.register(self.close)  # should nobody else come to call it; a killed process has its watcher

    def new_file(self, specs: Sequence[TensorSpec], version: int) -> WeightFile:
        n_bytes = places(specs)[1]
        for folder in self.folders:
            folder.parent.mkdir(parents=True, exist_ok=True)
        free = {folder: shutil.disk_usage(folder.parent).free for folder in self.folders}
        for folder, room in free.items():
            if room > 1.02 * n_bytes + 2**20:
                folder.mkdir(mode=0o700, exist_ok=True)
                return WeightFile(folder / f"weights-{version}-{uuid4().hex[:8]}.bin", specs)
        rooms = ", ".join(f"{folder.parent} has {room / 2**20:.0f} MiB" for folder, room in free.items())
        raise WeightSyncError(f"no room for {n_bytes / 2**20:.0f} MiB of weights: {rooms} free; {self._enlarge}")

    def close(self) -> None:
        atexit.unregister(self.close)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
