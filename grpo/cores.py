"""Who gets how many cores of a machine without a GPU.

Server and trainer take turns with `max_staleness: 0`: each gets all cores while the other sleeps. They work at the
same time with a bound above 0: each core then belongs to one of them, half of them to the server, because threads that
compete for cores wait for one another at every matrix product.

Measured with SmolLM2-135M on 2 cores without AMX, 8 requests of 8 completions of 64 tokens: a server with 1 thread
gives 280 tokens/s, with 2 threads 460; with 2 threads beside a busy process on either core, 40 to 210, where its
threads spin, and 240 to 300, where they sleep (`OMP_WAIT_POLICY=passive`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from grpo.config import RolloutSettings


@dataclass(frozen=True, slots=True)
class Cores:
    """Threads of each side. Example, on 8 cores with a staleness bound of 1: Cores(server=4, trainer=4)"""

    server: int
    trainer: int


def share_cores(rollout: RolloutSettings, trainer_threads: int = 0, cores: int | None = None) -> Cores:
    """Threads of the server and of the trainer. What the recipe names is taken; the other side gets the rest.

    Args:
        trainer_threads: `train.threads`; 0 leaves it to us.
        cores: of the machine; None: those that this process may use.
    """
    cores = cores or len(os.sched_getaffinity(0))
    server_threads = rollout.server.threads
    if not overlap(rollout):
        return Cores(server_threads or cores, trainer_threads or cores)
    server = server_threads or (cores - trainer_threads if trainer_threads else cores // 2)
    trainer = trainer_threads or cores - server
    return Cores(max(1, server), max(1, trainer))


def overlap(rollout: RolloutSettings) -> bool:
    """Whether a server of ours samples while the trainer trains."""
    return rollout.engine == "vllm" and rollout.max_staleness > 0 and not rollout.server.urls
