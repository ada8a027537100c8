"""What a run leaves on the disk.

Of a checkpoint, in bytes (b = 2 for bf16, 4 for fp32; P parameters, P' trained ones): b P (an adapter: 4 P') to load
it with transformers or peft, and 12 P' to go on: fp32 masters and two Adam states. One more than is kept is there
while it is written. Of a sampled token 16: its id, log-prob and version, and its text.
"""

from __future__ import annotations

from grpo.rollout.vllm.kv_cache import ITEMSIZE
from recipes.schema.recipe import Recipe
from recipes.schema.size import ModelSize

GIB = 2**30
TOKEN_BYTES = 16


def disk_gib(recipe: Recipe, size: ModelSize) -> tuple[float, float]:
    """(checkpoints, completions) in GiB: the most that there is at a time, and in the end."""
    rollout, train = recipe.rollout, recipe.train
    trained = size.adapter_parameters or size.parameters
    weights = 4 * trained if size.adapter_parameters else ITEMSIZE[recipe.model.dtype] * size.parameters
    tokens = train.steps * rollout.prompts_per_step * rollout.group_size * rollout.max_tokens
    return (train.keep_checkpoints + 1) * (weights + 12 * trained) / GIB, tokens * TOKEN_BYTES / GIB


def disk_in_words(recipe: Recipe, size: ModelSize) -> str:
    checkpoints, completions = disk_gib(recipe, size)
    return (
        f"about {_amount(checkpoints)} for {recipe.train.keep_checkpoints} checkpoints and one being written, "
        f"at most {_amount(completions)} of completions"
    )


def _amount(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{1024 * gib:.0f} MiB"
