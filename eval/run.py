"""Held-out accuracy through any rollout engine, graded by the verifier that training uses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from eval.stats import clustered, wilson
from grpo.rollout.engine import RolloutEngine
from grpo.types import Group, Prompt, RolloutRequest, Sampling
from rewards import Score

Grader = Callable[[str, Mapping[str, Any]], Score]  # (completion text, the row's answer and columns)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Example: Evaluation(accuracy=0.25, low=0.18, high=0.34, n=160, outcomes={"correct": 40, ...}, length=31.0)"""

    accuracy: float  # mean over problems of the share of their graded answers that are correct
    low: float  # 95% interval over problems
    high: float
    n: int  # problems with at least one answer that could be graded
    outcomes: Mapping[str, int]  # of every answer asked for; what failed is here and nowhere else
    length: float  # mean tokens of a completion


async def evaluate(
    engine: RolloutEngine, prompts: Sequence[Prompt], grade: Grader, sampling: Sampling, samples: int = 1
) -> Evaluation:
    """Answer each problem `samples` times. What failed or could not be graded is counted apart, never as wrong."""
    outcomes: Counter[str] = Counter()
    lengths: list[int] = []
    means: list[float] = []
    async for _, group in engine.generate([RolloutRequest(prompt, samples, sampling) for prompt in prompts]):
        outcomes.update(group.failures)
        row = {**group.prompt.columns, "answer": group.prompt.answer}
        scores = await asyncio.to_thread(_grade_all, grade, group, row)
        outcomes.update(score.outcome for score in scores)
        lengths += [len(completion.token_ids) for completion in group.completions]
        if values := [score.value for score in scores if score.value is not None]:
            means.append(fmean(values))
    low, high = clustered(means) if samples > 1 else wilson(sum(means), len(means))
    return Evaluation(
        accuracy=fmean(means) if means else 0.0,
        low=low,
        high=high,
        n=len(means),
        outcomes=dict(outcomes),
        length=fmean(lengths) if lengths else 0.0,
    )


def _grade_all(grade: Grader, group: Group, row: Mapping[str, Any]) -> list[Score]:
    return [grade(group.prompt.prefill + completion.text, row) for completion in group.completions]
