"""Which problem comes next where a run has several tasks: a mixture by share, each task with an order of its own.

Position k of the run goes to the task that is furthest behind its share: the largest share_t (k + 1) - asked_t, of
equals the first. So each step has its shares, as near as whole groups allow, and is no lottery. Which of its problems a
task asks for is up to its own `PromptOrder`, which counts its own positions.

A share is of the groups that are asked for. A refill, which drops groups without contrast, trains fewer of a task that
is too easy or too hard.

Degenerate case: one task is its own order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from grpo.config import CurriculumSettings
from grpo.signal.curriculum import PromptOrder, prompt_order
from grpo.types import Prompt
from rewards import Reward


def order_of(
    settings: CurriculumSettings,
    prompts: Sequence[Prompt],
    per_step: int,
    seed: int,
    shares: Mapping[str, float] | None,
) -> PromptOrder:
    """The order of a run's prompts. `shares`: of its tasks, by `Prompt.task`; None: it has one.

    Raises ValueError if the order needs columns that the problems of a task lack.
    """
    if not shares:
        return prompt_order(settings, [prompt.columns for prompt in prompts], per_step, seed)
    orders: dict[str, tuple[Sequence[int], PromptOrder]] = {}
    for name in shares:
        indices = [index for index, prompt in enumerate(prompts) if prompt.task == name]
        columns = [prompts[index].columns for index in indices]
        try:
            own = prompt_order(settings, columns, most_in_a_step(shares, name, per_step), f"{seed}/{name}")
        except ValueError as error:
            raise ValueError(f"task {name}: {error}") from error
        orders[name] = (indices, own)
    return MixedOrder(shares, orders)


def most_in_a_step(shares: Mapping[str, float], name: str, per_step: int) -> int:
    """Groups of the task that a step of `per_step` may have asked for."""
    part = shares[name] / sum(shares.values())
    return min(per_step, math.ceil(part * per_step) + (len(shares) > 1))


class MixedOrder:
    """A `PromptOrder` over several tasks, see above.

    Args:
        orders: of each task, the places of its problems among all prompts, and their own order.
    """

    def __init__(self, shares: Mapping[str, float], orders: Mapping[str, tuple[Sequence[int], PromptOrder]]) -> None:
        # Exact: the same task comes next on any machine, and after any number of positions.
        total = sum(map(Fraction, shares.values()))
        self._shares = {name: Fraction(share) / total for name, share in shares.items()}
        self._orders = orders
        self._place = {index: (name, own) for name, (indices, _) in orders.items() for own, index in enumerate(indices)}
        self._asked = dict.fromkeys(shares, 0)

    def at(self, position: int) -> int:
        behind = {name: share * (position + 1) - self._asked[name] for name, share in self._shares.items()}
        name = max(behind, key=lambda one: behind[one])  # of equals the first
        indices, order = self._orders[name]
        own = self._asked[name]
        self._asked[name] += 1
        return indices[order.at(own)]

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        name, own = self._place[index]
        self._orders[name][1].record(own, rewards)

    def state_dict(self) -> dict[str, Any]:
        orders = {name: order.state_dict() for name, (_, order) in self._orders.items()}
        return {"asked": dict(self._asked), "orders": orders}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._asked = dict(state["asked"])
        for name, (_, order) in self._orders.items():
            order.load_state_dict(state["orders"][name])

    def metrics(self) -> dict[str, float]:
        """Of each task's own order: level/TASK, level/TASK/SUBJECT."""
        return {
            "/".join(filter(None, (key.partition("/")[0], name, key.partition("/")[2]))): value
            for name, (_, order) in self._orders.items()
            for key, value in order.metrics().items()
        }
