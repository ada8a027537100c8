"""Which GPUs a server has, and how weights reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpo.config import ServerSettings
from grpo.rollout.engine import RolloutError
from grpo.rollout.sync.choice import choose_backend


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a server runs. Example: Placement(gpus=(1, 2), backend="nccl", data_parallel=2); gpus=() is the CPU."""

    gpus: tuple[int, ...]
    backend: str  # that weights are sent by, see sync/choice.py
    data_parallel: int = 1  # copies of the model in one server: each decodes rollout.max_sequences at once

    def share(self, k: int, servers: int) -> Placement:
        """The k-th of `servers` that stand in the place of one: each has as many of the GPUs."""
        each = len(self.gpus) // servers
        return Placement(self.gpus[k * each : (k + 1) * each], self.backend, max(1, self.data_parallel // servers))


def place(settings: ServerSettings, trainer_gpus: Sequence[int] = (), alone: bool = False) -> Placement:
    """The servers take the GPUs that the trainer leaves, and share the trainer's where none is left.

    `rollout.server.replicas` of them divide these (`Placement.share`). `trainer_gpus` empty means GPU 0. `alone`: no
    trainer was started with the one, it takes every GPU, and weights the way that a run which is given its url sends
    them. Raises RolloutError when the settings ask for what is not there.
    """
    import torch

    n_gpus = torch.cuda.device_count()
    trainer = set(trainer_gpus or [0])
    free = [gpu for gpu in range(n_gpus) if gpu not in trainer]
    beside_trainer = settings.gpus or free or range(n_gpus)
    gpus = tuple((settings.gpus or range(n_gpus)) if alone else beside_trainer)
    if missing := [gpu for gpu in gpus if gpu >= n_gpus]:
        raise RolloutError(f"rollout.server.gpus names {missing}, this machine has {n_gpus} GPUs")
    servers = 1 if alone else settings.replicas
    if gpus and len(gpus) % (servers * settings.tensor_parallel):
        times = f", and rollout.server.replicas {servers}" if servers > 1 else ""
        raise RolloutError(
            f"rollout.server.tensor_parallel is {settings.tensor_parallel}{times}: the number of the "
            f"server's GPUs must be a multiple of {servers * settings.tensor_parallel}, got {len(gpus)} {list(gpus)}"
        )
    copies = max(1, len(gpus) // settings.tensor_parallel)
    return Placement(gpus, choose_backend(settings, n_gpus, trainer, set(beside_trainer)), copies)


def placed(settings: ServerSettings, there: bool = False) -> Placement:
    """Of a server that Ray places. Its GPUs are those that Ray shows its process, and known `there` alone.

    Raises RolloutError as `place`.
    """
    import torch

    n_gpus = torch.cuda.device_count()
    backend = choose_backend(settings, n_gpus, set(), set(), placed=True)
    gpus = tuple(range(n_gpus)) if there else ()
    if len(gpus) % settings.tensor_parallel:
        raise RolloutError(
            f"rollout.server.tensor_parallel is {settings.tensor_parallel}, and Ray gave {len(gpus)} GPUs"
        )
    return Placement(gpus, backend, max(1, len(gpus) // settings.tensor_parallel))
