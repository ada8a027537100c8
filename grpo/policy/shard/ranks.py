"""The processes of one trainer, as one of them sees them.

Rank 0 leads: it has the event loop, the servers and the records. What follows from the whole batch alone (the plan of
the micro-batches, normalisers, metrics) every rank computes for itself, alike; what has to be exchanged beside the
shards are small objects, over gloo whatever moves the shards.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

T = TypeVar("T")


class RankLostError(RuntimeError):
    """Another process of the trainer has ended: nothing can be computed any more until all are started again."""


# Ranks wait for the leader while it samples, however long that takes; a leader that dies closes its connections.
PATIENCE = timedelta(days=7)
DISMISSAL = 5.0  # seconds
DEATH = 5.0  # seconds that a killed process may take


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is `rank` of `size`. Alone, it exchanges nothing."""

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None  # of the shards: one dimension, or replicas times shards
    group: dist.ProcessGroup | None = None  # of small objects
    writers: dist.ProcessGroup | None = None  # of threads that write a checkpoint, while all else goes on
    pids: tuple[int, ...] = ()  # of all ranks on this machine

    def gathered(self, value: T) -> list[T]:
        """The value of every rank, in their order, on every rank."""
        if self.group is None:
            return [value]
        found: list[T] = [value] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each name's sum over the ranks; a rank may lack names."""
        if self.group is None:
            return dict(values)
        total: defaultdict[str, float] = defaultdict(float)
        for one in self.gathered(dict(values)):
            for name, value in one.items():
                total[name] += value
        return dict(total)

    def told(self, value: T | None = None) -> T:
        """The leader's value, on every rank."""
        said = [value]
        if self.group is not None:
            dist.broadcast_object_list(said, src=0, group=self.group)
        return said[0]  # type: ignore[return-value]  # the leader's own

    def check(self) -> None:
        """Raises RankLostError if a rank on this machine has ended."""
        if not all(_running(pid) for pid in self.pids):
            raise RankLostError("a process of the trainer was lost: all start again, from the last checkpoint")

    def dismiss(self) -> None:
        """The leader has no more to do: let the others go. Those that are stuck are not waited for."""
        if self.group is not None and self.rank == 0:
            telling = threading.Thread(target=self._dismiss, daemon=True)
            telling.start()
            telling.join(DISMISSAL)

    def _dismiss(self) -> None:
        with suppress(RuntimeError):  # some are gone already
            self.told(None)


ALONE = Ranks()


@contextmanager
def joined(device: torch.device, replicas: int = 1) -> Iterator[Ranks]:
    """The ranks that torchrun's environment variables describe, connected.

    Args:
        device: of this rank's shards.
        replicas: copies of the sharded model, each over size / replicas consecutive ranks (HSDP); 1: one.

    Raises RankLostError in the place of what a collective raises when another rank on this machine has ended.
    """
    ranks = ALONE
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:  # whatever this machine's name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    try:
        size = dist.get_world_size()
        if replicas > 1:
            mesh = init_device_mesh(device.type, (replicas, size // replicas), mesh_dim_names=("replica", "shard"))
        else:
            mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
        group, writers = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
        everybody: list[Any] = [None] * size
        dist.all_gather_object(everybody, (socket.gethostname(), os.getpid()), group=group)
        here = tuple(pid for host, pid in everybody if host == socket.gethostname())
        ranks = Ranks(dist.get_rank(), size, mesh, group, writers, here)
        yield ranks
    except RuntimeError as error:
        # What a collective raises: gloo this very class, nccl one of its own. Connections close before a process ends.
        end = time.monotonic() + (DEATH if type(error) is RuntimeError or isinstance(error, dist.DistError) else 0)
        while time.monotonic() < end:
            ranks.check()
            time.sleep(0.1)
        raise
    else:  # after an error the others may be stuck in a collective: leaving in order would wait for them
        dist.destroy_process_group()


def _running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
