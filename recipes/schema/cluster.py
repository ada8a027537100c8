"""`cluster:` of a recipe: the machines that Ray hands out, and what each part of a run asks of them.

A bundle is what Ray gives of one machine: the trainer's processes are divided over `nodes` of them, a server has one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal, Protocol

from pydantic import Field, field_validator

from grpo.config import GRPOConfig, ModelSettings, Positive, RolloutSettings, Settings

Bundle = dict[str, float]  # resources of Ray. Example: {"CPU": 8.0, "GPU": 8.0}


class ClusterSettings(Settings):
    """Where a run is placed; which machines these are changes nothing that it computes."""

    address: str | None = None  # None: this machine; auto or host:port: the Ray cluster that this machine is a node of
    nodes: Positive | None = None  # that the trainer's processes are divided over; None: one for each train.replicas
    gpus: bool | None = None  # whether every process and server has GPUs; None: whether the cluster has any
    cpus_per_process: Positive = 1  # of a trainer process; without GPUs it computes with as many threads
    cpus_per_server: Positive = 1
    gpus_per_server: Positive | None = None  # None: rollout.server.tensor_parallel; a multiple of it: data-parallel
    strategy: Literal["PACK", "SPREAD"] = "PACK"  # on as few machines as possible, or as many
    room_timeout: Annotated[float, Field(gt=0)] = 300.0  # seconds to wait for machines, at the start and after a loss

    @field_validator("address")
    @classmethod
    def _form(cls, address: str | None) -> str | None:
        if address and address.startswith("ray://"):
            raise ValueError(f"got {address!r}; Ray's client does not do: start this machine as a node, and use auto")
        found = re.fullmatch(r"(\[.+\]|[^:/\s]+):(\d{1,5})", address or "")
        if address is not None and address != "auto" and not (found and 0 < int(found[2]) < 65536):
            raise ValueError(f"got {address!r}, expected null, auto or host:port, such as 10.0.0.1:6379")
        return address


class Placeable(Protocol):
    """What of a recipe says how it is placed."""

    @property
    def model(self) -> ModelSettings: ...
    @property
    def rollout(self) -> RolloutSettings: ...
    @property
    def train(self) -> GRPOConfig: ...
    @property
    def cluster(self) -> ClusterSettings: ...


def servers_placed(recipe: Placeable) -> bool:
    """Whether Ray places the servers."""
    return bool(recipe.cluster.address and recipe.rollout.engine == "vllm" and not recipe.rollout.server.urls)


def trainer_nodes(recipe: Placeable) -> int:
    return recipe.cluster.nodes or recipe.train.replicas


def bundles(recipe: Placeable, gpus: bool) -> tuple[list[Bundle], list[Bundle]]:
    """What to ask Ray for: for the trainer, in the order of its ranks, and for the servers."""
    cluster, server, nodes = recipe.cluster, recipe.rollout.server, trainer_nodes(recipe)
    each = recipe.train.processes // nodes
    trainer, one = {"CPU": float(each * cluster.cpus_per_process)}, {"CPU": float(cluster.cpus_per_server)}
    if gpus:
        trainer["GPU"] = float(each)
        one["GPU"] = float(cluster.gpus_per_server or server.tensor_parallel)
    return [dict(trainer) for _ in range(nodes)], [dict(one) for _ in range(servers_placed(recipe) * server.replicas)]


def in_words(asked: list[Bundle]) -> str:
    """Example: "2 x (8 CPU, 8 GPU)"."""
    counted = Counter(", ".join(f"{amount:g} {kind}" for kind, amount in bundle.items()) for bundle in asked)
    return " and ".join(f"{n} x ({what})" for what, n in counted.items())


def conflicts(recipe: Placeable) -> Iterator[str]:
    """What a recipe with an address asks for and Ray cannot give."""
    cluster, train, server = recipe.cluster, recipe.train, recipe.rollout.server
    if cluster.address is None:
        return
    if train.backend == "trl":
        yield "cluster.address: train.backend: trl trains on this machine; use null, or backend: zero"
    if train.processes % trainer_nodes(recipe):
        yield f"cluster.nodes: got {trainer_nodes(recipe)}, expected a divisor of train.processes ({train.processes})"
    for key, named in (("train.gpus", train.gpus), ("rollout.server.gpus", server.gpus)):
        if named:
            yield f"{key}: got {named}, but on a cluster Ray says which GPUs: leave it out, see cluster.gpus_per_server"
    if cluster.gpus is False and cluster.gpus_per_server:
        yield f"cluster.gpus_per_server: got {cluster.gpus_per_server}, with cluster.gpus: false; leave one of them out"
    if cluster.gpus_per_server and cluster.gpus_per_server % server.tensor_parallel:
        yield (
            f"cluster.gpus_per_server: got {cluster.gpus_per_server}, expected a multiple of "
            f"rollout.server.tensor_parallel ({server.tensor_parallel})"
        )
    if not servers_placed(recipe):
        return
    if server.weight_transfer in ("shm", "ipc"):
        yield (
            f"rollout.server.weight_transfer: {server.weight_transfer} stays within one machine, and Ray may place the "
            "servers on others; use auto, gloo, nccl, or files with a weight_dir that all of them see"
        )
    if recipe.model.lora and recipe.model.lora.sync == "adapter":
        yield (
            "model.lora.sync: adapter is read from the run's folder, which servers that Ray places may not see; use "
            "merged"
        )
