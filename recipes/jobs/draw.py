"""Completions of problems outside of training, graded as they come: for `zero filter` and rejection sampling."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from eval.ask.held_out import graded_completions
from eval.grade import failed
from eval.types import Generation, Problem
from grpo.config import RolloutSettings
from grpo.rollout.engine import RolloutEngine
from grpo.types import Group, Prompt, RolloutRequest, Sampling
from recipes.tasks import Task


async def groups(
    engine: RolloutEngine, prompts: Sequence[Prompt], rollout: RolloutSettings, samples: int, seed: str
) -> AsyncIterator[Group]:
    """`samples` completions of each prompt, as they come."""
    sampling = Sampling(rollout.max_tokens, rollout.temperature, rollout.top_p, rollout.top_k)
    # By problem, not by place: a resumed filter asks for what the killed one would have asked for.
    seeds = [random.Random(f"{seed}/{prompt.id}").getrandbits(62) for prompt in prompts]
    requests = [RolloutRequest(prompt, samples, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    async for _, group in engine.generate(requests):
        yield group


def graded_group(task: Task, group: Group) -> list[Generation]:
    """Every completion that was asked for, those that never came included."""
    prompt, came = group.prompt, graded_completions(task.name, group, task.grade)
    problem = Problem(prompt.id, prompt.text, prompt.answer, columns=prompt.columns)
    causes = Counter(group.failures).elements()
    return came + [failed(task.name, problem, k, "server", cause) for k, cause in enumerate(causes, len(came))]
