"""What one step's samples were like: its metrics, and its rows of the rollout file."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from grpo.rollout.scheduler import ScoredGroup
from grpo.types import Completion
from rewards.types import FAILURES

TASK_METRICS = ("reward", "accuracy", "length", "truncated", "zero_variance_groups")


def rollout_metrics(
    groups: Sequence[ScoredGroup], advantages: Sequence[Sequence[float | None]], asked: int
) -> dict[str, float]:
    """Of a step's samples, before training. `asked`: completions that were asked for.

    Where the run has several tasks, the TASK_METRICS of each are beside them, as task/NAME/accuracy, and its share of
    the groups.
    """
    found = _metrics(groups, advantages, asked)
    for task in sorted({scored.group.prompt.task for scored in groups} - {""}):
        own = [place for place, scored in enumerate(groups) if scored.group.prompt.task == task]
        measured = _metrics([groups[place] for place in own], [advantages[place] for place in own], asked)
        found |= {f"task/{task}/{name}": measured[name] for name in TASK_METRICS}
        found[f"task/{task}/share"] = len(own) / len(groups)
    return found


def _metrics(
    groups: Sequence[ScoredGroup], advantages: Sequence[Sequence[float | None]], asked: int
) -> dict[str, float]:
    completions = [c for scored in groups for c in scored.group.completions]
    written = [len(c.written) for c in completions]
    causes = Counter(cause for scored in groups for cause in Counter(scored.group.failures).elements())
    rewards = [r for scored in groups for r in scored.rewards]
    values = [r.value for r in rewards if r.value is not None]
    outcomes = Counter(r.score.outcome for r in rewards if r.score is not None)
    graded = sum(count for name, count in outcomes.items() if name not in FAILURES)
    parts = [(name, value) for r in rewards for name, value in r.parts.items() if value is not None]
    n = max(len(completions), 1)
    return {
        "reward": mean(values),
        "reward_std": mean([_std([r.value for r in s.rewards if r.value is not None]) for s in groups]),
        "accuracy": outcomes["correct"] / graded if graded else math.nan,  # no reward grades, or every verdict failed
        "length": mean(written),
        "truncated": sum(c.finish_reason == "length" for c in completions) / n,
        "tokens": sum(written),
        "zero_variance_groups": mean([float(not any(group)) for group in advantages]),
        "failed": (asked - len(values)) / asked,
        **{f"failed/{cause}": count / asked for cause, count in causes.items()},
        **{f"outcome/{name}": count / n for name, count in outcomes.items()},
        **means("reward", parts),
        **_episode_metrics(completions),
    }


def _episode_metrics(completions: Sequence[Completion]) -> dict[str, float]:
    """Where there is an environment: replies of an episode, and tokens in it that are not the model's."""
    episodes = [c for c in completions if c.episode is not None]
    if not episodes:
        return {}
    return {
        "turns": mean([c.episode.turns for c in episodes if c.episode]),
        "environment_tokens": mean([len(c.token_ids) - len(c.written) for c in episodes]),
    }


def staleness(step: int, groups: Sequence[ScoredGroup]) -> float:
    """Optimizer steps that the oldest token of a completion is behind the weights it trains, mean of completions."""
    return mean([step - 1 - min(c.versions) for scored in groups for c in scored.group.completions])


def rollout_rows(
    step: int, groups: Sequence[ScoredGroup], advantages: Sequence[Sequence[float | None]], n_dropped: int = 0
) -> list[dict[str, Any]]:
    """One row a completion, as `rollouts/step-NNNNNN.parquet` keeps them; the last `n_dropped` groups were dropped."""
    return [
        {
            "step": step,
            "group": number,
            "prompt_id": scored.group.prompt.id,
            "prompt": scored.group.prompt.text,
            "prefill": scored.group.prompt.prefill,
            "messages": list(scored.group.prompt.messages) or None,
            "completion": completion.text,
            "answer": scored.group.prompt.answer,
            "columns": dict(scored.group.prompt.columns),
            "reward": reward.value,
            "rewards": dict(reward.parts),
            "extra": dict(reward.extra),
            "outcome": reward.score.outcome if reward.score else None,
            "extracted": reward.score.extracted if reward.score else None,
            "reason": reward.score.reason if reward.score else None,
            "advantage": advantage,
            "dropped": number >= len(groups) - n_dropped,
            "finish_reason": completion.finish_reason,
            "token_ids": list(completion.token_ids),
            "logprobs": [None if math.isnan(logprob) else logprob for logprob in completion.logprobs],
            "versions": list(completion.versions),
            "trained": None if completion.trained is None else list(completion.trained),
            "unmasking": None if completion.unmasking is None else dataclasses.asdict(completion.unmasking),
            "episode": None if completion.episode is None else dataclasses.asdict(completion.episode),
        }
        for number, (scored, advantages_G) in enumerate(zip(groups, advantages, strict=True))
        for completion, reward, advantage in zip(scored.group.completions, scored.rewards, advantages_G, strict=True)
    ]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def means(prefix: str, values: Sequence[tuple[str, float]]) -> dict[str, float]:
    """{"prefix/name": mean of the values of that name}"""
    named: defaultdict[str, list[float]] = defaultdict(list)
    for name, value in values:
        named[name].append(value)
    return {f"{prefix}/{name}": mean(one) for name, one in named.items()}


def _std(values: Sequence[float]) -> float:
    return statistics.pstdev(values) if values else 0.0
