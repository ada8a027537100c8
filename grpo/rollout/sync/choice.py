"""Which way weights go, and the transfer of that name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Set
from pathlib import Path

from grpo.config import RolloutSettings, ServerSettings
from grpo.rollout.engine import RolloutError
from grpo.rollout.sync.files import FileTransfer
from grpo.rollout.sync.group import is_this_machine
from grpo.rollout.sync.transfer import Transfer
from grpo.rollout.vllm.watch import own_name


def choose_backend(
    settings: ServerSettings, n_gpus: int, trainer: Set[int], servers: Set[int], placed: bool = False
) -> str:
    """How weights travel. `n_gpus`: of this machine; `trainer`, `servers`: which of them each side uses.

    `placed`: the servers are where Ray puts them, now or after a loss.

    Raises RolloutError if what the settings ask for cannot work.
    """
    shared = bool(trainer & servers)
    elsewhere = ["what Ray places"] if placed else [url for url in settings.urls if not is_this_machine(url)]
    chosen = settings.weight_transfer
    if chosen == "auto" and n_gpus:
        chosen = "ipc" if shared and not elsewhere else "nccl"
    elif chosen == "auto":
        chosen = "gloo" if elsewhere else "shm"
    problem = ""
    if chosen in ("nccl", "ipc") and not n_gpus:
        problem = "needs CUDA GPUs, and this machine has none; use shm, files or gloo"
    elif chosen in ("shm", "ipc") and elsewhere:
        problem = f"reaches this machine only, and {elsewhere[0]} is on another; use files, gloo or nccl"
    elif chosen == "ipc" and (not shared or len(servers) > 1 or len(settings.urls) > 1):
        problem = "is for one server on the trainer's own GPU; use nccl, or the trainer's GPU alone"
    elif chosen == "nccl" and shared and not elsewhere:
        problem = "cannot connect two processes on one GPU, and the server is on the trainer's; use ipc, or other GPUs"
    if problem:
        raise RolloutError(f"rollout.server.weight_transfer: {chosen} {problem}")
    return chosen


def transfer_for(backend: str, rollout: RolloutSettings, run_dir: Path, trainer_gpus: Sequence[int] = ()) -> Transfer:
    """The transfer called `backend`, which `choose_backend` chose."""
    if backend == "shm":
        return FileTransfer()
    if backend == "files":
        if rollout.server.weight_dir:
            return FileTransfer(Path(rollout.server.weight_dir) / own_name())
        folder = run_dir / "weights"  # the run's alone: what it left when it was killed goes
        shutil.rmtree(folder, ignore_errors=True)
        return FileTransfer(folder)
    # A version that lies in memory alone is the trainer's: it changes with the next step. With staleness, a server may
    # be missed, and so be sent it again, in the middle of that. And an attached server that refuses a version half-way
    # cannot be started again: it gets the one before.
    keep = bool(rollout.max_staleness or rollout.server.urls)
    import torch

    gpu = torch.device("cuda", trainer_gpus[0] if trainer_gpus else 0)
    if backend == "ipc":
        from grpo.rollout.sync.ipc import IpcTransfer

        return IpcTransfer(gpu, keep)
    from grpo.rollout.sync.collective import CollectiveTransfer

    return CollectiveTransfer(backend, torch.device("cpu") if backend == "gloo" else gpu, keep)
