"""What is used of Ray: actors in the bundles of one placement group, which are the machines of one run.

    room = Room(address, group, bundles, first_server, seconds)     # made by recipes/jobs/cluster.py
    connect(room.address)                                           # once in each process that makes actors
    host = room.host(ServerHost, bundle)                            # an actor with all that the bundle has
    await answered(host.look.remote(files))

Ray decides where bundles lie, says when a node is lost, and lays its bundles anew where there is room. An actor ends
with the process that made it, however that ends, and the bundles with the run's launcher.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from grpo.rollout.engine import RolloutError

T = TypeVar("T")

NAMESPACE = "zero"  # of Ray's names
VARIABLE = "ZERO_ROOM"  # a Room as JSON: how the leader of the trainer's processes finds it
INSTALL = "pip install 'zero-rl[ray]', or: pip install ray"
REACH = 10.0  # seconds
# What a machine's own environment lacks, and every process of a run is to have.
CARRIED = ("ZERO_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "TRACKIO_", "VLLM_", "NCCL_", "PYTHONPATH")
_OF_RAY = ("RAY_JOB_ID", "RAY_RAYLET_PID", "RAY_LD_PRELOAD_ON_WORKERS", "PYTHONBREAKPOINT", "OMP_NUM_THREADS")


class ClusterError(ValueError):
    """The cluster cannot be used as the recipe says. One message: what was asked, what is there, what to do."""


class NoRoomError(RolloutError):
    """No machine that is left has room for a bundle."""


@dataclass(frozen=True, slots=True)
class Room:
    """The bundles of one placement group.

    Example: Room("10.0.0.1:6379", "zero-5c1f", [{"CPU": 2.0}, {"CPU": 1.0}], first_server=1, seconds=300.0)
    """

    address: str  # of Ray's head
    group: str  # its name
    bundles: list[dict[str, float]]
    first_server: int  # the bundles before it are the trainer's
    seconds: float  # to wait for a bundle that has lost its machine

    @classmethod
    def of_environment(cls) -> Room | None:
        return cls(**json.loads(os.environ[VARIABLE])) if VARIABLE in os.environ else None

    def as_variable(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    def variables(self, bundle: int) -> dict[str, str]:
        """What a process in the bundle gets of this one's environment."""
        # Ray itself hides the GPUs of a bundle that has none from some of its versions' actors, not from all.
        hidden = {} if self.bundles[bundle].get("GPU") else {"CUDA_VISIBLE_DEVICES": ""}
        return hidden | {key: value for key, value in os.environ.items() if key.startswith(CARRIED)}

    def host(self, kind: type, bundle: int) -> Any:
        """An actor of the class `kind` that has all of the bundle; Ray starts it once the bundle has a machine."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = ray.util.get_placement_group(self.group)
        resources = self.bundles[bundle]
        where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        options = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0), "scheduling_strategy": where}
        return ray.remote(kind).options(**options).remote()


def connect(address: str) -> str:
    """Make this process one of Ray's drivers. Returns the address of the cluster's head.

    Raises ClusterError if there is no Ray here, no cluster at the address, or this machine is no node of it.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"cluster.address: {address} needs Ray, which is not installed here ({INSTALL})") from error
    ours = signal.getsignal(signal.SIGTERM)
    try:
        _reach(address)
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"cluster.address: {address} cannot be used from here: {error}. Expected a running cluster of which this "
            "machine is a node: ray start --head on the first, ray start --address=HOST:PORT on the others; the same "
            "versions of Ray and Python on all"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, ours)  # Ray's would end the process without a checkpoint
    return str(ray.get_runtime_context().gcs_address)


def _reach(address: str) -> None:
    """Raises OSError if nothing listens there: Ray would look for two minutes."""
    host, _, port = address.rpartition(":")
    if host:
        with socket.create_connection((host.strip("[]"), int(port)), REACH):
            pass


def nodes() -> dict[str, dict[str, float]]:
    """Address -> CPUs and GPUs of each node that is alive."""
    import ray

    found = [node for node in ray.nodes() if node["Alive"]]
    return {
        node["NodeManagerAddress"]: {kind: node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")}
        for node in found
    }


def there_is() -> str:
    """Example: "10.0.0.1 with 8 CPU, 8 GPU; 10.0.0.2 with 8 CPU"."""
    parts = [
        f"{address} with {', '.join(f'{n:g} {kind}' for kind, n in has.items() if n) or 'nothing'}"
        for address, has in sorted(nodes().items())
    ]
    return "; ".join(parts) or "no node"


def environment(more: dict[str, str]) -> dict[str, str]:
    """For a child of an actor: the machine's own, without what Ray gave the actor, and `more`."""
    return {key: value for key, value in os.environ.items() if key not in _OF_RAY} | more


async def answered(answer: Awaitable[T], seconds: float) -> T:
    """What an actor's method returns.

    Raises HostLostError if the actor, or its machine, is no more; TimeoutError if it does not answer for now; or what
    the method raised.
    """
    import asyncio

    from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

    try:
        return await asyncio.wait_for(_awaited(answer), seconds)
    except ActorUnavailableError as error:
        raise TimeoutError(str(error)) from error
    except RayActorError as error:
        raise HostLostError(why_lost(error)) from error
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None


class HostLostError(RolloutError):
    """An actor, or the machine that it was on, is no more."""


def why_lost(error: Any) -> str:
    """One line of what Ray says."""
    text = str(error)
    if "failed to import" in text or "ModuleNotFoundError" in text:
        found = next((line.strip() for line in text.splitlines() if "ModuleNotFoundError" in line), "")
        return f"a node lacks what a run needs ({found or 'its environment is another one'}): install the same on all"
    return " ".join(text.split())[:500]


async def _awaited(answer: Awaitable[T]) -> T:
    return await answer
