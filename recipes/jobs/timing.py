"""How long a run will take, from a short measurement on this machine: some updates, and some tokens decoded.

Both in this process with transformers. A vLLM server decodes faster, so that what is said of it is a bound.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from grpo.policy.shard.ranks import ALONE
from grpo.policy.update import TrainBatch
from grpo.record.duration import duration
from grpo.rollout.local import TransformersEngine
from grpo.types import Prompt, RolloutRequest, Sample, Sampling
from recipes.errors import run_async
from recipes.jobs.learner import device_of, learner_of
from recipes.schema.load import model_settings
from recipes.schema.recipe import Recipe
from recipes.schema.size import ModelSize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST = {"cpu": 200e6, "cuda": 4e9}  # parameters: a larger one is not loaded for a measurement
FIRST_TOKENS = 256  # of the update that warms up, and of the first that is timed
MORE_TOKENS = 2048  # timed instead where the first took less than a second
DECODED = 16  # tokens of each completion


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second. Example: Speed(trained=720.0, decoded=370.0)"""

    trained: float  # prompts included
    decoded: float


def why_not(recipe: Recipe, size: ModelSize) -> str:
    """Why nothing is measured; "" where it can be."""
    device = device_of(recipe).type
    if recipe.train.processes > 1:
        return "the trainer is several processes"
    if size.parameters > LARGEST[device]:
        return f"loading {size.parameters / 1e6:,.0f}M parameters would take too long"
    if recipe.rollout.masked:
        return "passes of a masked model are not measured ahead"
    if recipe.task and recipe.task.environment:
        return "how long an episode takes is up to task.environment"
    return ""


def measure(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> Speed:
    threads = torch.get_num_threads()
    try:
        trained = _trained(recipe, prompts)
        return Speed(trained, run_async(_decoded(recipe, tokenizer, prompts)))
    finally:
        torch.set_num_threads(threads)


def in_words(recipe: Recipe, speed: Speed, prompts: Sequence[Prompt]) -> str:
    """The time of a step and of the run, if every completion is as long as it may be."""
    rollout, train = recipe.rollout, recipe.train
    completions = rollout.prompts_per_step * rollout.group_size
    prompt = sum(len(one.token_ids) for one in prompts) / len(prompts)
    # A prompt is computed once for its group where batches are packed.
    tokens = completions * rollout.max_tokens + rollout.prompts_per_step * prompt
    training = train.updates_per_batch * tokens / speed.trained
    sampling = completions * rollout.max_tokens / speed.decoded
    bound = " (vLLM is faster)" if rollout.engine == "vllm" else ""
    return (
        f"a step at most {duration(sampling)} of sampling{bound} and {duration(training)} of training, all "
        f"{train.steps} steps {duration(train.steps * (sampling + training))}; measured: {speed.decoded:,.0f} tokens/s "
        f"decoded by transformers, {speed.trained:,.0f} tokens/s trained"
    )


def _trained(recipe: Recipe, prompts: Sequence[Prompt]) -> float:
    learner = learner_of(recipe, device_of(recipe), ALONE)
    learner.update(1, _batch(recipe, prompts, FIRST_TOKENS))
    batch = _batch(recipe, prompts, FIRST_TOKENS)
    seconds = _seconds(lambda: learner.update(2, batch))
    if seconds < 1:
        batch = _batch(recipe, prompts, MORE_TOKENS)
        seconds = _seconds(lambda: learner.update(3, batch))
    return sum(sample.length for sample in batch.samples) / seconds / max(recipe.train.updates_per_batch, 1)


def _seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def _batch(recipe: Recipe, prompts: Sequence[Prompt], tokens: int) -> TrainBatch:
    """Completions of chance, as long as they may be, of the first prompts: whole groups while there is room."""
    draw = random.Random(0)
    samples: list[Sample] = []
    length = max(1, min(recipe.rollout.max_tokens, tokens // 2))
    while sum(sample.length for sample in samples) < tokens:
        prompt = prompts[len(samples) // recipe.rollout.group_size % len(prompts)]
        known = sorted(set(prompt.token_ids))
        ids = tuple(draw.choice(known) for _ in range(length))
        samples.append(Sample(prompt.token_ids, ids, (-1.0,) * length, 1.0 if len(samples) % 2 else -1.0))
    return TrainBatch(samples, [1 / (len(samples) * length)] * len(samples))


async def _decoded(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> float:
    rollout = recipe.rollout
    engine = TransformersEngine(model_settings(recipe), tokenizer, rollout.max_sequences, device_of(recipe))
    await engine.start()
    most = max(1, min(rollout.max_sequences, rollout.prompts_per_step * rollout.group_size) // rollout.group_size)
    sampling = Sampling(min(DECODED, rollout.max_tokens), rollout.temperature)
    requests = [RolloutRequest(prompt, rollout.group_size, sampling) for prompt in prompts[: min(most, 4)]]
    started, tokens = time.monotonic(), 0
    async for _, group in engine.generate(requests):
        tokens += sum(len(one.token_ids) for one in group.completions)
    seconds = time.monotonic() - started
    await engine.close()
    return tokens / seconds
