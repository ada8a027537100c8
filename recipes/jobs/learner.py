"""The learner that a recipe asks for, on each of its ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from grpo.config import ModelError, TrainSettings
from grpo.losses.cross_entropy import CrossEntropy
from grpo.parts import make_learner
from grpo.policy.learner import Learner
from grpo.policy.shard.ranks import ALONE, Ranks, joined
from grpo.rollout.cores import overlap, share_cores
from recipes.errors import InputError
from recipes.jobs.processes import OWN_STORE, rank, restarted
from recipes.jobs.teacher import teacher_settings
from recipes.schema.load import model_settings
from recipes.schema.recipe import Recipe
from recipes.schema.sft import SFTRecipe


@contextmanager
def joined_ranks(recipe: Recipe | SFTRecipe) -> Iterator[Ranks]:
    """The ranks of the run, if this process is one of several. When the leader leaves, the others may go."""
    placed = isinstance(recipe, Recipe) and recipe.cluster.address
    if rank() is None or (placed and recipe.train.processes == 1):
        yield ALONE
        return
    if restarted() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise InputError(f"torchrun cannot start ranks again in one store: set {OWN_STORE}=1 in its environment")
    device = device_of(recipe)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with joined(device, recipe.train.replicas) as ranks:
        if ranks.size != recipe.train.processes:
            raise InputError(
                f"train.processes: the recipe has {recipe.train.processes}, but torchrun started {ranks.size}; "
                f"--set train.processes={ranks.size}"
            )
        try:
            yield ranks
        except KeyboardInterrupt:
            ranks.check()  # once one is lost, the agent ends the others by the signal that a user sends
            raise
        finally:
            ranks.dismiss()


def follow(recipe: Recipe | SFTRecipe) -> None:
    """A rank other than the leader, from its start to its end."""
    with joined_ranks(recipe) as ranks:
        said: int | None = ranks.told()  # the steps, when the leader has checked everything
        if said and isinstance(recipe, SFTRecipe):
            learner_of(recipe.for_update(said), device_of(recipe), ranks, CrossEntropy()).follow()
        elif said:
            assert isinstance(recipe, Recipe)
            learner_of(recipe, device_of(recipe), ranks).follow()


def learner_of(recipe: Recipe, device: torch.device, ranks: Ranks, objective: CrossEntropy | None = None) -> Learner:
    """`objective`: None: the one that the recipe describes.

    Raises ModelError: see load_model and add_adapter; or what it is cannot be sharded.
    """
    config, model = recipe.train, model_settings(recipe)
    if recipe.cluster.address and device.type == "cpu":
        torch.set_num_threads(config.threads or recipe.cluster.cpus_per_process)
    elif config.threads or ranks.size > 1 or overlap(recipe.rollout):  # else torch's choice, which is all cores
        torch.set_num_threads(share_cores(recipe.rollout, config.threads, processes=ranks.size).trainer)
    if model.lora and model.lora.quantize and ranks.size > 1:
        raise ModelError(
            "model.lora.quantize: layers in 4 bits are not sharded; use train.processes: 1, or leave it out"
        )
    teacher = teacher_settings(recipe) if config.teacher else None
    return make_learner(config, model, recipe.rollout, ranks, device, objective, teacher)


def device_of(recipe: Recipe | SFTRecipe) -> torch.device:
    """Of this process's policy."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", gpus_of(recipe.train)[int(os.environ.get("LOCAL_RANK", 0))])


def gpus_of(config: TrainSettings) -> list[int]:
    """The trainer's on this machine, by local rank."""
    return config.gpus or list(range(int(os.environ.get("LOCAL_WORLD_SIZE", config.processes))))
