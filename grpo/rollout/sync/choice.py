"""Which transfer a run uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grpo.config import RolloutSettings
from grpo.rollout.sync.files import FileTransfer
from grpo.rollout.sync.transfer import Transfer


def transfer_for(backend: str, rollout: RolloutSettings, run_dir: Path, trainer_gpus: Sequence[int] = ()) -> Transfer:
    """The transfer called `backend`; see `vllm/server.py` for what can work where."""
    if backend == "shm":
        return FileTransfer()
    if backend == "files":
        return FileTransfer(Path(rollout.server.weight_dir) if rollout.server.weight_dir else run_dir / "weights")
    # A version that lies in memory alone is the trainer's: it changes with the next step. With staleness, a server may
    # be missed, and so be sent it again, in the middle of that. And an attached server that refuses a version half-way
    # cannot be started again: it gets the one before.
    keep = bool(rollout.max_staleness or rollout.server.urls)
    if backend == "ipc":
        import torch

        from grpo.rollout.sync.ipc import IpcTransfer

        return IpcTransfer(torch.device("cuda", *trainer_gpus[:1]), keep)
    from grpo.rollout.sync.collective import CollectiveTransfer

    return CollectiveTransfer(backend, keep)
