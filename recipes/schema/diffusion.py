"""What a recipe of a masked diffusion model cannot ask for: a sentence for each, what is wrong and what to use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from grpo.diffusion import estimate_conflicts

if TYPE_CHECKING:
    from recipes.schema.recipe import Recipe


def conflicts(recipe: Recipe) -> Iterator[str]:
    if (settings := recipe.rollout.masked) is None:
        return
    train, model = recipe.train, recipe.model
    if train.processes > 1:
        yield f"train.processes: got {train.processes}, but engine: diffusion trains in one process; use 1"
    if train.backend == "trl":
        yield "train.backend: trl trains causal models alone; engine: diffusion needs backend: zero"
    if train.teacher:
        yield "train.teacher: a teacher is asked token by token from left to right, which engine: diffusion is not"
    if any(task.environment for task in recipe.named_tasks.values()):
        yield "task.environment: engine: diffusion writes one reply; use engine: vllm, or no environment"
    if model.prompted:
        yield "model.adapter.peft_type: vectors before the prompt are not for engine: diffusion; use model.lora"
    if recipe.cluster.address:
        yield "cluster.address: engine: diffusion samples and trains in one process; leave it out"
    if recipe.rollout.routing_replay:
        yield "rollout.routing_replay: engine: diffusion says of no token which experts it went to; leave it out"
    for name in ("router_aux_loss_coef", "router_bias_update_rate"):
        if getattr(train, name):
            yield f"train.{name}: it steers the experts of causal models, which engine: diffusion has none of; use 0"
    block = settings.block_length
    if block and recipe.eval.max_tokens and recipe.eval.max_tokens % block:
        yield (
            f"eval.max_tokens: got {recipe.eval.max_tokens}, expected a multiple of rollout.diffusion.block_length "
            f"({block})"
        )
    yield from (f"train.{conflict}" for conflict in estimate_conflicts(settings, train))
