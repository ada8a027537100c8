"""What the tasks of one run must agree on, where it has several.

tasks:
  sums: {name: arithmetic, share: 0.75, template: "{question}=<think>"}
  facts: {dataset: facts.jsonl, columns: {question: q, answer: a}, verifier: multiple_choice, template: chat}
rewards:
  - {name: accuracy, tasks: [sums]}
  - {name: multiple_choice, tasks: [facts]}
  - {name: format, weight: 0.2}                  # of all tasks
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rewards import RewardSettings
from rewards.nearest import did_you_mean

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def mixture_conflicts(
    task: object, tasks: Mapping[str, Any] | None, rewards: Sequence[RewardSettings], backend: str
) -> Iterator[str]:
    """`task` and `tasks` as the recipe has them."""
    if tasks is None:
        if task is None:
            yield "task: got null, expected a task; or give tasks, for several in one run"
        for i, reward in enumerate(rewards):
            if reward.tasks is not None:
                yield f"rewards.{i}.tasks: got {reward.tasks}, but the run has one task; leave it out, or give tasks"
        return
    if task is not None:
        yield "tasks: task is given, too; keep one of them"
    if all(settings.verifier == "none" for settings in tasks.values()):
        yield "tasks: each has verifier: none, so nothing would be measured; give at least one with a verifier"
    if backend == "trl":
        yield "tasks: train.backend: trl trains one task; use backend: zero, or task"
    for name, settings in tasks.items():
        if not _NAME.fullmatch(name):
            yield f"tasks: got the name {name!r}, expected letters, digits, _ and -"
        if settings.environment:
            yield f"tasks.{name}.environment: with several tasks each problem gets one reply; train it alone, as task"
        if not any(reward.scores(name) for reward in rewards):
            yield f"tasks.{name}: no reward scores it; give one with tasks: [{name}], or one without tasks"
    for i, reward in enumerate(rewards):
        for name in reward.tasks or ():
            if name not in tasks:
                yield f"rewards.{i}.tasks: no task {name!r}{did_you_mean(name, tasks)}; there are {', '.join(tasks)}"
