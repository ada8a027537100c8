"""Held-out accuracy in training: the grading and the statistics of an evaluation, through any rollout engine."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.grade import graded
from eval.problems.protocol import Grade
from eval.stats.stats import graded as by_graded_problem
from eval.stats.stats import right, summary
from eval.types import Generation, Problem
from grpo.rollout.engine import RolloutEngine
from grpo.types import Completion, Group, Prompt, RolloutRequest, Sampling
from rewards import Score

RowGrade = Callable[[str, Mapping[str, Any]], Score]  # (completion text, the row's answer and columns)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Example: Evaluation(accuracy=0.25, low=0.18, high=0.34, n=160, outcomes={"correct": 40, ...}, length=31.0)"""

    accuracy: float  # mean over problems of the share of their graded answers that are correct
    low: float  # 95% interval over problems
    high: float
    n: int  # problems with at least one answer that could be graded
    outcomes: Mapping[str, int]  # of every answer asked for; what failed is here and nowhere else
    length: float  # mean tokens of a completion
    problems: Mapping[str, float] = field(default_factory=dict)  # id -> share of its graded answers that are correct


async def evaluate(
    engine: RolloutEngine, prompts: Sequence[Prompt], grade: RowGrade, sampling: Sampling, samples: int = 1
) -> Evaluation:
    """Answer each problem `samples` times. What failed or could not be graded is counted apart, never as wrong.

    Every sample has a random stream of its own, by its problem's id and its number: whatever is measured beside
    it, and at whatever step, an engine that takes seeds draws the same numbers for it.
    """
    generations: list[Generation] = []
    failures: Counter[str] = Counter()
    async for _, group in engine.generate(
        [RolloutRequest(prompt, samples, sampling, _seed(prompt)) for prompt in prompts]
    ):
        failures.update(group.failures)
        generations += await asyncio.to_thread(graded_completions, "held_out", group, grade)
    found = summary(generations, samples)
    accuracy = found["accuracy"] or {"value": 0.0, "low": 0.0, "high": 1.0}  # nothing measured, nothing known
    return Evaluation(
        accuracy=accuracy["value"],
        low=accuracy["low"],
        high=accuracy["high"],
        n=found["n_graded"],
        outcomes={**failures, **found["outcomes"]},
        length=found["length"]["mean"] or 0.0,
        problems={id: right(samples) / len(samples) for (_, id), samples in by_graded_problem(generations).items()},
    )


def _seed(prompt: Prompt) -> int:
    return random.Random(f"held_out/{prompt.id}").getrandbits(62)


def graded_completions(name: str, group: Group, grade: RowGrade) -> list[Generation]:
    """The completions that came, with their grades: an environment's own where it has one."""
    prompt = group.prompt
    problem = Problem(prompt.id, prompt.text, prompt.answer, columns=prompt.columns)

    def by_row(completion: str, problem: Problem) -> Score:
        return grade(completion, {**problem.columns, "answer": problem.answer})

    return [
        graded(
            name,
            problem,
            k,
            prompt.prefill + one.text,
            _environments_own(one) or by_row,
            len(one.written),
            one.finish_reason,
        )
        for k, one in enumerate(group.completions)
    ]


def _environments_own(completion: Completion) -> Grade | None:
    """The environment's own score in place of a verdict about the last reply, where there is one."""
    episode = completion.episode
    if episode is None or (score := episode.score) is None:
        return None
    return lambda *_: score
