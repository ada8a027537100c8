"""Which problem comes next.

    shuffled    epoch after epoch, each in a random order of its own
    adaptive    problems whose pass rate is near the target (0.5: the most contrast within a group) come more often:
                MoPPS, "Can Prompt Difficulty be Online Predicted ..." (arXiv 2507.04632)

Each problem x has a Beta belief about its pass rate, which starts at Beta(1, 1). A group with s passes and f failures
turns it into

    a_x <- decay a_x + (1 - decay) 1 + s        b_x <- decay b_x + (1 - decay) 1 + f

because what was seen of an older policy counts less. Position k of the run looks at the next `candidates` problems of
the shuffled epochs, draws p_x ~ Beta(a_x, b_x) for each (Thompson sampling: what is not known well is tried again),
and takes the one with the smallest |p_x - target|. No completion is sampled only to find out how hard a problem is.

Departure from the paper, which takes the best B of one random set for a batch of B: each position has a set of its
own, all disjoint within an epoch. So a problem is a candidate once every n / candidates positions, and a refill in the
middle of a step needs no other rule. A reward that is no verdict counts as its value, cut to 0..1.

Degenerate cases: one candidate is `shuffled`; without anything recorded, the choice is random.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from grpo.config import CurriculumSettings
from rewards import Reward

PRIOR = 1.0  # both parameters of a belief that nothing is known about: uniform


class PromptOrder(Protocol):
    """Which of n problems is asked at each position of a run.

    Deterministic in the seed, the position and what was recorded before the call: to repeat on resume, call `record`
    in the order of the steps (not of arrival), and `at` for a step's positions once, at the same point between them.
    """

    def at(self, position: int) -> int:
        """The index, 0..n-1, of the problem at `position`, which counts from 0 over the whole run."""
        ...

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        """Take note of what a group of problem `index` was rewarded with."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that was recorded, as JSON takes it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def prompt_order(settings: CurriculumSettings, n: int, per_step: int, seed: int) -> PromptOrder:
    """The order that `train.curriculum` asks for, of `n` problems, `per_step` of which make a step.

    A small set gets fewer candidates, so that those of one step are different problems.
    """
    if settings.order == "shuffled":
        return ShuffledEpochs(n, seed)
    candidates = max(1, min(settings.candidates, n // per_step))
    return AdaptiveOrder(n, seed, candidates, settings.target, settings.decay)


class ShuffledEpochs:
    """A `PromptOrder` that has nothing to remember."""

    def __init__(self, n: int, seed: int) -> None:
        self._n, self._seed = n, seed
        self._epoch, self._order = -1, list[int]()

    def at(self, position: int) -> int:
        epoch, place = divmod(position, self._n)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._n))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
        return self._order[place]

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class AdaptiveOrder:
    """A `PromptOrder` that prefers problems with a pass rate near `target`, see above."""

    def __init__(self, n: int, seed: int, candidates: int = 16, target: float = 0.5, decay: float = 0.5) -> None:
        self._epochs, self._seed = ShuffledEpochs(n, seed), seed
        self._candidates, self._target, self._decay = candidates, target, decay
        self._beliefs: dict[int, tuple[float, float]] = {}  # of the problems that were seen

    def at(self, position: int) -> int:
        first = position * self._candidates
        indices = [self._epochs.at(k) for k in range(first, first + self._candidates)]
        stream = random.Random(f"{self._seed}/adaptive/{position}")
        distances = [abs(stream.betavariate(*self._belief(index)) - self._target) for index in indices]
        return indices[distances.index(min(distances))]

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        """Completions that could not be scored say nothing; a group of none but these leaves the belief as it is."""
        passes = _passes(rewards)
        if passes:
            passed, kept = sum(passes), (1 - self._decay) * PRIOR
            a, b = self._belief(index)
            self._beliefs[index] = (self._decay * a + kept + passed, self._decay * b + kept + len(passes) - passed)

    def state_dict(self) -> dict[str, Any]:
        return {"beliefs": [[index, *belief] for index, belief in self._beliefs.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._beliefs = {index: (a, b) for index, a, b in state["beliefs"]}

    def _belief(self, index: int) -> tuple[float, float]:
        return self._beliefs.get(index, (PRIOR, PRIOR))


def _passes(rewards: Sequence[Reward]) -> list[float]:
    """How far each completion passed, 0..1, of those that were scored."""
    values = [reward.value if reward.score is None else reward.score.value for reward in rewards]
    return [min(max(value, 0.0), 1.0) for value in values if value is not None]
