"""A group of processes for one purpose: rank 0, the trainer, sends bytes to all others, vLLM's workers.

torch.distributed's own backends, gloo and nccl, over a store of their own: neither the trainer's default group nor
vLLM's is touched, or needs to be there. They differ in `_BACKENDS` and in nothing else.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch.distributed as dist
from torch import Tensor

JOIN_SECONDS = 120.0  # for all to come together
_AFTER_DEADLINE = 60.0  # seconds after which nccl ends a process that is stuck, should nobody have aborted before


def listen(address: str, seconds: float) -> dist.TCPStore:
    """The store that the others find by this address and its `port`; it listens nowhere else."""
    server = socket.create_server((address, 0))
    port = server.getsockname()[1]
    timeout = timedelta(seconds=seconds)
    # The store owns the socket from here on.
    return dist.TCPStore(
        address, port, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=server.detach()
    )


class Group:
    """Comes to be when all ranks have made it; `abort` ends it for all of them.

    Args:
        store: of rank 0's address: `listen`, or `dist.TCPStore(address, port, is_master=False)`.
        address: of rank 0.
        seconds: that joining may take.
    """

    def __init__(self, backend: str, store: dist.Store, rank: int, size: int, address: str, seconds: float) -> None:
        self.backend = backend
        self._store = store  # it must live as long as the group
        self._group = _BACKENDS[backend](dist.PrefixStore("weights", store), rank, size, address, seconds)
        self._lock = threading.Lock()
        self._busy = self._aborted = False

    def broadcast(self, data: Tensor, seconds: float) -> None:
        """From rank 0 to all; returns when it is done here. Raises RuntimeError, also once the time is over."""
        with self._lock:
            if self._aborted:
                raise RuntimeError("the group was aborted")
            self._busy, group = True, self._group
        try:
            self._wait(group.broadcast([data], _from_rank_0(seconds)), data, seconds)
        finally:
            del group  # from a frame that an error may keep
            with self._lock:
                self._busy = False
                if self._aborted:
                    self._group = None

    def abort(self) -> None:
        """Close the connections, so that the others notice. What is under way ends with an error: by nccl at once; by
        gloo, which cannot be interrupted, when its peer goes or its time is over."""
        with self._lock:
            self._aborted = True
            if self.backend == "nccl" and self._group is not None:
                self._group.abort()
            if not self._busy:  # else gloo would wait here, and the whole process with it
                self._group = None

    def _wait(self, work: dist.Work, data: Tensor, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.backend == "nccl" and not work.is_completed():  # its wait() lets the host go on
            if time.monotonic() > deadline:
                self.abort()
                raise RuntimeError(f"a broadcast of {data.numel():,} bytes was not done in {seconds:.0f} s")
            time.sleep(0.0002)
        work.wait()


def _from_rank_0(seconds: float) -> dist.BroadcastOptions:
    options = dist.BroadcastOptions()
    options.rootRank = options.rootTensor = 0
    options.timeout = timedelta(seconds=max(seconds, 0.001))  # gloo keeps to it
    return options


def _gloo(store: dist.Store, rank: int, size: int, address: str, seconds: float) -> Any:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = timedelta(seconds=seconds)
    # Without this, a machine's name decides which of its addresses is used.
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_address(address))]
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: dist.Store, rank: int, size: int, address: str, seconds: float) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=seconds + _AFTER_DEADLINE)
    # nccl's own rendezvous waits for ever for who does not come: come together before it.
    store.set(f"here-{rank}", "")
    store.wait([f"here-{other}" for other in range(size)], timedelta(seconds=seconds))
    return dist.ProcessGroupNCCL(store, rank, size, options)


_BACKENDS: dict[str, Callable[[dist.Store, int, int, str, float], Any]] = {"gloo": _gloo, "nccl": _nccl}


def own_address(host: str, port: int = 80) -> str:
    """This machine's address as `host` sees it. Connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return probe.getsockname()[0]


def is_this_machine(url: str) -> bool:
    """Whether the url is of this machine; a tunnel's end looks as if it were."""
    host = urlsplit(url).hostname or ""
    try:
        return own_address(host) == socket.gethostbyname(host)
    except OSError:  # no such host: what is asked of it will say so
        return False
