"""Held-out accuracy in training: the grading and the statistics of an evaluation, through any rollout engine."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eval.grade import graded
from eval.problems.protocol import Grade
from eval.stats.stats import graded as by_graded_problem
from eval.stats.stats import right, summary
from eval.types import Generation, Problem
from grpo.rollout.engine import RolloutEngine
from grpo.types import Completion, Group, Prompt, RolloutRequest, Sampling
from rewards import Score
from rewards.builtin.language import language_consistency

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
    language: float | None = None  # share of the thoughts' words that are in the language asked for; None: no words


async def evaluate(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    grade: RowGrade,
    sampling: Sampling,
    samples: int = 1,
    language: str = "en",
) -> Evaluation:
    """Answer each problem `samples` times. What failed or could not be graded is counted apart, never as wrong.

    Every sample has a random stream of its own, by its problem's id and its number: whatever is measured beside
    it, and at whatever step, an engine that takes seeds draws the same numbers for it.
    """
    answered = [_Answers()]
    await _ask(engine, prompts, lambda _: (answered[0], grade), sampling, samples)
    return _evaluation(answered, samples, language)


async def evaluate_tasks(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    grades: Mapping[str, RowGrade],
    sampling: Sampling,
    samples: int,
    language: str = "en",
) -> dict[str, Any]:
    """As `evaluate`, of the problems of several tasks at once, each graded by its own verifier.

    Returns the Evaluation over all problems as plain data, every problem counting alike, and under `tasks` that of
    each task, without its problems.
    """
    answered = {name: _Answers() for name in grades}
    await _ask(engine, prompts, lambda prompt: (answered[prompt.task], grades[prompt.task]), sampling, samples)
    tasks = {name: asdict(_evaluation([one], samples, language)) for name, one in answered.items()}
    for one in tasks.values():
        del one["problems"]
    return {**asdict(_evaluation(list(answered.values()), samples, language)), "tasks": tasks}


@dataclass(slots=True)
class _Answers:
    generations: list[Generation] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


async def _ask(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    of: Callable[[Prompt], tuple[_Answers, RowGrade]],
    sampling: Sampling,
    samples: int,
) -> None:
    requests = [RolloutRequest(prompt, samples, sampling, _seed(prompt)) for prompt in prompts]
    async for _, group in engine.generate(requests):
        answers, grade = of(group.prompt)
        answers.failures.update(group.failures)
        answers.generations += await asyncio.to_thread(graded_completions, "held_out", group, grade)


def _evaluation(answered: Sequence[_Answers], samples: int, language: str) -> Evaluation:
    generations = [one for answers in answered for one in answers.generations]
    failures = sum((answers.failures for answers in answered), Counter[str]())
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
        language=_in_language([one.completion for one in generations], language),
    )


def _in_language(completions: Sequence[str], language: str) -> float | None:
    """Mean share of the words of each chain of thought that are in the language, by their script."""
    shares = [share for share in language_consistency(completions, language) if share is not None]
    return sum(shares) / len(shares) if shares else None


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
